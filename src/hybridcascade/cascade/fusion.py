"""Fusion of stage predictions into one: `[B, S, K]` to `[B, K]`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = ["FUSION_KINDS", "FUSION_STARTS", "StageFusion", "agreement_weights"]

FUSION_KINDS = ("learned", "uniform", "last", "agreement")
FUSION_STARTS = ("uniform", "last")


def agreement_weights(stage_probabilities: Tensor, plan: Callable[[Tensor], Tensor], rounds: int = 10) -> Tensor:
    """Weigh stages by how well each agrees with the assignment that they make together.

    The joint assignment T (rows sum to 1/N, columns to class shares) maximises `sum_v <T, P_v>^2 + eps H(T)`
    over transport plans. The first sum is convex in T, so its tangent at the present T lies below it, and
    maximising `sum_v lambda_v <T, P_v> + eps H(T)` with `lambda_v = 2 <T, P_v>` never lowers the aim; its
    solution is Sinkhorn's plan of `exp(sum_v lambda_v P_v / eps)`. Both are done in turns.

    Args:
        stage_probabilities: P_v, rows sum to 1, `[N, S, K]`.
        plan: scores `[N, K]` to the labels `N T` of Sinkhorn's plan of `exp(scores / eps)`, rows sum to 1,
            `[N, K]`; it knows eps and the class shares.
        rounds: at least 1.

    Returns:
        `lambda_v / sum lambda`, float32 `[S]`, summing to 1.

    Raises:
        SettingsError: no round.

    Source: the fusion of several models by one optimal-transport plan, SOTA (CVPR 2026), here of stages.
    """
    if rounds < 1:
        raise SettingsError(f"expected at least one round of agreement, got {rounds}")
    weights = torch.ones(stage_probabilities.shape[1], device=stage_probabilities.device)
    for _ in range(rounds):
        labels = plan(torch.einsum("v,nvk->nk", weights, stage_probabilities))
        weights = 2 * torch.einsum("nk,nvk->v", labels, stage_probabilities) / len(labels)
    return weights / weights.sum()


class StageFusion(nn.Module):
    """Softmax of stage scores as weights of stage logits.

    Args:
        stages: S, at least 1.
        start: `"uniform"`, or `"last"`: nearly all weight on the deepest stage, so that training
            starts from that stage's prediction and leaves it by evidence only.
        gap: for `start="last"`: the deepest stage's weight is `exp(gap)` times another's at the start.
        kind: `"learned"`; or fixed: `"uniform"` (the mean), `"last"` (the deepest stage alone), or
            `"agreement"`: uniform until `set_weights`.

    Raises:
        UnknownNameError: no such kind or start.
        SettingsError: no stage, or a gap that is not positive.

    Nothing is learned with a fixed kind or a single stage: `scores` is a buffer then, part of the model.
    """

    scores: Tensor

    def __init__(self, stages: int, start: str = "uniform", gap: float = 5.0, kind: str = "learned") -> None:
        super().__init__()
        if start not in FUSION_STARTS:
            raise UnknownNameError("fusion start", start, FUSION_STARTS)
        if kind not in FUSION_KINDS:
            raise UnknownNameError("fusion", kind, FUSION_KINDS)
        if stages < 1 or not gap > 0:
            raise SettingsError(f"expected at least one stage and a positive gap, got {stages} and {gap}")
        scores = torch.zeros(stages)
        if kind == "last":
            scores[:-1] = -torch.inf
        elif kind == "learned" and start == "last":
            scores[-1] = gap
        if kind == "learned" and stages > 1:
            self.scores = nn.Parameter(scores)
        else:
            self.register_buffer("scores", scores)

    def weights(self) -> Tensor:
        """Return the stage weights, `[S]`, summing to 1."""
        return self.scores.softmax(dim=0)

    @torch.no_grad()
    def set_weights(self, weights: Tensor) -> None:
        """Set the stage weights, positive `[S]`, as `agreement_weights` gives them."""
        self.scores.copy_(weights.log())

    def forward(self, stage_logits: Tensor) -> Tensor:
        """Return fused logits, `[B, S, K]` to `[B, K]`."""
        return torch.einsum("s,bsk->bk", self.weights().to(stage_logits.dtype), stage_logits)
