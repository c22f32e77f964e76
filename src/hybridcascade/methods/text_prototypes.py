"""Class vectors from texts of several kinds, and how sure a teacher made of them may be."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hybridcascade.cascade.heads import unit
from hybridcascade.methods.parts import class_prototypes

__all__ = ["joint_prototypes", "kind_prototypes", "matching_temperature"]


def kind_prototypes(features: Tensor, labels: Tensor, class_count: int, kinds: Tensor | None = None) -> Tensor:
    """Return class vectors of each kind of text that has texts of every class.

    Args:
        features: unit vectors, `[T, E]`.
        labels: class of each text, int64 `[T]`.
        class_count: K.
        kinds: kind of each text, int64 `[T]`, 0 the plainest (class names in templates); None for one kind.

    Returns:
        Unit vectors, float32 `[G, K, E]`, the plainest kind first; a kind that leaves out a class is left
        out itself, and when all do, the texts are taken together.

    Raises:
        TextError: a class has no text at all.
    """
    whole = class_prototypes(features, labels, class_count)
    found = []
    for kind in [] if kinds is None else sorted(set(kinds.tolist())):
        chosen = kinds == kind
        if len(set(labels[chosen].tolist())) == class_count:
            found.append(class_prototypes(features[chosen], labels[chosen], class_count))
    return torch.stack(found or [whole])


def joint_prototypes(of_kinds: Tensor) -> Tensor:
    """Return unit class vectors in which every kind of text counts alike, `[G, K, E]` to `[K, E]`.

    With one mean over all texts, forty descriptions would drown three templates.
    """
    return unit(of_kinds.mean(dim=0))


def matching_temperature(logits: Tensor, reference: Tensor) -> float:
    """Return the temperature at which scores are on average as sure as reference scores.

    Descriptions make CLIP surer than it is right. How sure class names in templates make it was learned with
    its logit scale, from captions, and needs no label.

    Args:
        logits: scores to soften, `[N, K]`.
        reference: scores whose mean confidence (largest probability) is to be met, `[N, K]`.

    Returns:
        T with `mean max softmax(logits / T) = mean max softmax(reference)`, in `[0.1, 10]`.
    """
    wanted = float(reference.double().softmax(dim=1).amax(dim=1).mean())
    low, high = 0.1, 10.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        sure = float((logits.double() / middle).softmax(dim=1).amax(dim=1).mean())
        low, high = (middle, high) if sure > wanted else (low, middle)
    return math.sqrt(low * high)
