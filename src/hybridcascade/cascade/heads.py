"""Classifiers on embeddings: `[..., E]` to `[..., K]`.

A head broadcasts over leading axes, so one head shared by all stages is the head itself applied to
`[B, S, E]`; `StageHeads` holds one head a stage instead.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridcascade.errors import SettingsError

__all__ = ["CosineHead", "LinearHead", "ResidualAdapter", "StageHeads", "random_head_weight", "unit"]


def unit(features: Tensor) -> Tensor:
    """Return `features` with rows of length 1; a zero row stays zero."""
    return functional.normalize(features, dim=-1)


def random_head_weight(class_count: int, embed_dim: int, generator: torch.Generator) -> Tensor:
    """Draw weights as `torch.nn.Linear` does, uniform in `+-1/sqrt(E)`, `[K, E]`.

    Args:
        class_count: K.
        embed_dim: E.
        generator: source of the draw, so that it does not depend on the global random state.
    """
    bound = 1 / math.sqrt(embed_dim)
    return torch.empty(class_count, embed_dim).uniform_(-bound, bound, generator=generator)


class LinearHead(nn.Module):
    """Linear classifier without bias on features as they come (LaFTer's head).

    Args:
        weight: start value, `[K, E]`.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().clone().float())

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, `[..., E]` to `[..., K]`."""
        return functional.linear(features, self.weight)


class CosineHead(nn.Module):
    """Cosine of features and class vectors times a scale: CLIP's own way to score.

    Args:
        weight: start of the class vectors, `[K, E]`; their lengths do not matter.
        scale: factor on the cosine; positive. CLIP's is about 100.
        train_scale: make the scale a parameter. It is used in prediction too, so it is a calibration
            of the model and not a trick of the loss.
        class_bias: add one learned number a class to the logits, 0 at the start; it can hold a
            correction of the class shares.

    Raises:
        SettingsError: `scale` is not positive.
    """

    log_scale: Tensor

    def __init__(self, weight: Tensor, scale: float, train_scale: bool = False, class_bias: bool = False) -> None:
        super().__init__()
        if not scale > 0:
            raise SettingsError(f"expected a positive logit scale, got {scale}")
        self.weight = nn.Parameter(weight.detach().clone().float())
        log_scale = torch.tensor(math.log(scale), dtype=torch.float32)
        if train_scale:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)
        self.bias = nn.Parameter(torch.zeros(len(weight))) if class_bias else None

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, `[..., E]` to `[..., K]`; the lengths of the features do not matter."""
        logits = self.log_scale.exp() * functional.linear(unit(features), unit(self.weight))
        return logits if self.bias is None else logits + self.bias


class StageHeads(nn.Module):
    """One head a stage, each a copy of the same start (Cascade-CLIP's independent decoders).

    Args:
        head: the head that every stage starts from; it is copied.
        stages: S.
    """

    def __init__(self, head: nn.Module, stages: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(copy.deepcopy(head) for _ in range(stages))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits, `[B, S, E]` to `[B, S, K]`."""
        pairs = zip(self.heads, features.unbind(dim=-2), strict=True)
        return torch.stack([head(feature) for head, feature in pairs], dim=-2)


class ResidualAdapter(nn.Module):
    """Low-rank residual `x + x (A B - A0 B0)` that starts as the identity.

    `A0` and `B0` are the start values, kept fixed. The usual start, B = 0, is the identity too, but
    then A gets no gradient in the first step; here both train from the first step on.

    Args:
        dim: E.
        rank: r, at least 1.
        generator: source of the start values.
    """

    start_down: Tensor
    start_up: Tensor

    def __init__(self, dim: int, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        if rank < 1:
            raise SettingsError(f"expected an adapter rank of at least 1, got {rank}")
        down = torch.randn(dim, rank, generator=generator) / math.sqrt(dim)
        up = torch.randn(rank, dim, generator=generator) / math.sqrt(dim)
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self.register_buffer("start_down", down.clone())
        self.register_buffer("start_up", up.clone())

    def forward(self, features: Tensor) -> Tensor:
        """Return adapted features, same shape."""
        change = features @ self.down @ self.up - features @ self.start_down @ self.start_up
        return features + change
