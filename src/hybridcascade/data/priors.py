"""From a label, or from votes, to a distribution over the emotions. Needs no torch.

A prior is a matrix: row k is the distribution that a picture with label k gets. With d the distance of two
classes, sigma the width and epsilon the floor:

* `none`: all on the label.
* `wheel`: f = exp(-d^2 / (2 sigma^2)) / (sqrt(2 pi) sigma) + epsilon / K, divided by the row's sum, d in
  steps on the ring (Yang, She, Sun, IJCAI 2017).
* `wheel_polarity`: the same with d = polarity-aware distance - 1: steps within a polarity, 3 + steps to the
  opposite one. On the wheel alone amusement and anger are neighbours; here they are far apart.
* `exclusion`: as `wheel`, and nothing at all for classes of the opposite polarity (in the paper's second
  prior too a label gives nothing to the other polarity).
* `smoothing`: 1 - epsilon on the label, plus epsilon / K for every class; no geometry.

The label always keeps the largest share of its row, so the class of the joint target, which is the first
maximum of the distribution, is the label that was given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hybridcascade.data.emotions import EmotionSpace
from hybridcascade.data.messages import complaint
from hybridcascade.errors import DataError, SettingsError, UnknownNameError

__all__ = ["DEFAULT_EPSILON", "DEFAULT_SIGMA", "GEOMETRIC_PRIORS", "PRIORS", "prior_matrix", "votes_to_distribution"]

PRIORS: dict[str, str] = {
    "none": "all on the label",
    "wheel": "a Gaussian over the steps on the ring",
    "wheel_polarity": "a Gaussian over the polarity-aware distance: opposite emotions are far (default of a space)",
    "exclusion": "a Gaussian over the steps, nothing for the opposite polarity",
    "smoothing": "a small equal share for every class",
}
"""Names of the priors, with what each does."""

GEOMETRIC_PRIORS = frozenset({"wheel", "wheel_polarity", "exclusion"})
"""Priors that need an emotion space with a ring."""

DEFAULT_SIGMA = 1.0
"""Width of the Gaussian, in steps."""

DEFAULT_EPSILON = 0.1
"""Floor: share of the density that all classes divide among them."""


def prior_matrix(
    kind: str,
    classes: Sequence[str],
    space: EmotionSpace | None = None,
    sigma: float = DEFAULT_SIGMA,
    epsilon: float = DEFAULT_EPSILON,
) -> NDArray[np.float64]:
    """Return the distribution that each label stands for.

    Args:
        kind: a name of `PRIORS`.
        classes: K names, the order of rows and columns; for the geometric priors all of them in `space`,
            which may have more.
        space: needed by the geometric priors, with a ring (and a polarity, but for `wheel`).
        sigma: width in steps, above 0.
        epsilon: floor, 0 or above; for `smoothing` below 1.

    Returns:
        float64 `[K, K]`, rows sum to 1, the largest number of each row on the diagonal.

    Raises:
        UnknownNameError: no such prior, or a class that the space does not have.
        SettingsError: a number out of range, a space that is missing or has no ring or polarity, or a
            sigma so large that a label would no longer stand out in float32.
    """
    if kind not in PRIORS:
        raise UnknownNameError("prior", kind, PRIORS)
    if not 0 < sigma < float("inf") or not 0 <= epsilon < float("inf"):
        raise SettingsError(f"prior {kind!r}: expected sigma above 0 and epsilon 0 or above, got {sigma}, {epsilon}")
    count = len(classes)
    if kind == "none":
        return np.eye(count)
    if kind == "smoothing":
        if epsilon >= 1:
            raise SettingsError(f"prior 'smoothing': expected epsilon below 1, got {epsilon}")
        return (1 - epsilon) * np.eye(count) + epsilon / count
    if space is None:
        remedy = "Name its emotion space (--space mikels8, or a YAML file), or use the prior 'smoothing'"
        raise SettingsError(complaint(f"prior {kind!r}", "an emotion space", "none", remedy))
    far = np.asarray(space.matrix("steps", classes), dtype=np.float64)
    if kind == "wheel_polarity":
        far = np.asarray(space.matrix("polarity", classes), dtype=np.float64) - 1.0
    rows: NDArray[np.float64] = np.exp(-(far**2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma) + epsilon / count
    if kind == "exclusion":
        rows *= [[not space.opposed(label, other) for other in classes] for label in classes]
    rows /= rows.sum(axis=1, keepdims=True)
    single = rows.astype(np.float32)
    others = np.where(np.eye(count, dtype=bool), -1.0, single).max(axis=1)
    if not (np.diag(single) > others).all():
        raise SettingsError(f"prior {kind!r}: sigma {sigma:g} is so large that the label does not stand out; lower it")
    return rows


def votes_to_distribution(votes: ArrayLike, smoothing: float = 0.0) -> NDArray[np.float64]:
    """Return votes as shares, `(votes + smoothing) / (sum + K smoothing)`.

    Args:
        votes: numbers >= 0, `[K]` or `[N, K]`: how many chose each class (or probabilities).
        smoothing: votes added to every class (1 is Laplace's rule); beside probabilities, whose sum is 1,
            it weighs as much as beside a single vote.

    Returns:
        float64, the shape of `votes`; rows sum to 1. Equal votes give equal shares, so ties stay ties.

    Raises:
        DataError: NaN, a negative number, or a row without votes while nothing is added.
        SettingsError: `smoothing` is negative or not finite.
    """
    if not 0 <= smoothing < float("inf"):
        raise SettingsError(f"expected the smoothing of votes to be 0 or above, got {smoothing}")
    table = np.asarray(votes, dtype=np.float64)
    if table.ndim not in (1, 2) or table.shape[-1] < 2:
        raise DataError(f"expected votes [K] or [N, K] with K >= 2, got shape {list(table.shape)}")
    raised = table + smoothing
    wrong = ~(np.isfinite(table) & (table >= 0)).all(axis=-1) | (raised.sum(axis=-1) <= 0)
    if wrong.any():
        row = int(np.flatnonzero(np.atleast_1d(wrong))[0])
        found = str(np.atleast_2d(table)[row].tolist())
        remedy = "Correct the votes, or leave the picture out"
        raise DataError(complaint(f"votes, row {row}", "numbers >= 0 with a positive sum", found, remedy))
    shares: NDArray[np.float64] = raised / raised.sum(axis=-1, keepdims=True)
    return shares
