"""From a teacher's logits over the whole data set to the labels that a student learns."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hybridcascade.labelling.refine import LABEL_KINDS, PRIORS, PseudoLabels, Refiner, sharpen

__all__ = ["LABEL_KINDS", "PRIORS", "PseudoLabels", "make_labels", "refine", "sharpen"]


def make_labels(
    logits: Tensor,
    kind: str = "sinkhorn",
    epsilon: float = 1.0,
    prior_power: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """Turn teacher logits of all pictures into labels: `refine` without features, the labels alone.

    Args:
        logits: `[N, K]`.
        kind: a name of `LABEL_KINDS` that needs no features.
        epsilon: temperature of the logits; positive.
        prior_power: class shares that Sinkhorn aims at, see `marginal_prior`.
        temperature: of sinkhorn and softmax labels, see `sharpen`.

    Returns:
        Labels, float32 `[N, K]`, rows sum to 1.

    Raises:
        UnknownNameError: no such kind.
        SettingsError: the kind needs features.
    """
    found = refine(logits, kind=kind, epsilon=epsilon, prior_power=prior_power, temperature=temperature)
    return found.labels


def refine(
    logits: Tensor, features: Tensor | None = None, prototypes: Tensor | None = None, **numbers: Any
) -> PseudoLabels:
    """Turn teacher logits of all pictures into labels and sample weights.

    Args:
        logits: `[N, K]`.
        features: unit image features, `[N, E]`; prototype, anchored_mixture and neighbours need them.
        prototypes: unit text prototypes, `[K, E]`; prototype and anchored_mixture need them.
        numbers: the attributes of `Refiner`, such as `kind="anchored_mixture"` or `neighbours=10`.

    Raises:
        UnknownNameError: no such kind or prior.
        SettingsError: features or prototypes are missing, or a number is out of range.
    """
    return Refiner(**numbers)(logits, features, prototypes)
