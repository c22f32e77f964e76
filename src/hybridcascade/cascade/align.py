"""Alignment of intermediate tokens with the joint embedding, and the stages built from it.

Intermediate CLS tokens are not aligned with text under CLIP's final projection, so each stage s owns a
LayerNorm and a projection, initialised from CLIP's `ln_post` and `proj` and trained:
`z_l = LN_s(h_l) W_s` and `Z_s = sum_l w_l z_l`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridcascade.cascade.aggregation import StageAggregation

__all__ = ["CascadeStages", "StageAlignment"]


class StageAlignment(nn.Module):
    """A LayerNorm and a projection for each stage.

    Args:
        sizes: number of tapped blocks in each stage.
        ln_weight: start of every stage's LayerNorm scale, `[D]`.
        ln_bias: start of every stage's LayerNorm shift, `[D]`.
        projection: start of every stage's projection, `[D, E]`.
        eps: added to the variance, as in CLIP's LayerNorms.
    """

    stage_of: Tensor

    def __init__(
        self, sizes: Sequence[int], ln_weight: Tensor, ln_bias: Tensor, projection: Tensor, eps: float = 1e-5
    ) -> None:
        super().__init__()
        stages = len(sizes)
        self.eps = eps
        self.ln_weight = nn.Parameter(ln_weight.detach().float().repeat(stages, 1))
        self.ln_bias = nn.Parameter(ln_bias.detach().float().repeat(stages, 1))
        self.projection = nn.Parameter(projection.detach().float().repeat(stages, 1, 1))
        index = torch.repeat_interleave(torch.arange(stages), torch.tensor(sizes))
        self.register_buffer("stage_of", index, persistent=False)

    def normalise(self, tokens: Tensor) -> Tensor:
        """Apply each block's stage LayerNorm: `[B, L, D]` to `[B, L, D]`."""
        plain = functional.layer_norm(tokens.float(), tokens.shape[-1:], eps=self.eps)
        return plain * self.ln_weight[self.stage_of] + self.ln_bias[self.stage_of]

    def project(self, stage_tokens: Tensor) -> Tensor:
        """Apply each stage's projection: `[B, S, D]` to `[B, S, E]`."""
        return torch.einsum("bsd,sde->bse", stage_tokens, self.projection)

    def forward(self, tokens: Tensor) -> Tensor:
        """Align each block's token, `z_l = LN_s(h_l) W_s`.

        Args:
            tokens: tokens after the tapped blocks, `[B, L, D]`.

        Returns:
            Aligned features, `[B, L, E]`.
        """
        return torch.einsum("bld,lde->ble", self.normalise(tokens), self.projection[self.stage_of])


class CascadeStages(nn.Module):
    """Tokens of the tapped blocks to one aligned feature a stage.

    Args:
        aggregation: weights of the blocks inside each stage.
        alignment: LayerNorm and projection of each stage.

    A stage's projection is linear and shared by its blocks, so the blocks are summed before it:
    `(sum_l w_l LN_s(h_l)) W_s` equals `sum_l w_l (LN_s(h_l) W_s)` at a fraction of the work.
    """

    def __init__(self, aggregation: StageAggregation, alignment: StageAlignment) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.alignment = alignment

    def forward(self, tokens: Tensor) -> Tensor:
        """Return stage features, `[B, L, D]` to `[B, S, E]`, not normalised."""
        stage_tokens: Tensor = self.aggregation(self.alignment.normalise(tokens))
        return self.alignment.project(stage_tokens)
