"""Targets that are given: used where they are known, the teacher's labels elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hybridcascade.cascade.losses import joint_target
from hybridcascade.types import TargetBatch, UnlabeledBatch

__all__ = ["given_or_pseudo", "known_rows", "needs_teacher"]


def known_rows(targets: Tensor) -> Tensor:
    """Return which rows of `[N, K]` targets are known, bool `[N]`: a row of zeros has no target."""
    return targets.sum(dim=-1) > 0


def needs_teacher(targets: Tensor | None) -> bool:
    """Return whether some picture has no target, so that the teacher must label it; `[N, K]` or None without any."""
    return targets is None or not bool(known_rows(targets).all())


def given_or_pseudo(batch: UnlabeledBatch, lam: float, pseudo: Callable[[], Tensor]) -> Tensor:
    """Return what a batch learns: the joint target where one is known, else the teacher's label.

    Args:
        batch: a `TargetBatch`, or an `UnlabeledBatch`, whose targets are all unknown.
        lam: share of the distribution in the joint target `(1 - lam) y + lam l`, in `[0, 1]`.
        pseudo: gives the teacher's labels of the batch `[B, K]`; called only when a row needs one.

    Returns:
        Distributions, `[B, K]`.
    """
    if not isinstance(batch, TargetBatch):
        return pseudo()
    joint = joint_target(batch.target, lam)
    if batch.known is None or bool(batch.known.all()):
        return joint
    return torch.where(batch.known[:, None], joint, pseudo())
