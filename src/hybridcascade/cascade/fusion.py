"""Fusion of stage predictions into one: `[B, S, K]` to `[B, K]`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = ["FUSION_STARTS", "StageFusion"]

FUSION_STARTS = ("uniform", "last")


class StageFusion(nn.Module):
    """Softmax of learned stage weights over stage logits.

    Args:
        stages: S, at least 1.
        start: `"uniform"`, or `"last"`: nearly all weight on the deepest stage, so that training
            starts from that stage's prediction and leaves it by evidence only.
        gap: for `"last"`: the deepest stage's weight is `exp(gap)` times another's at the start.

    Raises:
        UnknownNameError: no such start.
        SettingsError: no stage, or a gap that is not positive.

    With a single stage the weight is 1 and nothing is learned: `scores` is a buffer then.
    """

    scores: Tensor

    def __init__(self, stages: int, start: str = "uniform", gap: float = 5.0) -> None:
        super().__init__()
        if start not in FUSION_STARTS:
            raise UnknownNameError("fusion start", start, FUSION_STARTS)
        if stages < 1 or not gap > 0:
            raise SettingsError(f"expected at least one stage and a positive gap, got {stages} and {gap}")
        scores = torch.zeros(stages)
        if start == "last":
            scores[-1] = gap
        if stages > 1:
            self.scores = nn.Parameter(scores)
        else:
            self.register_buffer("scores", scores)

    def weights(self) -> Tensor:
        """Return the stage weights, `[S]`, summing to 1."""
        return self.scores.softmax(dim=0)

    def forward(self, stage_logits: Tensor) -> Tensor:
        """Return fused logits, `[B, S, K]` to `[B, K]`."""
        return torch.einsum("s,bsk->bk", self.weights().to(stage_logits.dtype), stage_logits)
