"""Average rank of methods over several metrics. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybridcascade.errors import DataError
from hybridcascade.evaluation.tables import LOWER_IS_BETTER

__all__ = ["RANKED", "average_ranks", "ranks"]

RANKED = ("chebyshev", "clark", "canberra", "kl", "cosine", "intersection")
"""The six metrics whose ranks papers on label distributions average."""

_SHOWN = 12  # significant digits: what differs by rounding alone is a tie


def ranks(values: Mapping[str, float], lower_is_better: bool) -> dict[str, float]:
    """Return the rank of each method, 1 for the best; methods that tie share the mean of their places.

    >>> ranks({"a": 0.3, "b": 0.1, "c": 0.3}, lower_is_better=True)
    {'a': 2.5, 'b': 1.0, 'c': 2.5}
    """
    keys = {name: float(f"{value:.{_SHOWN}g}") * (1 if lower_is_better else -1) for name, value in values.items()}
    ordered = sorted(keys.values())
    return {name: ordered.index(key) + (ordered.count(key) + 1) / 2 for name, key in keys.items()}


def average_ranks(results: Mapping[str, Mapping[str, float]], metrics: Sequence[str] = RANKED) -> dict[str, float]:
    """Return the mean over `metrics` of each method's rank, 1 at best.

    Args:
        results: metrics by method, as `distribution_score` gives them; at least one method.
        metrics: which of them count; the direction of each is known (`tables.LOWER_IS_BETTER`).

    Raises:
        DataError: no method, no metric, or one that a method lacks or that is NaN.
    """
    if not results or not metrics:
        raise DataError(f"average rank needs methods and metrics, got {len(results)} and {len(metrics)}")
    for method, found in results.items():
        missing = [name for name in metrics if not (name in found and found[name] == found[name])]
        if missing:
            raise DataError(f"average rank: method {method!r} has no {', '.join(missing)}; rank what all methods have")
    by_metric = [
        ranks({method: found[name] for method, found in results.items()}, name in LOWER_IS_BETTER) for name in metrics
    ]
    return {method: sum(places[method] for places in by_metric) / len(metrics) for method in results}
