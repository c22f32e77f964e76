"""Metrics of label distribution learning, each a mean over pictures. Truth d, prediction p, K classes.

| key               | formula                          | best |
|-------------------|----------------------------------|------|
| `chebyshev`       | max_j abs(d_j - p_j)             | 0    |
| `clark`           | sqrt(sum_j (d-p)^2 / (d+p)^2)    | 0    |
| `clark_norm`      | clark / sqrt(K)                  | 0    |
| `canberra`        | sum_j abs(d-p) / (d+p)           | 0    |
| `canberra_norm`   | canberra / K                     | 0    |
| `kl`              | KL(truth, prediction), in nats   | 0    |
| `cosine`          | sum_j d p / (norm(d) norm(p))    | 1    |
| `intersection`    | sum_j min(d, p)                  | 1    |
| `argmax_accuracy` | argmax p is among the argmax d   | 1    |

Rules, stated once:

* **Normalised or not.** Papers on emotions divide Clark by sqrt(K) and Canberra by K, general papers on label
  distributions do not, and some tables mix both: here each has its own key.
* **Zeros.** In Clark and Canberra a class with d = p = 0 counts 0 (0/0), one with d = 0 < p counts 1 however
  small p is. So a softmax, which is never exactly 0, pays in full for every class that got no vote: compare
  these two only between predictors of one kind. KL as in `evaluation.metrics`: 0 ln 0 = 0, p is at least 2.2e-16.
* **Ties.** The predicted class is the first maximum; it is right when its truth is within 1e-6 of the largest.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from hybridcascade.errors import DataError
from hybridcascade.evaluation.metrics import TIE_TOLERANCE, DistributionKL, RowMean, as_distributions, top_class

__all__ = [
    "DISTRIBUTION_NAMES",
    "ArgmaxAccuracy",
    "Canberra",
    "Chebyshev",
    "Clark",
    "Cosine",
    "DistributionScores",
    "Intersection",
    "distribution_score",
]

DISTRIBUTION_NAMES = (
    "chebyshev", "clark", "clark_norm", "canberra", "canberra_norm", "kl", "cosine", "intersection", "argmax_accuracy",
)  # fmt: skip
"""Keys of `distribution_score`, in the order of tables."""


class Chebyshev(RowMean):
    """Mean of the largest absolute difference, in [0, 1]; 0 is perfect."""

    higher_is_better = False

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the largest difference of each row, float64 `[B]`."""
        return (predicted - truth).abs().amax(dim=1)


def _relative(predicted: Tensor, truth: Tensor) -> Tensor:
    """|d - p| / (d + p) with 0/0 = 0, in [0, 1], `[B, K]`."""
    both = predicted + truth
    return (predicted - truth).abs() / torch.where(both > 0, both, 1.0)


class Clark(RowMean):
    """Mean Clark distance, in [0, sqrt(K)]; 0 is perfect.

    Args:
        normalised: divide by sqrt(K), as papers on emotions do.
        kwargs: of torchmetrics.
    """

    higher_is_better = False

    def __init__(self, normalised: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalised = normalised

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the Clark distance of each row, float64 `[B]`."""
        distance = _relative(predicted, truth).square().sum(dim=1).sqrt()
        return distance / math.sqrt(truth.shape[1]) if self.normalised else distance


class Canberra(RowMean):
    """Mean Canberra distance, in [0, K]; 0 is perfect.

    Args:
        normalised: divide by K, as papers on emotions do.
        kwargs: of torchmetrics.
    """

    higher_is_better = False

    def __init__(self, normalised: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.normalised = normalised

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the Canberra distance of each row, float64 `[B]`."""
        distance = _relative(predicted, truth).sum(dim=1)
        return distance / truth.shape[1] if self.normalised else distance


class Cosine(RowMean):
    """Mean cosine of the angle between the two distributions, in [0, 1]; 1 is perfect."""

    higher_is_better = True

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the cosine of each row, float64 `[B]`."""
        lengths = predicted.square().sum(dim=1) * truth.square().sum(dim=1)
        return ((predicted * truth).sum(dim=1) / lengths.sqrt()).clamp_max(1.0)


class Intersection(RowMean):
    """Mean shared mass sum_j min(d_j, p_j), in [0, 1]; 1 is perfect."""

    higher_is_better = True

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the shared mass of each row, float64 `[B]`."""
        return 1 - (predicted - truth).abs().sum(dim=1) / 2  # the same, and exactly 1 for equal rows


class ArgmaxAccuracy(RowMean):
    """Share of rows whose first predicted maximum is one of the maxima of the truth, in [0, 1]."""

    higher_is_better = True

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return 1 where the predicted class is right, else 0, float64 `[B]`."""
        _, choice = top_class(predicted)
        of_choice = truth.gather(1, choice[:, None])[:, 0]
        return (of_choice >= truth.amax(dim=1) - TIE_TOLERANCE).double()


class DistributionScores(nn.Module):
    """All metrics of `distribution_score` with state: `update` by batch, `compute` once, on one rank or many.

    Args:
        class_count: K, at least 2.
    """

    def __init__(self, class_count: int) -> None:
        super().__init__()
        if class_count < 2:
            raise DataError(f"metrics need at least 2 classes, got {class_count}")
        self.class_count = class_count
        self.metrics = nn.ModuleDict(
            {
                "chebyshev": Chebyshev(),
                "clark": Clark(),
                "clark_norm": Clark(normalised=True),
                "canberra": Canberra(),
                "canberra_norm": Canberra(normalised=True),
                "kl": DistributionKL(),
                "cosine": Cosine(),
                "intersection": Intersection(),
                "argmax_accuracy": ArgmaxAccuracy(),
            }
        )

    def update(self, probabilities: ArrayLike | Tensor, truth: ArrayLike | Tensor) -> None:
        """Add a batch; arguments and errors as in `distribution_score`."""
        predicted, true = as_distributions(probabilities, "probabilities"), as_distributions(truth, "truth")
        if predicted.shape[1] != self.class_count:
            raise DataError(f"expected {self.class_count} classes, got {predicted.shape[1]} columns")
        for metric in self.metrics.values():
            cast(RowMean, metric).update(predicted, true)

    def compute(self) -> dict[str, float]:
        """Return the metrics over all batches (and ranks) so far, keyed as `DISTRIBUTION_NAMES`."""
        return {name: float(cast(RowMean, self.metrics[name]).compute()) for name in DISTRIBUTION_NAMES}

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self.metrics.values():
            cast(RowMean, metric).reset()


def distribution_score(probabilities: ArrayLike | Tensor, truth: ArrayLike | Tensor) -> dict[str, float]:
    """Score predicted against true distributions; the module says every formula and rule.

    Args:
        probabilities: predicted distributions `[N, K]`, rows sum to 1.
        truth: true distributions `[N, K]`, likewise; shapes must agree.

    Returns:
        The metrics of `DISTRIBUTION_NAMES`.

    Raises:
        DataError: a wrong shape, NaN, a negative value, a row that does not sum to 1.

    >>> distribution_score([[1.0, 0.0]], [[1.0, 0.0]])["clark"]
    0.0
    """
    scores = DistributionScores(as_distributions(probabilities, "probabilities").shape[1])
    scores.update(probabilities, truth)
    return scores.compute()
