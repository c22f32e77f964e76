"""How good predicted distributions are: classification, calibration and distribution metrics.

The rules that change figures, stated once:

* **Predicted class**: the first maximum of a predicted row.
* **Ties in the truth**: votes tie often (two classes with five votes each). A prediction that names any of
  the tied classes is correct. The row's one label, which macro F1 needs, is then the predicted class;
  otherwise it is the first tied class. Truth values within 1e-6 of the row's maximum are tied.
* **Drawn labels**: where `labels` are given (a class drawn or voted apart from the distribution),
  accuracy, macro F1 and ECE are taken against them and no tie can occur; KL, NLL and Brier stay against
  the distribution.
* **Zeros**: 0 ln 0 = 0 in the truth, exactly. A predicted 0 is raised to 2.2e-16 (float64's epsilon, as
  PyLDL does) and the row is not normalised again: it costs 36 nats times its truth, not infinity.
* **Precision**: the distribution metrics are summed in float64, whatever comes in; accuracy, F1 and ECE are
  torchmetrics' and float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import BinaryCalibrationError, MulticlassAccuracy, MulticlassF1Score

from hybridcascade.errors import DataError

__all__ = [
    "CLIP",
    "ECE_BINS",
    "METRIC_NAMES",
    "TIE_TOLERANCE",
    "DistributionBrier",
    "DistributionKL",
    "DistributionNLL",
    "Reliability",
    "RowMean",
    "ScoreMetrics",
    "as_distributions",
    "checked_rows",
    "effective_labels",
    "reliability",
    "score",
    "top_class",
]

CLIP = float(np.finfo(np.float64).eps)
"""Smallest predicted probability inside a logarithm."""

ECE_BINS = 15
"""Equal-width confidence bins of the expected calibration error (Guo et al., ICML 2017)."""

METRIC_NAMES = ("accuracy", "macro_f1", "ece", "kl", "nll", "brier")
"""Keys of `score`, in the order of tables."""

_ROW_SUM_TOLERANCE = 1e-3  # probabilities read back from a CSV of four decimals still pass; bf16 has its own
TIE_TOLERANCE = 1e-6
"""Truth values this near to the row's maximum are tied with it."""

_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


class RowMean(Metric):
    """Mean over rows of one number a row; sums in float64, so that ranks add up exactly (DDP: sum)."""

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add a batch.

        Args:
            preds: predicted distributions `[B, K]`, in [0, 1], rows sum to 1.
            target: true distributions `[B, K]`, likewise.

        Raises:
            DataError: wrong shape, NaN, a negative value, or a row that does not sum to 1.
        """
        truth = as_distributions(target, "truth")
        predicted = as_distributions(preds, "probabilities")
        _same_shape(predicted, truth)
        rows = self.rows(predicted, truth)
        self.total += rows.sum().to(self.total.device)
        self.count += rows.numel()

    def compute(self) -> Tensor:
        """Return the mean over all rows so far, float64 scalar; NaN before the first row."""
        return self.total / self.count

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the number of each row, float64 `[B]`; subclasses say which."""
        raise NotImplementedError


class DistributionKL(RowMean):
    """Mean KL(truth || prediction) in nats: sum_j d_j (ln d_j - ln max(p_j, CLIP)); 0 is perfect."""

    higher_is_better = False

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return KL(truth || prediction) of each row, float64 `[B]`, in nats, not negative."""
        rows = (torch.xlogy(truth, truth) - truth * predicted.clamp_min(CLIP).log()).sum(dim=1)
        return rows.clamp_min(0.0)  # rounding leaves -1e-19 for a perfect prediction


class DistributionNLL(RowMean):
    """Mean cross-entropy -sum_j d_j ln max(p_j, CLIP) in nats; for one-hot truth the usual NLL."""

    higher_is_better = False

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the expected negative log-likelihood of each row, float64 `[B]`, in nats."""
        return -(truth * predicted.clamp_min(CLIP).log()).sum(dim=1)


class DistributionBrier(RowMean):
    """Mean sum_j (p_j - d_j)^2, in [0, 2]; for one-hot truth the multi-class Brier score."""

    higher_is_better = False

    def rows(self, predicted: Tensor, truth: Tensor) -> Tensor:
        """Return the squared distance of each row, float64 `[B]`, in [0, 2]."""
        return (predicted - truth).square().sum(dim=1)


class ScoreMetrics(nn.Module):
    """All metrics of `score` with state: `update` by batch, `compute` once, on one rank or many.

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
                "accuracy": MulticlassAccuracy(class_count, average="micro"),
                "macro_f1": MulticlassF1Score(class_count, average="macro"),
                "ece": BinaryCalibrationError(n_bins=ECE_BINS, norm="l1"),
                "kl": DistributionKL(),
                "nll": DistributionNLL(),
                "brier": DistributionBrier(),
            }
        )

    def update(self, probabilities: ArrayLike | Tensor, truth: ArrayLike | Tensor, labels: Any = None) -> None:
        """Add a batch; arguments and errors as in `score`."""
        predicted, true, label = checked_rows(probabilities, truth, labels)
        if predicted.shape[1] != self.class_count:
            raise DataError(f"expected {self.class_count} classes, got {predicted.shape[1]} columns")
        confidence, choice = top_class(predicted)
        self._update("accuracy", choice, label)
        self._update("macro_f1", choice, label)
        # torchmetrics puts a confidence of exactly 1 into a sixteenth bin of its own; just below 1 is in the last.
        self._update("ece", confidence.float().clamp_max(_BELOW_ONE), (choice == label).int())
        for name in ("kl", "nll", "brier"):
            self._update(name, predicted, true)

    def _update(self, name: str, preds: Tensor, target: Tensor) -> None:
        cast(Metric, self.metrics[name]).update(preds, target)

    def compute(self) -> dict[str, float]:
        """Return the metrics over all batches (and ranks) so far, keyed as `METRIC_NAMES`."""
        return {name: float(cast(Metric, self.metrics[name]).compute()) for name in METRIC_NAMES}

    def reset(self) -> None:
        """Forget all batches."""
        for metric in self.metrics.values():
            cast(Metric, metric).reset()


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy in equal-width bins; the gap, weighted by `count`, is the ECE.

    Attributes:
        confidence: mean confidence of each bin, in [0, 1], float64 `[bins]`; NaN in an empty bin.
        accuracy: share correct of each bin, in [0, 1], float64 `[bins]`; NaN in an empty bin.
        count: pictures in each bin, int64 `[bins]`.
    """

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    count: tuple[int, ...]

    @property
    def ece(self) -> float:
        """Expected calibration error, in [0, 1]."""
        bins = zip(self.confidence, self.accuracy, self.count, strict=True)
        return sum(n * abs(a - c) for c, a, n in bins if n) / max(sum(self.count), 1)


def score(
    probabilities: ArrayLike | Tensor, truth: ArrayLike | Tensor, labels: ArrayLike | Tensor | None = None
) -> dict[str, float]:
    """Score predicted distributions; the module says every rule.

    Args:
        probabilities: predicted distributions `[N, K]`, in [0, 1], rows sum to 1 (within 1e-3; they are
            divided by their sum).
        truth: true distributions `[N, K]`, likewise; one-hot rows for plain labels.
        labels: true classes, int `[N]`, in 0..K-1, where they are not the argmax of `truth`.

    Returns:
        `accuracy` and `macro_f1` (classes neither predicted nor true are left out) in [0, 1], `ece`
        (15 bins, top label) in [0, 1], `kl` = mean KL(truth || prediction) and `nll` in nats, `brier` in [0, 2].

    Raises:
        DataError: a wrong shape, NaN, a negative value, a row that does not sum to 1, a label out of range.
    """
    predicted = as_distributions(probabilities, "probabilities")
    metrics = ScoreMetrics(predicted.shape[1])
    metrics.update(predicted, truth, labels)
    return metrics.compute()


def reliability(
    probabilities: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    labels: ArrayLike | Tensor | None = None,
    bins: int = ECE_BINS,
) -> Reliability:
    """Bin pictures by their top confidence, for a reliability diagram; arguments and errors as in `score`."""
    predicted, _, label = checked_rows(probabilities, truth, labels)
    confidence, choice = top_class(predicted)
    correct = (choice == label).double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = (torch.bucketize(confidence, edges, right=True) - 1).clamp_max(bins - 1)
    count = torch.bincount(index, minlength=bins)
    mean_confidence = torch.bincount(index, weights=confidence, minlength=bins) / count
    accuracy = torch.bincount(index, weights=correct, minlength=bins) / count
    return Reliability(tuple(mean_confidence.tolist()), tuple(accuracy.tolist()), tuple(count.tolist()))


def effective_labels(probabilities: ArrayLike | Tensor, truth: ArrayLike | Tensor) -> Tensor:
    """Return the one label of each row by the tie rule of the module, int64 `[N]`.

    Args:
        probabilities: predicted distributions `[N, K]`.
        truth: true distributions `[N, K]`.
    """
    predicted, true = as_distributions(probabilities, "probabilities"), as_distributions(truth, "truth")
    _same_shape(predicted, true)
    return _break_ties(predicted, true)


def _break_ties(predicted: Tensor, truth: Tensor) -> Tensor:
    _, choice = top_class(predicted)
    tied = truth >= truth.amax(dim=1, keepdim=True) - TIE_TOLERANCE
    first = tied.int().argmax(dim=1)
    return torch.where(tied.gather(1, choice[:, None])[:, 0], choice, first)


def top_class(predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Return confidence `[N]` and class `[N]` of the first maximum of `[N, K]`."""
    confidence = predicted.amax(dim=1)
    return confidence, (predicted == confidence[:, None]).int().argmax(dim=1)


def checked_rows(probabilities: Any, truth: Any, labels: Any = None) -> tuple[Tensor, Tensor, Tensor]:
    """Return predicted and true distributions, float64 `[N, K]`, and the one label of each row, int64 `[N]`.

    Arguments and errors as in `score`.
    """
    predicted, true = as_distributions(probabilities, "probabilities"), as_distributions(truth, "truth")
    _same_shape(predicted, true)
    if labels is None:
        return predicted, true, _break_ties(predicted, true)
    label = torch.as_tensor(labels).to(predicted.device)
    if label.shape != predicted.shape[:1]:
        raise DataError(f"labels must be [{predicted.shape[0]}], one a row, got shape {list(label.shape)}")
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise DataError(f"labels must be integers, got {label.dtype}")
    if bool(((label < 0) | (label >= predicted.shape[1])).any()):
        worst = int(((label < 0) | (label >= predicted.shape[1])).int().argmax())
        raise DataError(f"labels[{worst}] is {int(label[worst])}, expected 0 to {predicted.shape[1] - 1}")
    return predicted, true, label.long()


def _same_shape(predicted: Tensor, truth: Tensor) -> None:
    if predicted.shape != truth.shape:
        raise DataError(f"probabilities {list(predicted.shape)} and truth {list(truth.shape)} differ in shape")


def as_distributions(values: Any, name: str) -> Tensor:
    """Check rows `[N, K]` and return them in float64, divided by their sums (which rounding leaves near 1).

    Raises:
        DataError: a wrong shape, NaN, a negative value, or a row that does not sum to 1; it calls them `name`.
    """
    rows = torch.as_tensor(values).detach()
    if rows.ndim != 2 or rows.shape[0] < 1 or rows.shape[1] < 2:
        raise DataError(f"{name} must be [N, K] with N >= 1 and K >= 2, got shape {list(rows.shape)}")
    tolerance = max(_ROW_SUM_TOLERANCE, torch.finfo(rows.dtype).eps if rows.is_floating_point() else 0.0)
    rows = rows.double()
    finite = rows.isfinite().all(dim=1)
    if not bool(finite.all()):
        raise DataError(f"{name} has NaN or infinity, first in row {int((~finite).int().argmax())}")
    negative = (rows < 0).any(dim=1)
    if bool(negative.any()):
        row = int(negative.int().argmax())
        raise DataError(f"{name} must not be negative, row {row} has {float(rows[row].min()):.6g}")
    sums = rows.sum(dim=1)
    off = (sums - 1).abs() > tolerance
    if bool(off.any()):
        row = int(off.int().argmax())
        raise DataError(
            f"each row of {name} must sum to 1, row {row} sums to {float(sums[row]):.6g} "
            "(for logits, take the softmax first; for votes, divide by their sum)"
        )
    return rows / sums[:, None]
