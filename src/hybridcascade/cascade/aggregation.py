"""Aggregation of neighbouring blocks inside a stage: `[B, L, D]` to `[B, S, D]`.

Neighbourhood Gaussian aggregation (NGA) weighs block l of a stage of d blocks by its distance from the
stage's end, `w_l = exp(-(d - l + 1)^2 / (2 sigma^2))` for l = 1..d, normalised to sum 1. The `+ 1`
matters because of that normalisation: it makes a narrow sigma sharper than distance 0 would.
Source: Cascade-CLIP (ICML 2024) for the idea; normalisation and softplus are this package's definition.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = [
    "AGGREGATIONS",
    "FixedAggregation",
    "FreeAggregation",
    "GaussianAggregation",
    "StageAggregation",
    "inverse_softplus",
    "make_aggregation",
    "stage_mask",
]

AGGREGATIONS = ("nga", "free", "mean", "last")


def stage_mask(sizes: Sequence[int]) -> Tensor:
    """Return which blocks belong to which stage, bool `[S, L]`.

    Args:
        sizes: number of tapped blocks in each stage, at least 1 each.

    Raises:
        SettingsError: no stage, or a stage without a block.
    """
    if not sizes or min(sizes) < 1:
        raise SettingsError(f"expected stages of at least one block each, got sizes {tuple(sizes)}")
    mask = torch.zeros(len(sizes), sum(sizes), dtype=torch.bool)
    start = 0
    for stage, size in enumerate(sizes):
        mask[stage, start : start + size] = True
        start += size
    return mask


def inverse_softplus(value: float) -> float:
    """Return x with `softplus(x) == value`.

    Raises:
        SettingsError: `value` is not positive.
    """
    if not value > 0:
        raise SettingsError(f"expected a positive sigma, got {value}")
    return value + math.log(-math.expm1(-value))


class StageAggregation(nn.Module, ABC):
    """Weighted sum of the blocks of each stage.

    Args:
        sizes: number of tapped blocks in each stage, from shallow to deep.
    """

    mask: Tensor

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.register_buffer("mask", stage_mask(sizes), persistent=False)

    @abstractmethod
    def weights(self) -> Tensor:
        """Return the weight of each block in each stage, `[S, L]`; zero outside the stage."""

    def forward(self, blocks: Tensor) -> Tensor:
        """Aggregate block features.

        Args:
            blocks: features of the tapped blocks in the order of the plan, `[B, L, D]`.

        Returns:
            Stage features, `[B, S, D]`.
        """
        return torch.einsum("sl,bld->bsd", self.weights().to(blocks.dtype), blocks)

    def stage_weights(self) -> list[list[float]]:
        """Return the weights of each stage's own blocks, for reports."""
        table = self.weights().detach().cpu()
        return [row[mask].tolist() for row, mask in zip(table, self.mask.cpu(), strict=True)]


class GaussianAggregation(StageAggregation):
    """NGA with a learned sigma a stage, or a learned sigma a block.

    Args:
        sizes: number of tapped blocks in each stage.
        sigma: width at the start, in blocks; positive.
        per_layer: learn one sigma for each block instead of one for each stage.

    Raises:
        SettingsError: `sigma` is not positive, or `sizes` is not a plan.

    When no stage has more than one block the weights are 1 whatever sigma is, so sigma is a buffer
    and not a parameter: nothing is declared trainable that no gradient can reach.
    """

    distance: Tensor
    raw_sigma: Tensor

    def __init__(self, sizes: Sequence[int], sigma: float = 1.0, per_layer: bool = False) -> None:
        super().__init__(sizes)
        self.per_layer = per_layer
        steps = [size - position for size in self.sizes for position in range(size)]  # d - l + 1, l from 1
        self.register_buffer("distance", torch.tensor(steps, dtype=torch.float32), persistent=False)
        raw = torch.full((sum(self.sizes) if per_layer else len(self.sizes),), inverse_softplus(sigma))
        if max(self.sizes) > 1:
            self.raw_sigma = nn.Parameter(raw)
        else:
            self.register_buffer("raw_sigma", raw)

    def sigma(self) -> Tensor:
        """Return the widths in blocks, positive, `[S]` or, per layer, `[L]`."""
        return functional.softplus(self.raw_sigma)

    def weights(self) -> Tensor:
        """Return the normalised Gaussian weights, `[S, L]`, rows sum to 1."""
        sigma = self.sigma() if self.per_layer else self.sigma()[:, None]
        # A softmax of the exponents is the normalised Gaussian and cannot underflow to 0 / 0.
        exponents = -self.distance.square() / (2 * sigma.square())
        return exponents.expand_as(self.mask).masked_fill(~self.mask, -torch.inf).softmax(dim=1)


class FreeAggregation(StageAggregation):
    """One learned, unnormalised weight a block, as Cascade-CLIP's code has it.

    Args:
        sizes: number of tapped blocks in each stage.
        sigma: width of the Gaussian that the weights start from, `exp(-(d - l)^2 / (2 sigma^2))`:
            1.0 for the last block, 0.607 and 0.135 for the two before it at sigma 1.
    """

    block_weights: Tensor

    def __init__(self, sizes: Sequence[int], sigma: float = 1.0) -> None:
        super().__init__(sizes)
        inverse_softplus(sigma)  # validates
        steps = torch.tensor([size - 1 - position for size in self.sizes for position in range(size)])
        start = torch.exp(-steps.float().square() / (2 * sigma**2))
        if max(self.sizes) > 1:
            self.block_weights = nn.Parameter(start)
        else:  # a lone factor per stage is no aggregation, and cosine logits could not see it
            self.register_buffer("block_weights", start)

    def weights(self) -> Tensor:
        """Return the learned weights, `[S, L]`; rows need not sum to 1."""
        return self.block_weights * self.mask


class FixedAggregation(StageAggregation):
    """The mean of a stage's blocks, or its last block; nothing is learned.

    Args:
        sizes: number of tapped blocks in each stage.
        kind: `"mean"` or `"last"`.
    """

    def __init__(self, sizes: Sequence[int], kind: str) -> None:
        super().__init__(sizes)
        if kind not in ("mean", "last"):
            raise UnknownNameError("fixed aggregation", kind, ("mean", "last"))
        self.kind = kind

    def weights(self) -> Tensor:
        """Return the constant weights, `[S, L]`, rows sum to 1."""
        if self.kind == "mean":
            return self.mask / self.mask.sum(dim=1, keepdim=True)
        ends = torch.tensor(self.sizes, device=self.mask.device).cumsum(0) - 1
        return functional.one_hot(ends, self.mask.shape[1]).float()


def make_aggregation(kind: str, sizes: Sequence[int], sigma: float = 1.0, per_layer: bool = False) -> StageAggregation:
    """Build an aggregation by name.

    Args:
        kind: one of `AGGREGATIONS`.
        sizes: number of tapped blocks in each stage.
        sigma: start width in blocks, for `nga` and `free`.
        per_layer: for `nga`: a sigma for each block.

    Raises:
        UnknownNameError: no such aggregation.
    """
    if kind == "nga":
        return GaussianAggregation(sizes, sigma, per_layer)
    if kind == "free":
        return FreeAggregation(sizes, sigma)
    if kind in ("mean", "last"):
        return FixedAggregation(sizes, kind)
    raise UnknownNameError("aggregation", kind, AGGREGATIONS)
