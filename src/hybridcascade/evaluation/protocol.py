"""The honest protocol: what is reported, and how sure it is. Pure Python, no torch.

A result is the metrics of the *last* checkpoint on the test split, computed once, for several seeds; a table
shows the mean with a 95% interval of Student's t, and two methods are compared on the same seeds in pairs.
Three or five seeds are few: the interval says so by being wide, and with one seed there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from hybridcascade.errors import DataError

__all__ = [
    "MethodSummary",
    "PairedDifference",
    "ResultRow",
    "Summary",
    "paired_difference",
    "results_dict",
    "student_t_cdf",
    "student_t_quantile",
    "summarize",
    "summarize_rows",
]


_ROUNDING = 1e-12
"""What float64 may lose in a difference and a mean, relative to the numbers that are subtracted, with room to spare."""


@dataclass(frozen=True)
class ResultRow:
    """One evaluation of one trained method.

    Attributes:
        method: registry key.
        seed: of the training run.
        metrics: as `evaluation.metrics.score` gives them.
        trained_parameters: how many numbers the optimiser changed; None where unknown.
        seconds: wall time of training and evaluation; None where unknown.
        uses_labels: trained on true labels (a reference, not a competitor of label-free methods).
    """

    method: str
    seed: int
    metrics: Mapping[str, float]
    trained_parameters: int | None = None
    seconds: float | None = None
    uses_labels: bool = False


@dataclass(frozen=True)
class Summary:
    """Mean over seeds with its interval.

    Attributes:
        mean: arithmetic mean.
        half_width: of the t interval around the mean; None with one value.
        deviation: sample standard deviation (n - 1); None with one value.
        count: number of values.
    """

    mean: float
    half_width: float | None
    deviation: float | None
    count: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """Lower and upper end, or None with one value."""
        return None if self.half_width is None else (self.mean - self.half_width, self.mean + self.half_width)


@dataclass(frozen=True)
class PairedDifference:
    """Mean of `first - second` over common seeds, with its interval and two-sided p-value.

    Attributes:
        difference: summary of the pairwise differences.
        p_value: of the paired t test of "no difference", in [0, 1]; None where the test says nothing: with one
            pair, and with differences that are all the same but for rounding and not 0.
    """

    difference: Summary
    p_value: float | None


@dataclass(frozen=True)
class MethodSummary:
    """All seeds of one method.

    Attributes:
        method: registry key.
        seeds: in the order of the rows.
        metrics: summary by metric.
        trained_parameters: of the first row that knows it.
        seconds: mean wall time of the rows that know it.
        uses_labels: whether the method trained on true labels.
    """

    method: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Summary] = field(default_factory=dict)
    trained_parameters: int | None = None
    seconds: float | None = None
    uses_labels: bool = False


def summarize(values: Iterable[float], confidence: float = 0.95) -> Summary:
    """Summarise one metric over seeds.

    Args:
        values: one number a seed, at least one, all finite.
        confidence: of the interval, in (0, 1).

    Raises:
        DataError: no value, or one that is not finite.
    """
    numbers = [float(v) for v in values]
    if not numbers:
        raise DataError("cannot summarise no values: at least one seed is needed")
    if not all(math.isfinite(v) for v in numbers):
        raise DataError(f"cannot summarise values that are not finite: {numbers}")
    count = len(numbers)
    mean = math.fsum(numbers) / count
    if count == 1:
        return Summary(mean, None, None, 1)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / (count - 1))
    quantile = student_t_quantile(0.5 + confidence / 2, count - 1)
    return Summary(mean, quantile * deviation / math.sqrt(count), deviation, count)


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], confidence: float = 0.95
) -> PairedDifference:
    """Compare two methods seed by seed.

    Args:
        first: metric by seed.
        second: metric by seed, over the same seeds.
        confidence: of the interval, in (0, 1).

    Raises:
        DataError: the seeds differ (dropping some silently would choose the pairs), or there are none.
    """
    if first.keys() != second.keys():
        raise DataError(f"paired comparison needs the same seeds, got {sorted(first)} and {sorted(second)}")
    difference = summarize((first[seed] - second[seed] for seed in sorted(first)), confidence)
    if difference.deviation is None:
        return PairedDifference(difference, None)
    rounding = _ROUNDING * max(abs(value) for value in (*first.values(), *second.values()))
    if difference.deviation <= rounding:  # no spread: t would be the mean over a rounding error
        return PairedDifference(difference, 1.0 if abs(difference.mean) <= rounding else None)
    t = difference.mean / (difference.deviation / math.sqrt(difference.count))
    return PairedDifference(difference, 2.0 * student_t_cdf(-abs(t), difference.count - 1))


def summarize_rows(rows: Sequence[ResultRow]) -> list[MethodSummary]:
    """Group rows by method, in the order of first appearance.

    Raises:
        DataError: a method has a seed twice, or rows with different metrics.
    """
    groups: dict[str, list[ResultRow]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    return [_summarize_method(name, group) for name, group in groups.items()]


def _summarize_method(name: str, rows: list[ResultRow]) -> MethodSummary:
    seeds = tuple(row.seed for row in rows)
    if len(set(seeds)) != len(seeds):
        raise DataError(f"method {name!r} has a seed twice: {list(seeds)}")
    keys = list(rows[0].metrics)
    for row in rows:
        if set(row.metrics) != set(keys):
            raise DataError(f"rows of method {name!r} have different metrics: {sorted(keys)}, {sorted(row.metrics)}")
    times = [row.seconds for row in rows if row.seconds is not None]
    return MethodSummary(
        method=name,
        seeds=seeds,
        metrics={key: summarize(row.metrics[key] for row in rows) for key in keys},
        trained_parameters=next((r.trained_parameters for r in rows if r.trained_parameters is not None), None),
        seconds=sum(times) / len(times) if times else None,
        uses_labels=any(row.uses_labels for row in rows),
    )


def results_dict(rows: Sequence[ResultRow], ceiling: Mapping[str, float]) -> dict[str, object]:
    """Return the content of `results.json`: `{"ceiling": {...}, "rows": [{"method", "seed", "metrics", ...}]}`."""
    return {
        "ceiling": dict(ceiling),
        "rows": [
            {
                "method": row.method,
                "seed": row.seed,
                "metrics": dict(row.metrics),
                "trained_parameters": row.trained_parameters,
                "seconds": row.seconds,
                "uses_labels": row.uses_labels,
            }
            for row in rows
        ],
    }


def student_t_cdf(t: float, degrees: float) -> float:
    """Probability that Student's t with `degrees` of freedom (> 0) is at most `t`.

    P(T <= -|t|) = I_x(v/2, 1/2) / 2 with x = v / (v + t^2), I the regularised incomplete beta function
    (Abramowitz and Stegun 26.7.1); checked in the tests against printed tables.
    """
    if degrees <= 0:
        raise DataError(f"degrees of freedom must be positive, got {degrees}")
    tail = 0.5 * _regularized_beta(degrees / (degrees + t * t), degrees / 2, 0.5)
    return tail if t < 0 else 1.0 - tail


def student_t_quantile(probability: float, degrees: float) -> float:
    """Inverse of `student_t_cdf`, by bisection to the last bit that float64 has.

    Args:
        probability: in (0, 1).
        degrees: degrees of freedom, positive.
    """
    if not 0.0 < probability < 1.0:
        raise DataError(f"a quantile needs a probability between 0 and 1, got {probability}")
    if probability < 0.5:
        return -student_t_quantile(1.0 - probability, degrees)
    low, high = 0.0, 1.0
    while student_t_cdf(high, degrees) < probability:
        high *= 2.0
    while low < (middle := 0.5 * (low + high)) < high:
        if student_t_cdf(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return high


def _regularized_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) for x in [0, 1], by the continued fraction of Abramowitz and Stegun 26.5.8 (Lentz's method)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on the other side of this point
        return 1.0 - _regularized_beta(1.0 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    tiny = 1e-300
    c, d, fraction = 1.0, 0.0, 1.0
    for i in range(500):
        m = i // 2
        if i == 0:
            numerator = 1.0
        elif i % 2 == 0:
            numerator = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            numerator = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1.0 / ((1.0 + numerator * d) or tiny)
        c = (1.0 + numerator / c) or tiny
        fraction *= c * d
        if abs(1.0 - c * d) < 1e-15:
            break
    return math.exp(log_front) * (fraction - 1.0) / a
