"""Stages of the cascade methods, built on a backbone: shared by the seed method and ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hybridcascade.cascade.aggregation import GaussianAggregation, StageAggregation, make_aggregation
from hybridcascade.cascade.align import CascadeStages, StageAlignment
from hybridcascade.cascade.fusion import StageFusion
from hybridcascade.errors import SettingsError
from hybridcascade.methods.base import ParameterGroup
from hybridcascade.methods.parts import parameter_names
from hybridcascade.types import Taps

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["StageReader", "learned_stages", "stage_groups"]


class StageReader(nn.Module):
    """Taps of one forward pass to one aligned feature a stage.

    CLS tokens and patch means differ in kind, so each has its own alignment and aggregation.

    Args:
        backbone: gives the start of the alignment, CLIP's `ln_post` and `proj`.
        sizes: number of tapped blocks in each stage.
        pool: `"cls"`, `"patch"` or `"both"`.
        aggregation: name of `cascade.aggregation`.
        sigma: width of the Gaussian at the start, in blocks.
        per_layer: learn a sigma for each block.
    """

    def __init__(
        self,
        backbone: ClipBackbone,
        sizes: Sequence[int],
        pool: str = "cls",
        aggregation: str = "nga",
        sigma: float = 1.0,
        per_layer: bool = False,
    ) -> None:
        super().__init__()
        start = backbone.cls_projection_init()
        self.kinds = ("cls", "patch") if pool == "both" else (pool,)
        self.stages = nn.ModuleDict()
        for kind in self.kinds:
            block_sum = make_aggregation(aggregation, sizes, sigma, per_layer)
            self.stages[kind] = CascadeStages(block_sum, StageAlignment(sizes, *start))

    @property
    def needs_patch_mean(self) -> bool:
        """Whether the taps must hold the mean patch tokens."""
        return "patch" in self.kinds

    def forward(self, taps: Taps) -> Tensor:
        """Return stage features, `[B, S, E]`, not normalised; for `both` the mean of the two kinds."""
        return torch.stack([self._read(kind, taps) for kind in self.kinds]).mean(dim=0)

    def aggregation(self, kind: str) -> StageAggregation:
        """Return the aggregation of `"cls"` or `"patch"` tokens."""
        stages = cast(CascadeStages, self.stages[kind])
        return stages.aggregation

    def _read(self, kind: str, taps: Taps) -> Tensor:
        tokens = taps.cls if kind == "cls" else taps.patch_mean
        if tokens is None:
            raise SettingsError("the stages read patch tokens, but the taps were made without patch_mean")
        features: Tensor = self.stages[kind](tokens)
        return features


def stage_groups(
    reader: StageReader | None, fusion: StageFusion, lr_scale: float = 1.0, alignment_lr_scale: float = 1.0
) -> tuple[ParameterGroup, ...]:
    """Declare the parameters of a method's submodules `reader` and `fusion`.

    Sigmas, block weights and stage weights form a group of their own without weight decay: decay would
    pull them to values that mean something (equal weights), not to "small".

    Args:
        reader: the method's `reader`, or None without shallower stages.
        fusion: the method's `fusion`.
        lr_scale: learning rate of that group over the phase's.
        alignment_lr_scale: learning rate of the alignment over the phase's.
    """
    names = parameter_names(reader, "reader") if reader is not None else ()
    alignment = tuple(name for name in names if ".alignment." in name)
    mixing = tuple(name for name in names if ".aggregation." in name) + parameter_names(fusion, "fusion")
    groups = (
        ParameterGroup("alignment", alignment, lr_scale=alignment_lr_scale),
        ParameterGroup("mixing", mixing, lr_scale=lr_scale, weight_decay=0.0),
    )
    return tuple(group for group in groups if group.parameters)


def learned_stages(reader: StageReader | None, fusion: StageFusion) -> dict[str, list[float] | float]:
    """Return sigmas, block weights and stage weights as plain numbers, for reports."""
    found: dict[str, list[float] | float] = {"stage_weights": fusion.weights().detach().cpu().tolist()}
    if reader is None:
        return found
    for kind in reader.kinds:
        aggregation = reader.aggregation(kind)
        if isinstance(aggregation, GaussianAggregation):
            found[f"nga_sigma_{kind}"] = aggregation.sigma().detach().cpu().tolist()
        for number, weights in enumerate(aggregation.stage_weights(), start=1):
            found[f"block_weights_{kind}_stage_{number}"] = weights
    return found
