"""Everything that can be said of predictions against the truth, as one object: for `evaluate --full`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike
from torch import Tensor

from hybridcascade.evaluation.distribution import distribution_score
from hybridcascade.evaluation.metrics import Reliability, reliability, score
from hybridcascade.evaluation.perclass import PerClass, per_class
from hybridcascade.evaluation.tables import Table, format_metric, metric_title

__all__ = ["FullScores", "full_score"]


@dataclass(frozen=True)
class FullScores:
    """Scores of N predictions.

    Attributes:
        pictures: N.
        metrics: as `metrics.score`.
        distribution: as `distribution.distribution_score`.
        per_class: confusion matrix, precision, recall, F1, shares.
        reliability: confidence against accuracy.
    """

    pictures: int
    metrics: dict[str, float]
    distribution: dict[str, float]
    per_class: PerClass
    reliability: Reliability

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; an empty bin of the reliability diagram is null."""
        bins = dataclasses.asdict(self.reliability)
        bins = {key: [None if math.isnan(value) else value for value in values] for key, values in bins.items()}
        return {
            "pictures": self.pictures,
            "metrics": self.metrics,
            "distribution": self.distribution,
            "per_class": self.per_class.records(),
            "confusion": {"classes": list(self.per_class.classes), "rows_true": self.per_class.confusion},
            "reliability": bins,
        }

    def tables(self) -> list[Table]:
        """Return metrics, distribution metrics, the classes and the confusion matrix as tables."""
        titles = (("metric", self.metrics), ("distribution metric", self.distribution))
        return [*(_metric_table(t, values) for t, values in titles), self.per_class.table(),
                self.per_class.confusion_table()]  # fmt: skip

    def plots(self) -> dict[str, str]:
        """Return the confusion matrix and the reliability diagram as SVG, by file name."""
        from hybridcascade.evaluation.heatmaps import confusion_map
        from hybridcascade.evaluation.plots import reliability_diagram

        counts = self.per_class
        return {
            "confusion.svg": confusion_map(counts.classes, counts.confusion, f"{self.pictures} pictures"),
            "reliability.svg": reliability_diagram(self.reliability, f"{self.pictures} pictures"),
        }


def full_score(
    probabilities: ArrayLike | Tensor,
    truth: ArrayLike | Tensor,
    classes: Sequence[str],
    labels: ArrayLike | Tensor | None = None,
) -> FullScores:
    """Score predicted distributions in every way; arguments and errors as in `perclass.per_class`."""
    counts = per_class(probabilities, truth, classes, labels)
    return FullScores(
        pictures=sum(counts.support),
        metrics=score(probabilities, truth, labels),
        distribution=distribution_score(probabilities, truth),
        per_class=counts,
        reliability=reliability(probabilities, truth, labels),
    )


def _metric_table(title: str, values: dict[str, float]) -> Table:
    rows = tuple((metric_title(name), format_metric(name, value)) for name, value in values.items())
    return Table((title, "value"), rows, (False, True))
