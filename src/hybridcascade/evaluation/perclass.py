"""How each class fares: confusion matrix, precision, recall, F1, and predicted against true share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric

from hybridcascade.errors import DataError
from hybridcascade.evaluation.metrics import checked_rows, top_class
from hybridcascade.evaluation.tables import Table

__all__ = ["ClassCounts", "PerClass", "per_class"]


class ClassCounts(Metric):
    """Confusion matrix and mean distributions, added up over batches and ranks (DDP: sum).

    The true class of a row is its label where labels are given; else the predicted class where it is among
    the tied maxima of the truth, and the first of them where it is not (`evaluation.metrics`).

    Args:
        class_count: K, at least 2.
        kwargs: of torchmetrics.
    """

    is_differentiable = False
    full_state_update = False
    confusion: Tensor
    predicted_mass: Tensor
    true_mass: Tensor

    def __init__(self, class_count: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if class_count < 2:
            raise DataError(f"metrics need at least 2 classes, got {class_count}")
        counts = torch.zeros(class_count, class_count, dtype=torch.int64)
        self.add_state("confusion", default=counts, dist_reduce_fx="sum")
        for name in ("predicted_mass", "true_mass"):
            self.add_state(name, default=torch.zeros(class_count, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preds: ArrayLike | Tensor, target: ArrayLike | Tensor, labels: Any = None) -> None:
        """Add a batch.

        Args:
            preds: predicted distributions `[B, K]`.
            target: true distributions `[B, K]`.
            labels: true classes, int `[B]`, or None.

        Raises:
            DataError: as `evaluation.metrics.score`, or another number of classes.
        """
        predicted, truth, label = checked_rows(preds, target, labels)
        count = self.confusion.shape[0]
        if predicted.shape[1] != count:
            raise DataError(f"expected {count} classes, got {predicted.shape[1]} columns")
        _, choice = top_class(predicted)
        pairs = torch.bincount(label.to(choice.device) * count + choice, minlength=count * count)
        device = self.confusion.device
        self.confusion += pairs.view(count, count).to(device)
        self.predicted_mass += predicted.sum(dim=0).to(device)
        self.true_mass += truth.sum(dim=0).to(device)

    def compute(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return confusion `[K, K]` (true rows, predicted columns), mean predicted and mean true shares `[K]`."""
        rows = self.confusion.sum().clamp_min(1)
        return self.confusion, self.predicted_mass / rows, self.true_mass / rows


@dataclass(frozen=True)
class PerClass:
    """What happened to each of K classes.

    Attributes:
        classes: K names.
        confusion: pictures by true (row) and predicted (column) class, `[K][K]`.
        predicted_share: mean predicted probability, K of them.
        true_share: mean true probability, K of them.
    """

    classes: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    predicted_share: tuple[float, ...]
    true_share: tuple[float, ...]

    @property
    def support(self) -> tuple[int, ...]:
        """Pictures whose true class it is."""
        return tuple(sum(row) for row in self.confusion)

    @property
    def predicted(self) -> tuple[int, ...]:
        """Pictures that were given the class."""
        return tuple(sum(row[k] for row in self.confusion) for k in range(len(self.classes)))

    @property
    def precision(self) -> tuple[float | None, ...]:
        """Share of the predicted that are right; None where nothing was predicted."""
        return tuple(_share(self.confusion[k][k], n) for k, n in enumerate(self.predicted))

    @property
    def recall(self) -> tuple[float | None, ...]:
        """Share of the true that were found; None for a class that no picture has."""
        return tuple(_share(self.confusion[k][k], n) for k, n in enumerate(self.support))

    @property
    def f1(self) -> tuple[float | None, ...]:
        """2 hits / (predicted + true); None for a class neither predicted nor true. Their mean is macro F1."""
        both = zip(self.predicted, self.support, strict=True)
        return tuple(_share(2 * self.confusion[k][k], a + b) for k, (a, b) in enumerate(both))

    def records(self) -> list[dict[str, Any]]:
        """Return one mapping a class, for JSON."""
        columns = {
            "class": self.classes, "pictures": self.support, "predicted": self.predicted,
            "precision": self.precision, "recall": self.recall, "f1": self.f1,
            "true_share": self.true_share, "predicted_share": self.predicted_share,
        }  # fmt: skip
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def table(self) -> Table:
        """Lay out precision, recall, F1 and shares, a row a class; figures in percent."""
        header = (
            "class",
            "pictures",
            "predicted",
            "precision %",
            "recall %",
            "F1 %",
            "true share %",
            "predicted share %",
        )
        rows = tuple(
            (name, str(n), str(m), _percent(p), _percent(r), _percent(f), _percent(t), _percent(q))
            for name, n, m, p, r, f, t, q in (tuple(record.values()) for record in self.records())
        )
        return Table(header, rows, (False, *(True for _ in header[1:])))

    def confusion_table(self) -> Table:
        """Lay out the confusion matrix: true classes in rows, predicted ones in columns."""
        rows = tuple((name, *map(str, row)) for name, row in zip(self.classes, self.confusion, strict=True))
        caption = "rows: true class, columns: predicted class"
        return Table(("", *self.classes), rows, (False, *(True for _ in self.classes)), caption)


def per_class(
    probabilities: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    classes: Sequence[str],
    labels: ArrayLike | Tensor | None = None,
) -> PerClass:
    """Count what happened to each class.

    Args:
        probabilities: predicted distributions `[N, K]`.
        truth: true distributions `[N, K]`.
        classes: K names.
        labels: true classes, int `[N]`, where they are not the argmax of `truth`.

    Raises:
        DataError: as `evaluation.metrics.score`, or a number of names that is not K.
    """
    counts = ClassCounts(len(classes))
    counts.update(probabilities, truth, labels)
    confusion, predicted, true = counts.compute()
    rows = tuple(tuple(int(n) for n in row) for row in confusion.tolist())
    return PerClass(tuple(classes), rows, tuple(predicted.tolist()), tuple(true.tolist()))


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"
