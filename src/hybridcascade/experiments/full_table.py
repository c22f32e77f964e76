"""A comparison with all its metrics: a metric a row, a method a column, so that many metrics fit a page. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from hybridcascade.config import one_of, split_names
from hybridcascade.evaluation.ranks import RANKED
from hybridcascade.evaluation.tables import (
    LOWER_IS_BETTER,
    METRICS,
    Table,
    format_metric,
    format_summary,
    metric_title,
    to_markdown,
)
from hybridcascade.experiments.summary import Compared

__all__ = ["full_markdown", "full_tables", "metric_names"]

_RANK = "average_rank"


def metric_names(text: str | None) -> tuple[str, ...]:
    """Return the metrics that `--metrics` names, `all` and None being all of them.

    Raises:
        UnknownNameError: one that does not exist.
    """
    words = split_names(text or "all")
    if words == ["all"]:
        return (*METRICS, _RANK)
    for word in words:
        one_of("metric", word, (*METRICS, _RANK, "all"))
    return tuple(dict.fromkeys(words))


def full_tables(compared: Sequence[Compared], metrics: Sequence[str] = (*METRICS, _RANK)) -> list[Table]:
    """Lay out metrics, a table a recipe; what a recipe's rows were not measured by is left out.

    Args:
        compared: from `summary.compare_rows`.
        metrics: names of `evaluation.tables.METRICS`, or `average_rank`.
    """
    recipes = dict.fromkeys(one.recipe for one in compared)
    return [_table([one for one in compared if one.recipe == recipe], metrics) for recipe in recipes]


def full_markdown(compared: Sequence[Compared]) -> str:
    """Write all metrics of all recipes as Markdown, a heading a recipe."""
    tables = full_tables(compared)
    recipes = dict.fromkeys(one.recipe for one in compared)
    return "\n".join(f"## {name}\n\n{to_markdown(table)}" for name, table in zip(recipes, tables, strict=True))


def _table(rows: Sequence[Compared], metrics: Sequence[str]) -> Table:
    names = [name for name in metrics if all(name in one.summary.metrics for one in rows)]
    cells = [(metric_title(name), *(format_summary(name, one.summary.metrics[name]) for one in rows)) for name in names]
    values = [[format_metric(name, one.mean(name)) for one in rows] for name in names]
    if _RANK in metrics and all(one.average_rank is not None for one in rows):
        ranks = [f"{one.average_rank:.2f}" for one in rows]
        names, values = [*names, _RANK], [*values, ranks]
        cells.append(("average rank ↓", *ranks))
    return Table(
        header=("metric", *(f"{one.method} (labels)" if one.summary.uses_labels else one.method for one in rows)),
        rows=tuple(cells),
        numeric=(False, *(True for _ in rows)),
        caption=_caption(rows, _RANK in names),
        best=frozenset(cell for i, name in enumerate(names) for cell in _best(i, name, values[i], rows)),
    )


def _best(row: int, name: str, shown: Sequence[str], rows: Sequence[Compared]) -> list[tuple[int, int]]:
    """Cells of the best label-free row; equal figures on the page are equally bold."""
    free = [column for column, one in enumerate(rows) if not one.summary.uses_labels]
    if len(free) < 2:
        return []
    choose = min if name in LOWER_IS_BETTER or name == _RANK else max
    top = choose(float(shown[column]) for column in free)
    return [(row, column + 1) for column in free if float(shown[column]) == top]


def _caption(rows: Sequence[Compared], ranked: bool) -> str:
    seeds = rows[0].summary.seeds
    said = [next((one.words for one in rows if one.words), "")]
    said.append(f"Last epoch, test split, {len(seeds)} seeds: mean ± half of the 95% interval (Student's t).")
    if any(one.summary.uses_labels for one in rows):
        said.append("(labels): trained on targets.")
    if ranked:
        said.append(f"Average rank: of all columns, over {', '.join(RANKED)}.")
    return " ".join(word for word in said if word)
