"""From finished rows to what is said of them: means, paired differences, shares. Needs no torch.

Shares are ratios of means over the seeds, not means of ratios: a seed on which the shift took little would count
for more than all others.

    share of the shift recovered  = (method - zero-shot) / (zero-shot without the shift - zero-shot)
    share of the label gap closed = (method - zero-shot) / (linear_probe - zero-shot)

They are left out where the denominator points the wrong way (the shift took nothing, labels did not help).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybridcascade.errors import SettingsError
from hybridcascade.evaluation.protocol import (
    MethodSummary,
    PairedDifference,
    ResultRow,
    paired_difference,
    summarize_rows,
)
from hybridcascade.evaluation.ranks import RANKED, average_ranks

__all__ = ["FLOOR", "REFERENCE", "Compared", "ComparedRow", "compare_rows", "share", "to_json"]

FLOOR, REFERENCE = "zero_shot", "linear_probe"
"""Rows that the shares are measured from and to."""

_PAIRED = ("accuracy", "kl")


@dataclass(frozen=True)
class ComparedRow:
    """One finished row as the store has it.

    Attributes:
        recipe: name of the recipe.
        row: label, seed, metrics, trained parameters, seconds of training, whether targets were used.
        clean: metrics without the shift, of zero-shot only.
        words: which data and which model.
    """

    recipe: str
    row: ResultRow
    clean: Mapping[str, float] | None = None
    words: str = ""


@dataclass(frozen=True)
class Compared:
    """All seeds of one method in one recipe, beside the baseline.

    Attributes:
        recipe: name of the recipe.
        summary: means and intervals.
        baseline: what the differences are to.
        differences: paired difference by metric; empty for the baseline itself.
        shift_recovered: share of the accuracy that the shift took, or None where it cannot be said.
        gap_closed: share of the label gap by metric (accuracy, kl), None where it cannot be said.
        words: which data and which model.
        average_rank: mean of the row's places among all rows of the recipe, over the six metrics of distributions
            (`evaluation.ranks.RANKED`), 1 at best; None for rows that were stored before these were measured.
    """

    recipe: str
    summary: MethodSummary
    baseline: str
    differences: Mapping[str, PairedDifference]
    shift_recovered: float | None
    gap_closed: Mapping[str, float | None]
    words: str = ""
    average_rank: float | None = None

    @property
    def method(self) -> str:
        """Label of the row."""
        return self.summary.method

    def mean(self, metric: str) -> float:
        """Mean of a metric over the seeds."""
        return self.summary.metrics[metric].mean

    def p_value(self, metric: str = "accuracy") -> float | None:
        """Of the paired t test against the baseline; None for the baseline and for one seed."""
        found = self.differences.get(metric)
        return None if found is None else found.p_value


def share(value: float, start: float, end: float, higher_is_better: bool = True) -> float | None:
    """Return how far `value` is on the way from `start` to `end`.

    Args:
        value: of the method.
        start: of the floor; gives 0.
        end: of the reference; gives 1. Shares below 0 and above 1 are possible.
        higher_is_better: of the metric.

    Returns:
        The share, or None when `end` is not better than `start`.
    """
    way = end - start
    better = way if higher_is_better else -way
    return (value - start) / way if better > 1e-12 else None


def compare_rows(rows: Sequence[ComparedRow], baseline: str) -> list[Compared]:
    """Summarise rows recipe by recipe, methods in the order of first appearance.

    Args:
        rows: all methods of a recipe over the same seeds.
        baseline: label that the paired differences are to.

    Raises:
        SettingsError: a recipe has no row of the baseline.
        DataError: methods have different seeds.
    """
    compared = []
    for recipe in dict.fromkeys(row.recipe for row in rows):
        compared += _compare_recipe(recipe, [row for row in rows if row.recipe == recipe], baseline)
    return compared


def _compare_recipe(recipe: str, rows: Sequence[ComparedRow], baseline: str) -> list[Compared]:
    summaries = {summary.method: summary for summary in summarize_rows(_common([row.row for row in rows]))}
    if baseline not in summaries:
        raise SettingsError(f"{recipe}: there is no row of the baseline {baseline!r}; rows: {', '.join(summaries)}")
    clean = [row.clean["accuracy"] for row in rows if row.row.method == FLOOR and row.clean is not None]
    places = _average_ranks(summaries)
    found = []
    for label, summary in summaries.items():
        differences = {} if label == baseline else _differences(rows, label, baseline)
        found.append(
            Compared(
                recipe=recipe, summary=summary, baseline=baseline, differences=differences,
                shift_recovered=_recovered(summaries, summary, clean),
                gap_closed={metric: _closed(summaries, summary, metric) for metric in _PAIRED},
                words=next((row.words for row in rows if row.words), ""), average_rank=places.get(label),
            )
        )  # fmt: skip
    return found


def _common(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The rows with the metrics that all of them have: a store may hold rows of a version that measured fewer."""
    names = [name for name in rows[0].metrics if all(name in row.metrics for row in rows)]
    return [dataclasses.replace(row, metrics={name: row.metrics[name] for name in names}) for row in rows]


def _average_ranks(summaries: Mapping[str, MethodSummary]) -> dict[str, float]:
    if any(name not in summary.metrics for summary in summaries.values() for name in RANKED):
        return {}
    return average_ranks({label: {n: s.metrics[n].mean for n in RANKED} for label, s in summaries.items()})


def _differences(rows: Iterable[ComparedRow], first: str, second: str) -> dict[str, PairedDifference]:
    taken = list(rows)

    def by_seed(label: str, metric: str) -> dict[int, float]:
        return {row.row.seed: row.row.metrics[metric] for row in taken if row.row.method == label}

    return {metric: paired_difference(by_seed(first, metric), by_seed(second, metric)) for metric in _PAIRED}


def _recovered(summaries: Mapping[str, MethodSummary], summary: MethodSummary, clean: Sequence[float]) -> float | None:
    if FLOOR not in summaries or not clean:
        return None
    start = summaries[FLOOR].metrics["accuracy"].mean
    return share(summary.metrics["accuracy"].mean, start, math.fsum(clean) / len(clean))


def _closed(summaries: Mapping[str, MethodSummary], summary: MethodSummary, metric: str) -> float | None:
    if FLOOR not in summaries or REFERENCE not in summaries:
        return None
    start, end = (summaries[name].metrics[metric].mean for name in (FLOOR, REFERENCE))
    return share(summary.metrics[metric].mean, start, end, metric != "kl")


def to_json(rows: Sequence[ComparedRow], compared: Sequence[Compared]) -> dict[str, Any]:
    """Return `{"rows": [...], "summary": [...]}` of plain values.

    Times are not in it: a comparison that was killed and started again gives the same document.
    """
    several = len({row.recipe for row in rows}) > 1
    return {
        "rows": [
            {"method": r.row.method, "recipe": r.recipe, "seed": r.row.seed, "metrics": dict(r.row.metrics)}
            for r in rows
        ],
        "summary": [_summary_json(one, several) for one in compared],
    }


def _summary_json(one: Compared, several: bool) -> dict[str, Any]:
    recipe = {"recipe": one.recipe} if several else {}
    return recipe | {
        "method": one.method,
        "accuracy": one.mean("accuracy"),
        "kl": one.mean("kl"),
        "shift_recovered": one.shift_recovered,
        "gap_closed": one.gap_closed["accuracy"],
        "p_value": one.p_value(),
        "gap_closed_kl": one.gap_closed["kl"],
        "p_value_kl": one.p_value("kl"),
        "metrics": {
            name: {"mean": found.mean, "half_width": found.half_width} for name, found in one.summary.metrics.items()
        },
        "average_rank": one.average_rank,
        "half_width": {metric: one.summary.metrics[metric].half_width for metric in _PAIRED},
        "seeds": len(one.summary.seeds),
        "trained_parameters": one.summary.trained_parameters,
        "uses_labels": one.summary.uses_labels,
    }
