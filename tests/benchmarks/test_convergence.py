"""The convergence benchmark: figures by hand, and a tiny run that is not repeated."""

import json

import pytest
from benchmarks.__main__ import main
from benchmarks.convergence import Curves, summary_of, table_of

from hybridcascade.errors import DataError
from hybridcascade.evaluation.seed_plots import seed_curves


def run(row, seed, accuracy, fit):
    metrics = {"accuracy": accuracy, "kl": 0.5, "nll": 1.5, "ece": 0.1}
    return Curves(row, seed, metrics, {"fit": fit, "agreement": fit, "loss": fit}, 2.0)


RUNS = [
    run("progressive", 0, 0.5, [2.0, 1.8, 1.9]),
    run("all at once", 0, 0.4, [2.0, 2.5, 1.7]),
    run("progressive", 1, 0.6, [2.0, 1.9, 1.8]),
    run("all at once", 1, 0.3, [2.2, 2.0, 1.9]),
]


def test_summary_has_mean_spread_and_paired_difference():
    found = summary_of(RUNS)
    assert found["progressive"]["accuracy"]["mean"] == pytest.approx(0.55)
    assert found["progressive"]["accuracy"]["deviation"] == pytest.approx(0.05 * 2**0.5)
    assert found["difference"]["accuracy"]["mean"] == pytest.approx(0.2)
    assert found["progressive"]["largest rise of fit"]["mean"] == pytest.approx(0.05)
    assert found["all at once"]["largest rise of fit"]["mean"] == pytest.approx(0.25)
    assert found["all at once"]["last fit"]["mean"] == pytest.approx(1.8)
    lines = table_of(RUNS).splitlines()
    assert lines[2].startswith("| accuracy | 0.5500 ± 0.6353 | 0.0707 | 0.3500 ± 0.6353 | 0.0707 | +0.2000 ± 1.2706 |")


def test_curves_are_drawn_with_every_series():
    svg = seed_curves({"a": [[3.0, 1.0], [2.0, 1.5]], "b": [[1.0, 1.0]]}, "fit", "words", marks=[2])
    assert svg.startswith("<svg")
    assert "a from 2.5 to 1.25 (2 seeds); b from 1 to 1 (1 seeds)" in svg
    with pytest.raises(DataError, match="same length"):
        seed_curves({"a": [[1.0], [1.0, 2.0]]}, "fit")


@pytest.mark.slow
def test_a_tiny_run_is_kept_and_not_repeated(tmp_path, capsys):
    command = ["convergence", "--seeds", "1", "--pictures", "60", "--test", "40", "--epochs", "2", "--text-epochs", "5"]
    command += ["--out", str(tmp_path / "c"), "--device", "cpu"]
    assert main(command) == 0
    first = capsys.readouterr().out
    store = (tmp_path / "c" / "results.jsonl").read_bytes()
    assert len(store.splitlines()) == 2
    content = json.loads((tmp_path / "c" / "convergence.json").read_text())
    starts = {"warm-up": 0, "segment 3": 1, "segment 2": 1, "segment 1": 1, "everything": 1}
    assert content["unfreezing"] == starts
    assert [len(run["curves"]["fit"]) for run in content["runs"]] == [2, 2]
    assert (tmp_path / "c" / "fit.svg").read_text().startswith("<svg")
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "c" / "results.jsonl").read_bytes() == store
