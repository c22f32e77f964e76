"""One number that makes a model as sure as it is right, fitted on labelled pictures."""

from __future__ import annotations

import math

from torch import Tensor

from hybridcascade.errors import DataError
from hybridcascade.evaluation.metrics import as_distributions

__all__ = ["HIGHEST", "LOWEST", "fit_temperature"]

LOWEST, HIGHEST = 0.05, 20.0
"""Range of a fitted temperature. A model that is right on every picture asks for 0, one that is worse than a guess
for infinity; neither is worth believing of a few pictures."""


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """Return the T whose `softmax(logits / T)` has the least cross-entropy to the truth (Guo et al., ICML 2017).

    The least KL(truth || prediction) is at the same T. The loss is convex in 1 / T, so its slope has one zero,
    which bisection finds; nothing is drawn at random and nothing can diverge.

    Args:
        logits: scores of N labelled pictures over K classes, `[N, K]`, finite.
        truth: true distributions, one-hot for plain labels, `[N, K]`.

    Returns:
        T in `[LOWEST, HIGHEST]`.

    Raises:
        DataError: wrong shapes, or scores that are not finite.
    """
    scores, true = logits.detach().double().cpu(), as_distributions(truth, "truth").cpu()
    if scores.shape != true.shape:
        raise DataError(f"logits {list(scores.shape)} and truth {list(true.shape)} differ in shape")
    if not bool(scores.isfinite().all()):
        raise DataError(f"logits must be finite, row {int((~scores.isfinite()).any(dim=1).int().argmax())} is not")
    wanted = (true * scores).sum(dim=1).mean()
    low, high = LOWEST, HIGHEST
    for _ in range(60):
        middle = math.sqrt(low * high)
        found = ((scores / middle).softmax(dim=1) * scores).sum(dim=1).mean()
        low, high = (middle, high) if found > wanted else (low, middle)
    return math.sqrt(low * high)
