"""From a teacher's logits over the whole data set to the labels that a student learns."""

from __future__ import annotations

from torch import Tensor

from hybridcascade.errors import UnknownNameError
from hybridcascade.labelling.argmax import argmax_labels
from hybridcascade.labelling.sinkhorn import marginal_prior, sinkhorn

__all__ = ["LABEL_KINDS", "make_labels", "sharpen"]

LABEL_KINDS = ("sinkhorn", "softmax", "argmax")


def sharpen(labels: Tensor, temperature: float) -> Tensor:
    """Return labels raised to `1 / temperature` and renormalised, `[N, K]`.

    Args:
        labels: rows sum to 1, `[N, K]`.
        temperature: below 1 sharpens, 1 leaves the labels as they are; positive.
    """
    if temperature == 1:
        return labels
    return (labels.clamp_min(1e-30).log() / temperature).softmax(dim=1)


def make_labels(
    logits: Tensor,
    kind: str = "sinkhorn",
    epsilon: float = 1.0,
    prior_power: float = 0.0,
    temperature: float = 1.0,
) -> Tensor:
    """Turn teacher logits of all pictures into labels.

    Args:
        logits: `[N, K]`.
        kind: `"sinkhorn"` (balanced over the data set), `"softmax"` or `"argmax"`.
        epsilon: temperature of the logits in `sinkhorn` and `softmax`; positive.
        prior_power: class shares that Sinkhorn aims at, see `marginal_prior`.
        temperature: see `sharpen`.

    Returns:
        Labels, float32 `[N, K]`, rows sum to 1.

    Raises:
        UnknownNameError: no such kind.
    """
    if kind not in LABEL_KINDS:
        raise UnknownNameError("kind of labels", kind, LABEL_KINDS)
    if kind == "argmax":
        return argmax_labels(logits)
    labels = (logits.float() / epsilon).softmax(dim=1)
    if kind == "sinkhorn":
        labels = sinkhorn(logits.float(), epsilon, marginal_prior(labels, prior_power))
    return sharpen(labels, temperature)
