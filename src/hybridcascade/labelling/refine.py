"""One entry to all kinds of labels: numbers first, then pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridcascade.errors import SettingsError, UnknownNameError
from hybridcascade.labelling.anchored_mixture import FeatureSet, fit_anchored_mixture
from hybridcascade.labelling.argmax import argmax_labels
from hybridcascade.labelling.neighbours import nearest_neighbours, smooth_by_neighbours
from hybridcascade.labelling.prototype import prototype_labels
from hybridcascade.labelling.sinkhorn import estimated_prior, marginal_prior, sinkhorn
from hybridcascade.labelling.topk import topk_labels

__all__ = ["LABEL_KINDS", "PRIORS", "PseudoLabels", "Refiner", "sharpen"]

LABEL_KINDS = ("sinkhorn", "softmax", "argmax", "topk", "prototype", "anchored_mixture")
PRIORS = ("uniform", "estimated")


@dataclass(frozen=True)
class PseudoLabels:
    """What a student learns from.

    Attributes:
        labels: float32 `[N, K]`, rows sum to 1.
        weights: of each picture in the loss, float32 `[N]`, not negative.
        prior: class shares that Sinkhorn aimed at, for the other kinds those of the labels; float32 `[K]`.
    """

    labels: Tensor
    weights: Tensor
    prior: Tensor


def sharpen(labels: Tensor, temperature: float) -> Tensor:
    """Return labels raised to `1 / temperature` and renormalised, `[N, K]`.

    Args:
        labels: rows sum to 1, `[N, K]`.
        temperature: below 1 sharpens, 1 leaves the labels as they are; positive.
    """
    if temperature == 1:
        return labels
    return (labels.clamp_min(1e-30).log() / temperature).softmax(dim=1)


@dataclass(frozen=True)
class Refiner:
    """Turns the teacher logits of all pictures into labels and weights.

    Attributes:
        kind: sinkhorn, softmax, argmax, topk, prototype or anchored_mixture; each has its own module.
        epsilon: temperature of the logits; positive.
        prior: for sinkhorn: uniform, estimated, or shares `[K]`, see `class_prior`.
        prior_power: with the uniform prior: 0 for equal shares, 1 for the prediction's own; in `[0, 1]`.
        prior_floor: part of the estimated prior that is spread over all classes; in `[0, 1]`.
        temperature: of sinkhorn, softmax and anchored_mixture labels, see `sharpen`; positive.
        neighbours: smooth the predictions over so many nearest pictures first; 0 for not at all.
        neighbour_share: see `smooth_by_neighbours`; in `[0, 1]`.
        neighbour_rounds: see `smooth_by_neighbours`.
        per_class: for topk, see `topk_labels`.
        scale: for prototype, factor on the cosine of picture and prototype; positive.
        image_share: for prototype, weight of the image prototypes' vote; in `[0, 1]`.
        balance: for prototype, pull of the texts' vote to equal shares; in `[0, 1]`.
        anchor: for anchored_mixture and the estimated prior, see `fit_anchored_mixture`; not negative.
        stages: for the same, further feature sets of the same pictures, such as other stages.

    Raises:
        UnknownNameError: no such kind or prior.
        SettingsError: an estimated or given prior together with a prior power.
    """

    kind: str = "sinkhorn"
    epsilon: float = 1.0
    prior: str | Tensor = "uniform"
    prior_power: float = 0.0
    prior_floor: float = 0.01
    temperature: float = 1.0
    neighbours: int = 0
    neighbour_share: float = 0.5
    neighbour_rounds: int = 1
    per_class: float = 16
    scale: float = 100.0
    image_share: float = 0.3
    balance: float = 1.0
    anchor: float = 0.5
    stages: Sequence[FeatureSet] = ()

    def __post_init__(self) -> None:
        if self.kind not in LABEL_KINDS:
            raise UnknownNameError("kind of labels", self.kind, LABEL_KINDS)
        if isinstance(self.prior, str) and self.prior not in PRIORS:
            raise UnknownNameError("class prior", self.prior, PRIORS, "Or give the shares themselves.")
        if self.prior_power and not (isinstance(self.prior, str) and self.prior == "uniform"):
            raise SettingsError(
                f"expected prior_power 0 with an estimated or given prior, got {self.prior_power}: it tempers the "
                "prediction's own shares"
            )

    def __call__(
        self, logits: Tensor, features: Tensor | None = None, prototypes: Tensor | None = None
    ) -> PseudoLabels:
        """Label all pictures.

        Args:
            logits: teacher scores, `[N, K]`.
            features: unit image features, `[N, E]`; prototype, anchored_mixture and neighbours need them.
            prototypes: unit text prototypes, `[K, E]`; prototype and anchored_mixture need them.

        Raises:
            SettingsError: features or prototypes are missing, or a number is out of range.
        """
        logits = self._smoothed(logits.float(), features)
        weights = torch.ones(len(logits), device=logits.device)
        prior = None
        if self.kind == "argmax":
            labels = argmax_labels(logits)
        elif self.kind == "topk":
            labels, weights = topk_labels((logits / self.epsilon).softmax(dim=1), self.per_class)
        elif self.kind == "prototype":
            labels, weights, _ = prototype_labels(
                logits,
                *self._pair(features, prototypes),
                scale=self.scale,
                epsilon=self.epsilon,
                image_share=self.image_share,
                balance=self.balance,
            )
        else:
            if self.kind == "anchored_mixture":
                labels = self._mixture(logits, *self._pair(features, prototypes))
            elif self.kind == "softmax":
                labels = (logits / self.epsilon).softmax(dim=1)
            else:
                prior = self.class_prior(logits, features, prototypes)
                labels = sinkhorn(logits, self.epsilon, prior)
            labels = sharpen(labels, self.temperature)
        return PseudoLabels(labels, weights, (labels.mean(dim=0) if prior is None else prior).float())

    def class_prior(self, logits: Tensor, features: Tensor | None = None, prototypes: Tensor | None = None) -> Tensor:
        """Class shares that Sinkhorn aims at, `[K]`.

        An estimated prior takes the shares of `anchored_mixture` labels where there are features and
        prototypes: from the logits alone (`estimated_prior`) nobody can tell a frequent class from one that
        the teacher likes too much, and the error grows. `prior_floor` of it is spread over all classes, so
        that none is ruled out.

        Args:
            logits: teacher scores, `[N, K]`.
            features: unit image features, `[N, E]`, or None.
            prototypes: unit text prototypes, `[K, E]`, or None.
        """
        if isinstance(self.prior, Tensor):
            return self.prior.to(logits.device)
        if self.prior == "uniform":
            return marginal_prior((logits / self.epsilon).softmax(dim=1), self.prior_power)
        if features is None or prototypes is None:
            shares = estimated_prior(logits, self.epsilon)
        else:
            shares = self._mixture(logits, features, prototypes).double().mean(dim=0)
        return (1 - self.prior_floor) * shares + self.prior_floor / len(shares)

    def _mixture(self, logits: Tensor, features: Tensor, prototypes: Tensor) -> Tensor:
        sets = [FeatureSet(features, prototypes), *self.stages]
        return fit_anchored_mixture(logits, sets, epsilon=self.epsilon, anchor=self.anchor).labels

    def _smoothed(self, logits: Tensor, features: Tensor | None) -> Tensor:
        """Logits of the predictions after smoothing, at the temperature that they came in."""
        if not self.neighbours:
            return logits
        if features is None:
            raise SettingsError(f"smoothing over {self.neighbours} neighbours needs image features, got none")
        _, rows = nearest_neighbours(features, self.neighbours)
        predictions = (logits.double() / self.epsilon).softmax(dim=1)
        smooth = smooth_by_neighbours(predictions, rows, self.neighbour_share, self.neighbour_rounds)
        return (self.epsilon * smooth.clamp_min(1e-30).log()).float()

    def _pair(self, features: Tensor | None, prototypes: Tensor | None) -> tuple[Tensor, Tensor]:
        if features is None or prototypes is None:
            raise SettingsError(f"{self.kind} labels need image features and text prototypes, got none")
        return features, prototypes
