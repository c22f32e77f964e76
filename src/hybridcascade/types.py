"""Batches and outputs that travel between the rooms.

Letters used in every shape of this package: B pictures in a batch, L tapped blocks, S stages,
P patch tokens, M prompt tokens, D width of the vision tower, E width of the joint embedding,
K classes, N pictures of a data set, T texts, H and W picture height and width in pixels.

The label-free training batch has no label field: a method cannot read what it is not given.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor

__all__ = [
    "ImageBatch",
    "LossReport",
    "Prediction",
    "StagePlan",
    "Taps",
    "TargetBatch",
    "TextBatch",
    "UnlabeledBatch",
]


@dataclass(frozen=True)
class _Movable:
    def to(self, device: torch.device | str, **kwargs: Any) -> Self:
        """Return a copy whose tensors are on `device` (Lightning calls this)."""
        moved = {
            f.name: value.to(device, **kwargs)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class ImageBatch(_Movable):
    """Pictures in one view, for prediction and for teachers.

    Attributes:
        index: rows of the pictures in their data set, int64 `[B]`.
        ids: sample ids, `B` of them; the identity that targets are keyed by.
        images: normalised pictures, float `[B, 3, H, W]`.
    """

    index: Tensor
    ids: tuple[str, ...]
    images: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class UnlabeledBatch(_Movable):
    """Pictures in a plain and a strong view, for label-free training. No label field exists.

    Attributes:
        index: rows of the pictures in their data set, int64 `[B]`.
        ids: sample ids, `B` of them.
        plain: evaluation view, float `[B, 3, H, W]`.
        strong: augmented view, float `[B, 3, H, W]`.
    """

    index: Tensor
    ids: tuple[str, ...]
    plain: Tensor
    strong: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class TargetBatch(UnlabeledBatch):
    """An `UnlabeledBatch` whose pictures have target distributions (votes or labels), all or some of them.

    Attributes:
        target: rows sum to 1, zeros where the target is not known, float `[B, K]`.
        known: which rows have a target, bool `[B]`; None means all.
    """

    target: Tensor
    known: Tensor | None = None


@dataclass(frozen=True)
class TextBatch(_Movable):
    """Encoded texts, for the text stage.

    Attributes:
        features: unit vectors, float `[T, E]`.
        labels: class of each text, int64 `[T]`.
    """

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return int(self.labels.shape[0])


@dataclass(frozen=True)
class Taps:
    """What one forward pass of the vision tower gives.

    Attributes:
        cls: CLS token after each tapped block, `[B, L, D]`.
        image: final projected feature, not normalised, `[B, E]`.
        patch_mean: mean of the patch tokens (prompts left out) after each tapped block,
            `[B, L, D]`, or None when not asked for.
        patches: patch tokens after each tapped block, `[B, L, P, D]`, or None when not asked for.
    """

    cls: Tensor
    image: Tensor
    patch_mean: Tensor | None = None
    patches: Tensor | None = None


@dataclass(frozen=True)
class Prediction:
    """Class scores of a batch.

    Attributes:
        logits: scores whose softmax is the predicted distribution, `[B, K]`.
        stage_logits: the same a stage, `[B, S, K]`, or None for single-stage methods.
        stage_weights: fusion weights that made `logits`, summing to 1, `[S]` or `[B, S]`, or None.
    """

    logits: Tensor
    stage_logits: Tensor | None = None
    stage_weights: Tensor | None = None

    @property
    def probabilities(self) -> Tensor:
        """Predicted distribution, float32 `[B, K]`, rows sum to 1."""
        return self.logits.float().softmax(dim=-1)


@dataclass(frozen=True)
class LossReport:
    """A training loss and what to log beside it.

    Attributes:
        loss: scalar tensor that is minimised.
        scalars: detached numbers for the logs; they cannot reach the objective.
    """

    loss: Tensor
    scalars: dict[str, float | Tensor]


@dataclass(frozen=True)
class StagePlan:
    """Which blocks form which stage; blocks count from 1, as the papers do.

    Attributes:
        stages: the blocks of each stage, ascending, from shallow to deep.
        depth: number of blocks of the tower.
    """

    stages: tuple[tuple[int, ...], ...]
    depth: int

    @property
    def taps(self) -> tuple[int, ...]:
        """All blocks of all stages, ascending: the order of the L axis of `Taps`."""
        return tuple(block for stage in self.stages for block in stage)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of blocks in each stage."""
        return tuple(len(stage) for stage in self.stages)
