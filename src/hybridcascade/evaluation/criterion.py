"""What unlabelled pictures alone tell about a model: is it getting better, and is it better than another one?

Nothing here sees a label. Each part lies in 0..1. One number is made of three of them, more is better:

    views      0.5   two views of a picture get the same class, beyond chance
    stages     0.25  the stages of a cascade give a picture the same class, beyond chance
    balance    0.25  all classes occur: entropy of the mean prediction, as a share of log K

Two are watched beside it and count nothing:

    margin           the first class is ahead of the second: a model that is sure and wrong has most of it. As a
                     part of the criterion it chose the worst of four methods on generated pictures
    stability        1 - churn: pseudo-labels have stopped to move between epochs, which tells of the learning rate

Agreement that two predictors have by chance counts for nothing (Cohen 1960), so a model that says one class for
everything scores 0 there, not 1. That agreement without labels ranks models is known (Jiang et al., ICLR 2022; Baek
et al., NeurIPS 2022), and so is that dispersed predictions do (Deng et al., ICML 2023). It is evidence, not proof: a
model can agree with itself on wrong classes, and where classes are truly missing or rare the balance speaks
against the truth.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from hybridcascade.errors import DataError

__all__ = ["agreement", "balance", "churn", "criterion_parts", "margin", "stage_agreement", "view_agreement"]


def agreement(first: Tensor, second: Tensor) -> float:
    """Share of pictures that two predictors give the same class, beyond chance (Cohen's kappa, at least 0).

    Args:
        first: distributions or scores `[N, K]`.
        second: the same of the other predictor.

    Returns:
        0 (no more than by chance, or one class for everything) to 1.

    Raises:
        DataError: shapes differ, or there is no picture.
    """
    if first.shape != second.shape or first.ndim != 2 or not len(first):
        raise DataError(f"agreement: expected two tensors [N, K], got {list(first.shape)} and {list(second.shape)}")
    one, other = first.argmax(dim=1), second.argmax(dim=1)
    classes = first.shape[1]
    observed = float((one == other).double().mean())
    frequent = [torch.bincount(labels, minlength=classes).double() / len(labels) for labels in (one, other)]
    chance = float((frequent[0] * frequent[1]).sum())
    return 0.0 if chance > 1 - 1e-12 else max(0.0, (observed - chance) / (1 - chance))


def view_agreement(views: Tensor) -> float:
    """Mean `agreement` over all pairs of views, `[V, N, K]` with V of at least 2."""
    return _mean(agreement(views[i], views[j]) for i, j in itertools.combinations(range(len(views)), 2))


def stage_agreement(stages: Tensor) -> float:
    """Mean `agreement` over all pairs of stages, `[N, S, K]` with S of at least 2."""
    return view_agreement(stages.transpose(0, 1))


def margin(probabilities: Tensor) -> float:
    """Mean lead of the most probable class over the second, of distributions `[N, K]`; 0..1."""
    top = probabilities.double().topk(2, dim=1).values
    return float((top[:, 0] - top[:, 1]).mean())


def balance(probabilities: Tensor) -> float:
    """Entropy of the mean of distributions `[N, K]`, divided by log K; 0 (one class) to 1 (all alike)."""
    mean = probabilities.double().mean(dim=0)
    return float(torch.special.entr(mean).sum()) / math.log(probabilities.shape[1])


def churn(before: Tensor, after: Tensor) -> float:
    """Share of pictures whose class changed, from class numbers `[N]` to class numbers `[N]`; 0..1."""
    return float((before != after).double().mean())


def criterion_parts(views: Tensor, stages: Tensor | None = None, before: Tensor | None = None) -> dict[str, float]:
    """Return the parts of the criterion.

    Args:
        views: predicted distributions of N pictures in V views, `[V, N, K]`; the first is the plain one.
        stages: scores of each stage for the plain view, `[N, S, K]`, or None.
        before: class numbers `[N]` at the epoch before, or None.

    Returns:
        Those parts of `criterion_weights.WEIGHTS` and `WATCHED` that can be told, by name.
    """
    plain = views[0]
    parts = {"views": view_agreement(views)} if len(views) > 1 else {}
    if stages is not None and stages.shape[1] > 1:
        parts["stages"] = stage_agreement(stages)
    parts |= {"balance": balance(plain), "margin": margin(plain)}
    if before is not None:
        parts["stability"] = 1.0 - churn(before, plain.argmax(dim=1))
    return parts


def _mean(values: Iterable[float]) -> float:
    taken = list(values)
    if not taken:
        raise DataError("agreement needs at least two views or stages")
    return math.fsum(taken) / len(taken)
