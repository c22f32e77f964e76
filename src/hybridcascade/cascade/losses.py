"""Losses: pure functions of logits and targets, all at temperature 1."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from hybridcascade.errors import SettingsError

__all__ = [
    "fairness",
    "joint_loss",
    "joint_target",
    "neighbour_consistency",
    "one_hot",
    "smooth_target",
    "soft_cross_entropy",
    "stage_consistency",
]


def one_hot(labels: Tensor, class_count: int) -> Tensor:
    """Return hard labels int64 `[B]` as distributions, float32 `[B, K]`."""
    return functional.one_hot(labels, class_count).float()


def smooth_target(target: Tensor, smoothing: float) -> Tensor:
    """Mix a distribution with the uniform one: `(1 - smoothing) q + smoothing / K`.

    Args:
        target: distributions, `[B, K]`.
        smoothing: share of the uniform distribution, in `[0, 1)`.

    Raises:
        SettingsError: `smoothing` is out of range.
    """
    if not 0 <= smoothing < 1:
        raise SettingsError(f"expected label smoothing in [0, 1), got {smoothing}")
    return (1 - smoothing) * target + smoothing / target.shape[-1]


def soft_cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0, weight: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy `-sum_k q_k log softmax(z)_k`.

    For hard labels it equals `torch.nn.functional.cross_entropy(..., label_smoothing=smoothing)`.

    Args:
        logits: scores, `[B, K]`.
        target: distributions `[B, K]`, or hard labels int64 `[B]`.
        smoothing: share of the uniform distribution in the target, in `[0, 1)`.
        weight: non-negative weight of each sample, `[B]`; the mean divides by its sum.
    """
    if target.dim() == logits.dim() - 1:
        target = one_hot(target, logits.shape[-1])
    losses = -(smooth_target(target, smoothing) * logits.float().log_softmax(dim=-1)).sum(dim=-1)
    if weight is None:
        return losses.mean()
    return (losses * weight).sum() / weight.sum().clamp_min(torch.finfo(losses.dtype).tiny)


def joint_target(distribution: Tensor, lam: float) -> Tensor:
    """Target of learning the class and the distribution together: `(1 - lam) y + lam l`.

    Args:
        distribution: l, rows sum to 1, `[B, K]`. The class y is its first maximum.
        lam: share of the distribution, in `[0, 1]`.

    Source: Yang, She, Sun, IJCAI 2017, whose released training uses lam = 0.8.

    Raises:
        SettingsError: `lam` is out of range.
    """
    if not 0 <= lam <= 1:
        raise SettingsError(f"expected the distribution's share in [0, 1], got {lam}")
    label = one_hot(distribution.argmax(dim=-1), distribution.shape[-1])
    return (1 - lam) * label + lam * distribution


def joint_loss(logits: Tensor, distribution: Tensor, lam: float = 0.8) -> Tensor:
    """Return `CE((1 - lam) y + lam l, softmax(z))`, mean over the batch.

    Its gradient by z is `(p - (1 - lam) y - lam l) / B`: the optimum is the target itself, so
    probabilities stay probabilities.

    Args:
        logits: z, `[B, K]`.
        distribution: l, `[B, K]`.
        lam: share of the distribution, in `[0, 1]`.
    """
    return soft_cross_entropy(logits, joint_target(distribution, lam))


def stage_consistency(stage_logits: Tensor, detach_teacher: bool = False) -> Tensor:
    """Return the mean over stage pairs i < j of `KL(p_j || p_i)`: the deeper stage teaches.

    Args:
        stage_logits: `[B, S, K]`, from shallow to deep.
        detach_teacher: let no gradient reach the deeper stage of a pair.

    Returns:
        Scalar, mean over the batch; 0 for a single stage.
    """
    stages = stage_logits.float().log_softmax(dim=-1).unbind(dim=1)
    terms = []
    for i, j in combinations(range(len(stages)), 2):
        teacher = stages[j].detach() if detach_teacher else stages[j]
        terms.append((teacher.exp() * (teacher - stages[i])).sum(dim=-1).mean())
    return torch.stack(terms).mean() if terms else stage_logits.new_zeros(())


def neighbour_consistency(stage_logits: Tensor) -> Tensor:
    """Return `KL(p_{s+1} || p_s)` of each pair of neighbours, mean over the batch: the deeper stage teaches.

    No gradient reaches the deeper side of a pair.

    Args:
        stage_logits: `[B, S, K]`, from shallow to deep.

    Returns:
        One number a pair, `[S - 1]`.
    """
    logs = stage_logits.float().log_softmax(dim=-1)
    student, teacher = logs[:, :-1], logs[:, 1:].detach()
    return (teacher.exp() * (teacher - student)).sum(dim=-1).mean(dim=0)


def fairness(logits: Tensor) -> Tensor:
    """Return `-mean_k log(mean_b p_bk)`, least when the batch uses all classes alike.

    Args:
        logits: `[B, K]`.

    Source: MUST (ICLR 2023). Its minimum is `log K`.
    """
    log_mean = logits.float().log_softmax(dim=-1).logsumexp(dim=0) - math.log(logits.shape[0])
    return -log_mean.mean()
