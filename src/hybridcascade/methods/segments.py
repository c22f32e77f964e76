"""Segments of the tower with an alignment for each: what `multilayer` reads its features from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hybridcascade.cascade.aggregation import GaussianAggregation, make_aggregation
from hybridcascade.cascade.align import StageAlignment
from hybridcascade.methods.parts import parameter_names

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["SegmentReader"]


class SegmentReader(nn.Module):
    """CLS tokens of the tapped blocks to one aligned feature a segment, each segment's parameters apart.

    It computes what `methods.stages.StageReader` does with `pool="cls"`; there one tensor holds the alignment
    of all stages, here each segment has tensors of its own, which can train from different epochs on.

    Args:
        backbone: gives the start of each alignment, CLIP's `ln_post` and `proj`.
        sizes: number of tapped blocks in each segment.
        aggregation: name of `cascade.aggregation`.
        sigma: width of the Gaussian at the start, in blocks.
    """

    def __init__(
        self, backbone: ClipBackbone, sizes: Sequence[int], aggregation: str = "nga", sigma: float = 1.0
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.aggregation = make_aggregation(aggregation, sizes, sigma)
        start = backbone.cls_projection_init()
        self.alignments = nn.ModuleList(StageAlignment((size,), *start) for size in self.sizes)

    def forward(self, cls: Tensor) -> Tensor:
        """Return segment features, `[B, L, D]` to `[B, S, E]`, not normalised."""
        ends = list(accumulate(self.sizes, initial=0))
        parts = [
            cast(StageAlignment, alignment).normalise(cls[:, low:high])
            for alignment, (low, high) in zip(self.alignments, pairwise(ends), strict=True)
        ]
        tokens = self.aggregation(torch.cat(parts, dim=1))
        features = [
            cast(StageAlignment, alignment).project(tokens[:, segment : segment + 1])
            for segment, alignment in enumerate(self.alignments)
        ]
        return torch.cat(features, dim=1)

    def alignment_names(self, segment: int, prefix: str) -> tuple[str, ...]:
        """Return the names of what trains of a segment's alignment, as the method sees them.

        The last segment keeps CLIP's own projection: the text space is where that one leads. Only its
        LayerNorm trains.

        Args:
            segment: its number, from 0.
            prefix: name of this module in the method.
        """
        names = parameter_names(self.alignments[segment], f"{prefix}.alignments.{segment}")
        last = segment == len(self.sizes) - 1
        return tuple(name for name in names if not (last and name.endswith("projection")))

    def aggregation_names(self, prefix: str) -> tuple[str, ...]:
        """Return the names of what trains of the aggregation, as the method sees them."""
        return parameter_names(self.aggregation, f"{prefix}.aggregation")

    def learned(self) -> dict[str, list[float] | float]:
        """Return sigmas and block weights as plain numbers, for reports."""
        found: dict[str, list[float] | float] = {}
        if isinstance(self.aggregation, GaussianAggregation):
            found["nga_sigma_cls"] = self.aggregation.sigma().detach().cpu().tolist()
        for number, weights in enumerate(self.aggregation.stage_weights(), start=1):
            found[f"block_weights_cls_stage_{number}"] = weights
        return found
