"""The generative model of the sandbox: emotions cause attributes, attributes make the picture.

An emotion e is drawn uniformly from Mikels' eight; each of five attributes of an abstract painting is
then drawn from p(attribute | e), independently given e. The exact posterior

    p(e | a) = prod_j p(a_j | e) / sum_e' prod_j p(a_j | e')

is therefore known for every picture: it is the true distribution label, votes are drawn from it, and its
argmax is the Bayes classifier, whose accuracy is the ceiling of every figure quoted on the sandbox.
The world is invented; nothing about people's emotions may be concluded from it.
"""

from __future__ import annotations

import itertools
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ATTRIBUTES",
    "EMOTIONS",
    "bayes_ceiling",
    "conditional",
    "draw_votes",
    "posterior",
    "sample_attributes",
    "stream",
]

EMOTIONS: Final = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")
"""Class names, in the order of EmoSet's `info.json` (not alphabetical)."""

ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "palette": ("golden", "scarlet", "violet", "azure", "emerald", "grey", "brown", "pink"),
    "shape": ("circles", "squares", "triangles", "rings", "bars", "crosses"),
    "density": ("few", "some", "many", "crowded"),
    "tone": ("dark", "muted", "pale", "vivid"),
    "edge": ("soft", "crisp", "ragged"),
}
"""Attribute name -> its values; the order of the columns of every attribute array."""

# Preference weights, rows in the order of EMOTIONS; sharpened and normalised by `conditional`.
_WEIGHTS: Final[dict[str, tuple[tuple[float, ...], ...]]] = {
    "palette": (
        (7, 1, 1, 2, 1, 0.5, 0.5, 6),
        (2, 0.5, 5, 7, 1, 1, 0.5, 1),
        (1, 0.5, 1, 3, 8, 0.5, 1, 3),
        (5, 7, 1, 0.5, 1, 0.5, 0.5, 3),
        (1, 9, 1, 0.5, 0.5, 1, 3, 0.5),
        (1, 0.5, 1, 0.5, 5, 1.5, 8, 0.5),
        (0.5, 1, 6, 1, 0.5, 7, 2, 0.5),
        (0.5, 0.5, 2, 6, 0.5, 7, 1.5, 0.5),
    ),
    "shape": (
        (8, 1, 1, 4, 0.5, 1),
        (2, 0.5, 1, 8, 3, 0.5),
        (6, 5, 0.5, 2, 1, 0.5),
        (1, 0.5, 6, 2, 1, 6),
        (0.5, 2, 8, 0.5, 1, 5),
        (3, 5, 1, 1, 1, 5),
        (0.5, 1, 5, 1, 7, 2),
        (1, 5, 0.5, 1.5, 8, 0.5),
    ),
    "density": (
        (0.5, 2, 6, 3),
        (7, 3, 0.7, 0.5),
        (2, 7, 2, 0.5),
        (0.5, 1, 4, 7),
        (0.5, 1.5, 4, 6),
        (0.7, 2, 6, 3),
        (5, 5, 1, 1),
        (7, 4, 0.7, 0.5),
    ),
    "tone": (
        (0.5, 0.7, 3, 8),
        (4, 1, 5, 2),
        (0.5, 4, 7, 0.7),
        (0.7, 0.5, 1, 9),
        (4, 1, 0.5, 6),
        (2, 8, 1, 0.7),
        (9, 2, 0.5, 0.7),
        (5, 7, 1, 0.5),
    ),
    "edge": (
        (2, 7, 1),
        (7, 3, 0.7),
        (8, 2, 0.5),
        (0.7, 7, 3),
        (0.5, 3, 8),
        (2, 0.7, 7),
        (2, 4, 5),
        (7, 2, 1.5),
    ),
}
_SHARPNESS: Final = 1.0


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return an independent random stream for `(seed, key)`.

    Each drawn quantity has a stream of its own, so the first n pictures of a larger set are the same
    pictures.
    """
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=key))


def conditional(attribute: str) -> NDArray[np.float64]:
    """Return p(value | emotion), `[8, values]`, rows sum to 1.

    Raises:
        KeyError: no such attribute.
    """
    weights = np.asarray(_WEIGHTS[attribute], dtype=np.float64) ** _SHARPNESS
    table: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return table


def sample_attributes(
    n: int, seed: int, shares: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw emotions and the attributes they cause.

    Args:
        n: number of pictures.
        seed: the first `n` rows of a longer draw with the same seed are the same rows.
        shares: probability of each emotion, `[8]`, summing to 1; None for equal ones.

    Returns:
        Attribute values `[n, 5]` in the order of `ATTRIBUTES`, and the emotions that caused them `[n]`.

    Raises:
        ValueError: `shares` is no distribution over the emotions.
    """
    if shares is None:
        emotions = stream(seed, 0).integers(0, len(EMOTIONS), size=n)
    else:
        if np.shape(shares) != (len(EMOTIONS),) or np.min(shares) < 0 or not np.isclose(np.sum(shares), 1):
            raise ValueError(f"shares must be {len(EMOTIONS)} numbers from 0 that sum to 1, got {shares}")
        emotions = stream(seed, 3).choice(len(EMOTIONS), size=n, p=shares)
    columns = []
    for j, name in enumerate(ATTRIBUTES):
        cumulative = conditional(name).cumsum(axis=1)[emotions]
        uniform = stream(seed, 1, j).random(n)
        columns.append((uniform[:, None] > cumulative[:, :-1]).sum(axis=1))
    return np.stack(columns, axis=1).astype(np.int64), emotions.astype(np.int64)


def posterior(attributes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the exact p(emotion | attributes) under the uniform prior.

    Args:
        attributes: values `[N, 5]` in the order of `ATTRIBUTES`.

    Returns:
        Distributions `[N, 8]`, rows sum to 1.
    """
    log_p = np.zeros((len(attributes), len(EMOTIONS)))
    for j, name in enumerate(ATTRIBUTES):
        log_p += np.log(conditional(name)).T[attributes[:, j]]
    log_p -= log_p.max(axis=1, keepdims=True)
    p = np.exp(log_p)
    result: NDArray[np.float64] = p / p.sum(axis=1, keepdims=True)
    return result


def draw_votes(distributions: NDArray[np.float64], votes: int, seed: int) -> NDArray[np.int64]:
    """Draw `votes` independent votes a picture from its true distribution, counts `[N, 8]`."""
    return stream(seed, 2).multinomial(votes, distributions)


def bayes_ceiling() -> dict[str, float]:
    """Return the best reachable figures, by enumeration of all attribute combinations.

    Returns:
        `accuracy`: of the Bayes classifier against the emotion that caused the picture, and the KL of 0
        that the exact posterior has to itself.
    """
    tables = [conditional(name) for name in ATTRIBUTES]
    accuracy = 0.0
    for values in itertools.product(*(range(t.shape[1]) for t in tables)):
        joint = np.ones(len(EMOTIONS)) / len(EMOTIONS)
        for table, value in zip(tables, values, strict=True):
            joint = joint * table[:, value]
        accuracy += joint.max()
    return {"accuracy": float(accuracy), "kl": 0.0}
