"""The weights of the criterion without labels. Importing it imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from hybridcascade.errors import DataError

__all__ = ["WATCHED", "WEIGHTS", "weighted_mean"]

WEIGHTS: dict[str, float] = {"views": 0.5, "stages": 0.25, "balance": 0.25}
"""Weights of the parts that count; one that is not there is left out and the others keep their ratios."""

WATCHED: tuple[str, ...] = ("margin", "stability")
"""Parts that are measured and shown and count nothing; why stands in `evaluation.criterion`."""


def weighted_mean(parts: Mapping[str, float], names: Iterable[str] | None = None) -> float:
    """Return the criterion: the weighted mean of the parts, 0..1.

    Args:
        parts: from `evaluation.criterion.criterion_parts`.
        names: the parts to use; None for all that count. Compare two models by the same ones only.

    Raises:
        DataError: none of the parts that count is there.
    """
    used = [name for name in (parts if names is None else names) if name in parts and name in WEIGHTS]
    if not used:
        raise DataError(f"the criterion needs one of {', '.join(WEIGHTS)}, got {', '.join(parts) or 'none'}")
    return math.fsum(WEIGHTS[name] * parts[name] for name in used) / math.fsum(WEIGHTS[name] for name in used)
