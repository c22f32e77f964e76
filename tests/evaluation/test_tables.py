"""Tables as a reader gets them: cells, bold, ceiling, caption, three forms of output."""

from __future__ import annotations

import io

import pytest

from hybridcascade.evaluation.protocol import ResultRow
from hybridcascade.evaluation.tables import Table, results_table, to_markdown, to_plain, to_rich

ROWS = [
    ResultRow("zero_shot", 0, {"accuracy": 0.416, "macro_f1": 0.40, "ece": 0.11, "kl": 0.62}, 0, 3.2),
    ResultRow("ours", 0, {"accuracy": 0.466, "macro_f1": 0.45, "ece": 0.15, "kl": 0.42}, 123456, 33.2),
    ResultRow("linear_probe", 0, {"accuracy": 0.52, "macro_f1": 0.5, "ece": 0.05, "kl": 0.38}, uses_labels=True),
]
CAPTION = "Shifted sandbox, nano CLIP, seed 0; hybridcascade demo"


@pytest.fixture
def table():
    return results_table(ROWS, {"accuracy": 0.64, "kl": 0.0}, CAPTION)


def test_cells(table: Table):
    assert table.header[:5] == ("method", "accuracy % ↑", "macro F1 % ↑", "ECE % ↓", "KL ↓")
    assert table.rows[1] == ("ours", "46.6", "45.0", "15.0", "0.420", "123,456", "33.2")
    assert table.rows[2][0] == "linear_probe (labels)"
    assert table.rows[2][5:] == ("–", "–")
    assert table.rows[3][:5] == ("ceiling (best possible)", "64.0", "–", "–", "0.000")
    assert table.footer == 3


def test_bold_marks_the_best_label_free_value_in_the_right_direction(table: Table):
    assert table.best == {(1, 1), (1, 2), (0, 3), (1, 4)}


def test_values_that_look_equal_are_equally_bold():
    rows = [ResultRow("a", 0, {"accuracy": 0.50001}), ResultRow("b", 0, {"accuracy": 0.50002})]
    assert results_table(rows, metrics=("accuracy",)).best == {(0, 1), (1, 1)}


def test_a_single_method_is_not_called_best():
    assert results_table(ROWS[:1]).best == frozenset()


def test_seeds_give_an_interval():
    rows = [ResultRow("a", s, {"accuracy": v}) for s, v in enumerate((0.40, 0.42, 0.44))]
    assert results_table(rows, metrics=("accuracy",)).rows[0][1] == "42.0 ± 5.0"


def test_markdown_is_a_table_with_caption(table: Table):
    lines = to_markdown(table).splitlines()
    assert lines[0].startswith("| method | accuracy % ↑ |")
    assert lines[1].startswith("|---|---:|")
    assert "| **46.6** |" in lines[3]
    assert lines[-1] == f"*{CAPTION}*"
    assert len({line.count("|") for line in lines[:6]}) == 1


def test_markdown_escapes_pipes():
    text = to_markdown(results_table([ResultRow("a|b", 0, {"accuracy": 1.0})], metrics=("accuracy",)))
    assert r"| a\|b |" in text


def test_plain_columns_are_aligned_and_say_the_caption(table: Table):
    lines = to_plain(table).splitlines()
    assert lines[-1] == CAPTION
    assert lines[3].split()[:2] == ["ours", "46.6*"]
    ends = {line.index(value) + len(value) for line, value in zip(lines[2:5], ("41.6", "46.6", "52.0"), strict=True)}
    assert len(ends) == 1, "figures are right-aligned whether starred or not"


@pytest.mark.parametrize("width", [60, 100])
def test_rich_shows_every_figure_even_in_a_narrow_terminal(table: Table, width: int):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(to_rich(table))
    text = console.file.getvalue()
    for figure in ("41.6", "46.6", "0.420", "64.0", "123,456"):
        assert figure in text
    assert "…" not in text
    assert max(len(line) for line in text.splitlines()) <= width
