"""From rows to figures, tables and files: against hand-made numbers."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from hybridcascade.errors import DataError, SettingsError, UnknownNameError
from hybridcascade.evaluation.protocol import ResultRow, paired_difference
from hybridcascade.evaluation.ranks import RANKED, average_ranks
from hybridcascade.evaluation.tables import METRICS, to_markdown, to_plain
from hybridcascade.experiments.full_table import full_markdown, full_tables, metric_names
from hybridcascade.experiments.outputs import comparison_table, to_csv, to_latex, write_outputs
from hybridcascade.experiments.summary import ComparedRow, compare_rows, share, to_json

ACCURACY = {"zero_shot": (0.40, 0.42), "ours": (0.45, 0.49), "linear_probe": (0.50, 0.52)}
KL = {"zero_shot": (0.8, 0.8), "ours": (0.5, 0.7), "linear_probe": (0.4, 0.4)}
CLEAN = (0.50, 0.54)


def row(recipe: str, method: str, seed: int, accuracy: float, kl: float, clean: float | None = None) -> ComparedRow:
    metrics = {"accuracy": accuracy, "kl": kl, "macro_f1": accuracy, "ece": 0.1}
    own = ResultRow(method, seed, metrics, 0 if method == "zero_shot" else 1234, 2.5, method == "linear_probe")
    return ComparedRow(recipe, own, None if clean is None else {"accuracy": clean, "kl": 0.3}, "Made-up data & model.")


def rows(recipe: str = "sand_box") -> list[ComparedRow]:
    found = []
    for method in ACCURACY:
        for seed in (0, 1):
            clean = CLEAN[seed] if method == "zero_shot" else None
            found.append(row(recipe, method, seed, ACCURACY[method][seed], KL[method][seed], clean))
    return found


def test_shares_are_ratios_of_means_and_differences_are_paired() -> None:
    found = {one.method: one for one in compare_rows(rows(), "zero_shot")}
    ours = found["ours"]
    assert ours.mean("accuracy") == pytest.approx(0.47)
    assert ours.shift_recovered == pytest.approx((0.47 - 0.41) / (0.52 - 0.41))
    assert ours.gap_closed["accuracy"] == pytest.approx((0.47 - 0.41) / (0.51 - 0.41))
    assert ours.gap_closed["kl"] == pytest.approx((0.6 - 0.8) / (0.4 - 0.8))
    naive = paired_difference({0: 0.45, 1: 0.49}, {0: 0.40, 1: 0.42})
    assert ours.differences["accuracy"] == naive
    assert ours.p_value() == naive.p_value
    assert found["zero_shot"].shift_recovered == 0.0
    assert found["zero_shot"].p_value() is None
    assert found["linear_probe"].gap_closed["kl"] == 1.0
    with pytest.raises(SettingsError, match="baseline 'nobody'"):
        compare_rows(rows(), "nobody")
    with pytest.raises(DataError, match="same seeds"):
        compare_rows(rows()[:-1], "zero_shot")


def test_a_share_that_means_nothing_is_left_out() -> None:
    assert share(0.5, 0.4, 0.6) == pytest.approx(0.5)
    assert share(0.3, 0.4, 0.6) == pytest.approx(-0.5)
    assert share(0.7, 0.8, 0.6, higher_is_better=False) == pytest.approx(0.5)
    for end in (0.4, 0.3):
        assert share(0.5, 0.4, end) is None
    assert share(0.5, 0.4, 0.6, higher_is_better=False) is None
    bare = [r for r in rows() if r.row.method == "ours"]
    (alone,) = compare_rows(bare, "ours")
    assert (alone.shift_recovered, alone.gap_closed) == (None, {"accuracy": None, "kl": None})


def test_the_json_has_the_agreed_shape_and_no_times() -> None:
    found = to_json(rows(), compare_rows(rows(), "zero_shot"))
    assert set(found) == {"rows", "summary"}
    assert found["rows"][2] == {"method": "ours", "recipe": "sand_box", "seed": 0, "metrics": rows()[2].row.metrics}
    assert {"method", "accuracy", "kl", "shift_recovered", "gap_closed", "p_value"} <= set(found["summary"][1])
    assert [one["method"] for one in found["summary"]] == list(ACCURACY)
    assert isinstance(found["summary"][1]["accuracy"], float)
    assert "recipe" not in found["summary"][0]
    assert "seconds" not in json.dumps(found)
    both = [*rows(), *rows("other")]
    named = [one["recipe"] for one in to_json(both, compare_rows(both, "zero_shot"))["summary"]]
    assert named == ["sand_box"] * 3 + ["other"] * 3


def test_the_table_says_data_model_seeds_and_command() -> None:
    table = comparison_table(compare_rows(rows(), "zero_shot"), "hybridcascade compare --seeds 2")
    assert table.header[0] == "method"
    assert "Δ to zero_shot" in table.header
    ours = dict(zip(table.header, table.rows[1], strict=True))
    assert ours["accuracy % ↑"].startswith("47.0 ± ")
    assert ours["Δ to zero_shot"].startswith("+6.0 ± ")
    assert ours["ΔKL to zero_shot"].startswith("-0.200 ± ")
    assert (ours["shift recovered %"], ours["gap closed %"], ours["KL gap closed %"]) == ("55", "60", "50")
    assert (ours["trained"], ours["train s"]) == ("1,234", "2.5")
    assert table.rows[2][0] == "linear_probe (labels)"
    assert table.best == {(1, 1), (1, 4)}, "a method trained on labels does not compete"
    for words in ("Made-up data & model.", "2 seeds (0, 1)", "95% interval", "paired t test", "compare --seeds 2"):
        assert words in table.caption
    pair = [row for row in rows() if row.row.method in ("zero_shot", "ours")]
    assert "not corrected for 1 comparison." in comparison_table(compare_rows(pair, "zero_shot")).caption
    both = comparison_table(compare_rows([*rows(), *rows("other")], "zero_shot"))
    assert [cells[0] for cells in both.rows] == ["sand_box"] * 3 + ["other"] * 3
    assert len(both.best) == 4
    for text in (to_plain(both), to_markdown(both)):
        assert len({len(line.split("|")) for line in text.splitlines()[:8]}) == 1


def test_the_caption_says_how_many_rows_another_state_of_the_code_made() -> None:
    compared = compare_rows(rows(), "zero_shot")
    assert "4 of 6 rows: made by another state of the code." in comparison_table(compared, other_code=4).caption
    assert "state of the code" not in comparison_table(compared).caption


def test_a_p_value_that_says_nothing_is_a_dash() -> None:
    same = [row("r", name, seed, a, a) for name, a in (("zero_shot", 0.40), ("ours", 0.45)) for seed in (0, 1)]
    compared = compare_rows(same, "zero_shot")
    table = comparison_table(compared)
    assert dict(zip(table.header, table.rows[1], strict=True))["p"] == "–"
    assert to_json(same, compared)["summary"][1]["p_value"] is None
    assert list(csv.DictReader(io.StringIO(to_csv(compared))))[1]["accuracy_p"] == ""


def test_latex_escapes_and_csv_has_plain_numbers() -> None:
    compared = compare_rows(rows(), "zero_shot")
    tex = to_latex(comparison_table(compared, "x_y"))
    assert r"linear\_probe (labels)" in tex
    assert r"\textbf{47.0 $\pm$ " in tex
    assert r"Made-up data \& model." in tex
    body = tex[tex.index(r"\midrule") : tex.index(r"\bottomrule")].splitlines()[1:]
    assert len(body) == 3
    assert {line.count(" & ") for line in body} == {11}
    assert "±" not in tex
    read = list(csv.DictReader(io.StringIO(to_csv(compared))))
    assert [line["method"] for line in read] == list(ACCURACY)
    assert float(read[1]["accuracy"]) == pytest.approx(0.47)
    assert float(read[1]["kl_difference"]) == pytest.approx(-0.2)
    assert float(read[1]["shift_recovered"]) == pytest.approx(0.06 / 0.11)
    assert read[0]["accuracy_p"] == ""
    assert read[2]["uses_labels"] == "True"


def test_files_are_written_with_a_plot_for_each_recipe(tmp_path: Path) -> None:
    everything = [*rows(), *rows("o/ther")]
    compared = compare_rows(everything, "zero_shot")
    write_outputs(tmp_path, everything, compared, "the command", {"sand_box": 0.8})
    assert {p.name for p in tmp_path.iterdir()} == {
        "table.md", "full.md", "table.csv", "table.tex", "results.json", "accuracy_time_sand_box.svg",
        "accuracy_time_sand_box.png", "accuracy_time_o_ther.svg", "accuracy_time_o_ther.png",
    }  # fmt: skip
    svg = (tmp_path / "accuracy_time_sand_box.svg").read_text()
    assert svg.startswith("<svg")
    for words in ("ours", "linear_probe (labels)", "zero_shot (trains nothing)", "ceiling", "training time in seconds"):
        assert words in svg
    assert "ceiling (best" not in (tmp_path / "accuracy_time_o_ther.svg").read_text()
    assert (tmp_path / "accuracy_time_o_ther.png").read_bytes().startswith(b"\x89PNG")
    assert "the command" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "results.json").read_text()) == to_json(everything, compared)


def measured(method: str, seed: int, step: int) -> ComparedRow:
    """A row with all metrics: the n-th is n / 100, a hundredth more a `step` and a thousandth more a seed."""
    metrics = {name: (n + step + seed / 10) / 100 for n, name in enumerate(METRICS)}
    return ComparedRow("full", ResultRow(method, seed, metrics, 1, 1.0, method == "probe"), None, "Made-up data.")


def test_the_full_table_has_every_metric_and_the_average_rank() -> None:
    made = [measured(m, seed, step) for m, step in (("a", 0), ("b", 1), ("probe", 2)) for seed in (0, 1)]
    compared = compare_rows(made, "a")
    means = {one.method: {name: one.mean(name) for name in RANKED} for one in compared}
    naive = average_ranks(means)
    assert {one.method: one.average_rank for one in compared} == naive
    (table,) = full_tables(compared)
    assert table.header == ("metric", "a", "b", "probe (labels)")
    assert len(table.rows) == len(METRICS) + 1
    by_title = {row[0]: row[1:] for row in table.rows}
    place = METRICS.index("chebyshev")
    assert by_title["Chebyshev ↓"][0].startswith(f"{(place + 0.05) / 100:.3f} ± ")
    assert by_title["average rank ↓"] == tuple(f"{naive[name]:.2f}" for name in ("a", "b", "probe"))
    bold = {(table.rows[i][0], table.header[j]) for i, j in table.best}
    assert ("KL ↓", "a") in bold
    assert ("cosine ↑", "b") in bold, "the probe has labels and does not compete"
    assert not any(column == "probe (labels)" for _, column in bold)
    told = to_json(made, compared)["summary"][1]
    assert set(told["metrics"]) == set(METRICS)
    assert told["metrics"]["clark"]["mean"] == pytest.approx(means["b"]["clark"])
    assert told["average_rank"] == naive["b"]
    assert full_markdown(compared).startswith("## full\n\n| metric | a | b | probe (labels) |")
    header, first = list(csv.reader(io.StringIO(to_csv(compared))))[:2]
    assert first[header.index("average_rank")] == str(naive["a"])
    assert float(first[header.index("intersection")]) == pytest.approx(means["a"]["intersection"])


def test_chosen_metrics_and_rows_that_were_measured_by_fewer() -> None:
    assert metric_names(None) == metric_names("all") == (*METRICS, "average_rank")
    assert metric_names("kl, average_rank,kl") == ("kl", "average_rank")
    with pytest.raises(UnknownNameError, match="Did you mean 'cosine'"):
        metric_names("cosin")
    old = [*rows(), *[measured("new", seed, 0) for seed in (0, 1)]]
    old = [ComparedRow("one", r.row, r.clean, r.words) for r in old]
    compared = compare_rows(old, "zero_shot")
    assert [one.average_rank for one in compared] == [None] * 4
    (table,) = full_tables(compared, ("cosine", "kl", "accuracy", "average_rank"))
    assert [row[0] for row in table.rows] == ["KL ↓", "accuracy % ↑"]
