"""Text and image prototypes vote on the labels, and say how much to trust each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hybridcascade.errors import SettingsError

__all__ = ["image_prototypes", "prototype_labels"]


def image_prototypes(features: Tensor, labels: Tensor, text_prototypes: Tensor) -> Tensor:
    """Return the unit mean feature of each class; a class without pictures gets its text prototype.

    Args:
        features: unit image features, `[N, E]`.
        labels: `[N, K]`, hard or soft, not negative.
        text_prototypes: `[K, E]`.

    Returns:
        `[K, E]`, float64.
    """
    counts = labels.double().sum(dim=0)
    means = functional.normalize(labels.double().T @ features.double(), dim=1)
    text = functional.normalize(text_prototypes.double(), dim=1)
    return torch.where((counts > 0)[:, None], means, text)


def prototype_labels(
    logits: Tensor,
    features: Tensor,
    text_prototypes: Tensor,
    *,
    scale: float = 100.0,
    epsilon: float = 1.0,
    image_share: float = 0.3,
    balance: float = 1.0,
    rounds: int = 2,
) -> tuple[Tensor, Tensor, Tensor]:
    """Label by the vote `a p_img + (1 - a) p_txt`, with a weight from the agreement of both.

    `p_txt` is the zero-shot prediction divided by its class shares to the power `balance`; `p_img`
    comes from image prototypes that the labels of the round before gave. The weight of a picture is
    `[p_txt(y) / max_k p_txt] [p_img(y) / max_k p_img]` of its label y, with `p_txt` before the division:
    1 where both prefer y.

    `balance=1` (DPA's) pulls towards equal shares: it falls below zero-shot when classes are missing.
    `balance=0` pulls nowhere and stays near zero-shot there, but corrects less elsewhere.

    Args:
        logits: zero-shot scores, `[N, K]`.
        features: unit image features, `[N, E]`.
        text_prototypes: `[K, E]`; what a class without pictures falls back to.
        scale: factor on the cosine of picture and image prototype, CLIP's logit scale; positive.
        epsilon: temperature of both predictions; positive.
        image_share: a, in `[0, 1]`.
        balance: in `[0, 1]`.
        rounds: how often prototypes and labels are made from each other, at least 1.

    Returns:
        Labels, float32 `[N, K]`, all mass on one class; weights, float32 `[N]` in `[0, 1]`; image
        prototypes of the last labels, float32 `[K, E]`.

    Raises:
        SettingsError: a number is out of range.

    Source: DPA (Ali et al., WACV 2025), on cached features in place of a running memory.
    """
    _check(scale, epsilon, image_share, balance, rounds)
    features = functional.normalize(features.double(), dim=1)
    plain = (logits.double() / epsilon).softmax(dim=1)
    text = plain / plain.mean(dim=0).clamp_min(1e-12) ** balance
    text = text / text.sum(dim=1, keepdim=True)
    labels = _first_maximum(text)
    image = text
    for _ in range(rounds):
        prototypes = image_prototypes(features, labels, text_prototypes)
        image = (scale / epsilon * features @ prototypes.T).softmax(dim=1)
        labels = _first_maximum(image_share * image + (1 - image_share) * text)
    weights = _trust(plain, labels) * _trust(image, labels)
    return labels.float(), weights.float(), image_prototypes(features, labels, text_prototypes).float()


def _check(scale: float, epsilon: float, image_share: float, balance: float, rounds: int) -> None:
    if not (scale > 0 and epsilon > 0):
        raise SettingsError(f"expected a positive scale and epsilon, got {scale} and {epsilon}")
    if not (0 <= image_share <= 1 and 0 <= balance <= 1):
        raise SettingsError(f"expected image_share and balance in [0, 1], got {image_share} and {balance}")
    if rounds < 1:
        raise SettingsError(f"expected at least one round, got {rounds}")


def _first_maximum(scores: Tensor) -> Tensor:
    return torch.zeros_like(scores).scatter_(1, scores.argmax(dim=1, keepdim=True), 1.0)


def _trust(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Probability of the label over the largest, `[N]`."""
    return (probabilities * labels).sum(dim=1) / probabilities.max(dim=1).values
