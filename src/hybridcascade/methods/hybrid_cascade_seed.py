"""HybridCascade-LaFTer as the seed documents describe it, with every part really trained."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from hybridcascade.backbone.plans import stage_plan
from hybridcascade.cascade.fusion import StageFusion
from hybridcascade.cascade.losses import smooth_target, soft_cross_entropy, stage_consistency
from hybridcascade.methods.base import ParameterGroup
from hybridcascade.methods.given import given_or_pseudo
from hybridcascade.methods.lafter import Lafter
from hybridcascade.methods.parts import layer_norm_names, parameter_names
from hybridcascade.methods.stages import StageReader, learned_stages, stage_groups
from hybridcascade.methods.text_only import TextOnly
from hybridcascade.types import LossReport, Prediction, TextBatch, UnlabeledBatch

__all__ = ["HybridCascadeSeed"]


class HybridCascadeSeed(Lafter):
    """Three stages of CLS tokens, NGA, one text-trained head for all, uniform learned fusion.

    Teacher, prompts and text stage are LaFTer's. With a `TargetBatch` the fused prediction learns the
    joint target of class and distribution, where it is known, instead of pseudo-labels.

    The prediction passes through each stage's own LayerNorm and projection, the last block's too, so
    CLIP's `ln_post` is only the teacher's and stays frozen.

    Args:
        settings: the fields of `HybridCascadeSeedSettings`; the rest as in `TextOnly`.
    """

    name: ClassVar[str] = "hybrid_cascade_seed"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.plan = stage_plan(self.settings.plan, self.backbone.depth)
        self.reader = StageReader(
            self.backbone, self.plan.sizes, aggregation=self.settings.aggregation, sigma=self.settings.sigma
        )
        self.fusion = StageFusion(len(self.plan.stages), start="uniform")

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """Text: the head. Image: head, LayerNorms the prediction passes, prompts, stages, fusion."""
        text = TextOnly.parameter_groups(self, phase)
        if phase == "text":
            return text
        return (
            *text,
            ParameterGroup("layer_norms", self._live_layer_norms()),
            ParameterGroup("prompts", parameter_names(self.prompts, "prompts")),
            *stage_groups(self.reader, self.fusion),
        )

    def _live_layer_norms(self) -> tuple[str, ...]:
        names = layer_norm_names(self.backbone, with_last=False)
        # Blocks behind the deepest tap do not reach the prediction, so nothing of them is declared.
        unreached = 4 * (self.backbone.depth - max(self.plan.taps))
        return names[: len(names) - unreached]

    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Text: see `TextOnly`. Image: cross-entropy of the fused logits plus weighted consistency."""
        if phase == "text" or isinstance(batch, TextBatch):
            return super().training_loss(phase, batch, step)
        prediction = self(batch.strong)

        def pseudo() -> Tensor:
            return smooth_target(self.pseudo_labels(batch.plain), self.settings.label_smoothing)

        target = given_or_pseudo(batch, self.settings.distribution_share, pseudo)
        fit = soft_cross_entropy(prediction.logits, target)
        consistency = stage_consistency(prediction.stage_logits)
        loss = fit + self.settings.consistency * consistency
        return LossReport(loss, {"image_loss": loss.detach(), "fit": fit.detach(), "consistency": consistency.detach()})

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]`: stages, shared head, fusion."""
        taps = self.backbone.forward_taps(images, taps=self.plan.taps, prompts=self.prompts)
        stage_logits = self.head(self.reader(taps))
        return Prediction(self.fusion(stage_logits), stage_logits, self.fusion.weights())

    def learned(self) -> dict[str, list[float] | float]:
        """Return sigmas, block weights and stage weights."""
        return learned_stages(self.reader, self.fusion)
