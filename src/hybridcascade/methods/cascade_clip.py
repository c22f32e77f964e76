"""Cascade-CLIP turned to classification: a text-image decoder for each stage, summed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor, nn

from hybridcascade.backbone.plans import stage_plan
from hybridcascade.backbone.stored import is_stored
from hybridcascade.cascade.aggregation import GaussianAggregation, make_aggregation
from hybridcascade.cascade.align import CascadeStages, StageAlignment
from hybridcascade.cascade.decoder import TextImageDecoder, stage_patches
from hybridcascade.cascade.heads import unit
from hybridcascade.cascade.losses import smooth_target, soft_cross_entropy
from hybridcascade.errors import SettingsError
from hybridcascade.methods.balanced_teacher import BalancedTeacher
from hybridcascade.methods.base import FeatureNeeds, ParameterGroup
from hybridcascade.methods.ema import mixed_logits, start_average, update_average
from hybridcascade.methods.given import given_or_pseudo, needs_teacher
from hybridcascade.methods.parts import (
    check_waiting_prompts,
    layer_norm_names,
    mild_views,
    parameter_names,
    seeded_generator,
    shallow_prompts,
)
from hybridcascade.methods.settings import method_settings
from hybridcascade.types import ImageBatch, LossReport, Prediction, Taps, TextBatch, UnlabeledBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["CascadeClip"]

# Size of the decoders' logits at the start: unseen beside zero-shot scores, yet not 0, see `TextImageDecoder`.
_SILENCE = 0.01


class CascadeClip(BalancedTeacher):
    """Class queries read the patch tokens of each stage; what the decoders find is summed.

    - A stage's patch tokens get the stage's LayerNorm and projection (both start as CLIP's own and train)
      and are summed over its blocks by NGA, or by Cascade-CLIP's free weights.
    - Each stage has a decoder of its own. The query of a class is made of its text and the final feature.
    - With `start="zero_shot"` the sum corrects the balanced zero-shot prediction.

    It learns from the pseudo-labels of `BalancedTeacher`, which `live` and `ema` teachers renew at each epoch, or,
    where a `TargetBatch` has a known target, from the joint target of class and distribution.

    Departures from Cascade-CLIP: each stage's projection trains (there it stays random), blocks are summed
    before the projection and normalised after it, the tower stays frozen unless prompts or LayerNorms are
    switched on, and the loss is the cross-entropy of a classifier.

    Args:
        backbone: the vision tower.
        text_features: unit vectors, `[T, E]`.
        text_labels: class of each text, int64 `[T]`.
        class_count: K.
        seed: of every draw.
        text_kinds: 0 for a class name in a template, 1 for a description, int64 `[T]`; None for one kind.
        settings: the fields of `CascadeClipSettings`.
    """

    name: ClassVar[str] = "cascade_clip"
    phases: ClassVar[tuple[str, ...]] = ("image",)
    needs: ClassVar[str] = "unlabelled"
    tunes: ClassVar[tuple[str, ...]] = ("full", "heads")

    prototypes: Tensor
    scale: Tensor

    def __init__(
        self,
        *,
        backbone: ClipBackbone,
        text_features: Tensor,
        text_labels: Tensor,
        class_count: int,
        seed: int = 0,
        text_kinds: Tensor | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        own = self.settings = method_settings(self.name, settings)
        self.backbone = backbone
        self.plan = stage_plan(own.plan, backbone.depth)
        self.keep_texts(text_features, text_labels, class_count, text_kinds)
        self.register_buffer("prototypes", self.teacher_prototypes.clone())
        # Zero-shot scores at the labels' temperature, so that training starts where its labels are.
        self.register_buffer("scale", backbone.logit_scale / self.teacher_temperature)
        biased = own.class_bias and own.start == "zero_shot"
        self.class_bias = nn.Parameter(torch.zeros(class_count)) if biased else None
        self.prompts = shallow_prompts(backbone, own.prompts, own.prompt_init, seed) if own.prompts else None
        aggregation = make_aggregation(own.aggregation, self.plan.sizes, own.sigma)
        self.stages = CascadeStages(aggregation, StageAlignment(self.plan.sizes, *backbone.cls_projection_init()))
        heads = own.decoder_heads
        width = own.decoder_width or heads * max(1, round(backbone.embed_dim / 2 / heads))
        self.decoders = nn.ModuleList(
            TextImageDecoder(
                backbone.embed_dim,
                seeded_generator(seed, "decoder", stage),
                width=width,
                layers=own.decoder_layers,
                heads=heads,
                feed_forward=own.feed_forward or 2 * width,
                readout=own.readout,
                readout_start=_SILENCE if own.start == "zero_shot" else 1.0,
            )
            for stage in range(len(self.plan.stages))
        )

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """Decoders, stages, class bias; in the image phase prompts and LayerNorms where switched on."""
        stages = parameter_names(self.stages, "stages")
        mixing = tuple(name for name in stages if ".aggregation." in name)
        prompts = parameter_names(self.prompts, "prompts") if self.prompts is not None else ()
        groups = (
            ParameterGroup("decoders", parameter_names(self.decoders, "decoders")),
            ParameterGroup("alignment", tuple(name for name in stages if ".alignment." in name)),
            ParameterGroup("mixing", mixing, lr_scale=self.settings.mixing_lr_scale, weight_decay=0.0),
            ParameterGroup("class_bias", () if self.class_bias is None else ("class_bias",), weight_decay=0.0),
            ParameterGroup("prompts", prompts),
            ParameterGroup("layer_norms", layer_norm_names(self.backbone, self.settings.train_layer_norms)),
        )
        inside = ("layer_norms", "prompts") if phase == "heads" else ()
        return tuple(group for group in groups if group.parameters and group.name not in inside)

    def feature_needs(self) -> FeatureNeeds:
        """All patch tokens of the stages, in all views that the teacher or the prediction looks at.

        Raises:
            SettingsError: untrained prompts would change the tower.
        """
        own = self.settings
        check_waiting_prompts(self.name, self.prompts)
        return FeatureNeeds(self.plan.taps, patches=True, views=max(own.teacher_views, own.predict_views))

    def begin_phase(self, phase: str, plain: Iterable[ImageBatch] | None, targets: Tensor | None = None) -> None:
        """Label the pictures with the frozen zero-shot teacher and start the class bias at their balance.

        An image phase after a heads phase goes on with the labels and the bias that it finds.

        Raises:
            SettingsError: neither plain pictures for the teacher nor targets were given.
        """
        own, warm = self.settings, self.started_warm(phase)
        if needs_teacher(targets) and not warm:
            if plain is None:
                raise SettingsError("cascade_clip: training needs plain pictures for its teacher, or targets")
            logits = self.label_pictures(plain)
            self.scale.copy_(self.backbone.logit_scale / self.teacher_temperature)
            if own.teacher != "frozen":
                self.set_teacher("logits", logits)
            if self.class_bias is not None and own.labels == "sinkhorn":
                self.class_bias.data.copy_(self.balance(logits))
        if own.teacher == "ema":
            start_average(self, self._trained(phase))

    def begin_epoch(self, phase: str, epoch: int, plain: Iterable[ImageBatch] | None) -> None:
        """Live and ema teachers: relabel with the model as it is, anchored to the frozen teacher."""
        frozen = self._buffers.get("teacher_logits")
        if epoch == 0 or frozen is None:
            return
        own = self.settings
        mixed = mixed_logits(
            self, self._trained(phase), plain, frozen,
            teacher=own.teacher, share=own.teacher_share, temperature=self.teacher_temperature,
        )  # fmt: skip
        self.label(mixed)

    def after_step(self, phase: str) -> None:
        """Move the ema teacher."""
        if self.settings.teacher == "ema":
            update_average(self, self._trained(phase), self.settings.ema_decay)

    def _trained(self, phase: str) -> list[str]:
        return sorted(self.trainable_names(phase))

    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Cross-entropy of the summed prediction on strong views to labels or targets."""
        if isinstance(batch, TextBatch):
            raise TypeError("cascade_clip learns from pictures, got a TextBatch")
        own = self.settings

        def pseudo() -> Tensor:
            return smooth_target(self.teacher_rows("labels", batch.index), own.label_smoothing)

        target = given_or_pseudo(batch, own.distribution_share, pseudo)
        logits = self(batch.strong).logits
        loss = soft_cross_entropy(logits, target)
        agreement = (logits.detach().argmax(dim=-1) == target.argmax(dim=-1)).float().mean()
        return LossReport(loss, {"image_loss": loss.detach(), "agreement": agreement})

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]`; in evaluation the mean over `predict_views` views.

        The stage scores of the result are what the whole would be if every decoder said what this one says:
        the zero-shot scores plus S times the decoder's. Their mean, stage weights 1/S, is the prediction.
        """
        views = [images] if self.training else mild_views(images, self.settings.predict_views)
        scores = [self._stage_logits(view) for view in views]
        weights = scores[0].new_full((len(self.decoders),), 1 / len(self.decoders))
        if len(scores) == 1:
            return Prediction(scores[0].mean(dim=1), scores[0], weights)
        fused = torch.stack([view.mean(dim=1).log_softmax(dim=-1) for view in scores]).mean(dim=0)
        return Prediction(fused, torch.stack(scores).log_softmax(dim=-1).mean(dim=0), weights)

    def _stage_logits(self, images: Tensor) -> Tensor:
        """Scores of each stage as `forward` tells, `[B, 3, H, W]` to `[B, S, K]`."""
        taps, patches = self._read(images)
        image = unit(taps.image.float())
        said = [decoder(patches[:, stage], self.prototypes, image) for stage, decoder in enumerate(self.decoders)]
        stage_logits = len(said) * torch.stack(said, dim=1)
        if self.settings.start == "alone":
            return stage_logits
        base = self.scale * image @ self.prototypes.T
        if self.class_bias is not None:
            base = base + self.class_bias
        return base.unsqueeze(1) + stage_logits

    def _read(self, images: Tensor) -> tuple[Taps, Tensor]:
        """Taps of pictures, and their patches by stage `[B, S, P, E]`."""
        prompts = None if is_stored(images) else self.prompts
        taps = self.backbone.forward_taps(images, taps=self.plan.taps, prompts=prompts, patches=True)
        if taps.patches is None:
            raise SettingsError("cascade_clip reads patch tokens, and the tower gave none: its plan has no blocks")
        return taps, stage_patches(self.stages, taps.patches.float())

    @torch.no_grad()
    def maps(self, images: Tensor) -> Tensor:
        """Show where each stage's decoder looks for each class: what Cascade-CLIP segments by.

        Args:
            images: normalised pictures `[B, 3, H, W]`.

        Returns:
            Scores of the last decoder layer before the softmax over patches, mean over its heads,
            `[B, S, K, h, w]` with h x w the patch grid; comparable within a map. Their sum over S is
            Cascade-CLIP's map.
        """
        taps, patches = self._read(images)
        image = unit(taps.image.float())
        found = [
            cast(TextImageDecoder, decoder).scores(patches[:, stage], self.prototypes, image)
            for stage, decoder in enumerate(self.decoders)
        ]
        return torch.stack([scores.view(*scores.shape[:2], *self.backbone.patch_grid) for scores in found], dim=1)

    def learned(self) -> dict[str, list[float] | float]:
        """Return sigmas, block weights and the class bias."""
        aggregation = self.stages.aggregation
        found: dict[str, list[float] | float] = {}
        if isinstance(aggregation, GaussianAggregation):
            found["nga_sigma_patch"] = aggregation.sigma().detach().cpu().tolist()
        for number, weights in enumerate(aggregation.stage_weights(), start=1):
            found[f"block_weights_patch_stage_{number}"] = weights
        if self.class_bias is not None:
            found["class_bias"] = self.class_bias.detach().cpu().tolist()
        return found
