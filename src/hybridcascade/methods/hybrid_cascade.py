"""Our own method: balanced soft labels of a good teacher, cosine logits, stages beside CLIP's own path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from hybridcascade.backbone.plans import stage_plan
from hybridcascade.backbone.stored import is_stored
from hybridcascade.cascade.fusion import StageFusion, agreement_weights
from hybridcascade.cascade.heads import CosineHead, ResidualAdapter, StageHeads, unit
from hybridcascade.cascade.losses import fairness, smooth_target, soft_cross_entropy, stage_consistency
from hybridcascade.errors import SettingsError
from hybridcascade.labelling.geometry import gate_polarity, spread_to_near
from hybridcascade.labelling.sinkhorn import column_bias, sinkhorn
from hybridcascade.labelling.soft import refine
from hybridcascade.methods.balanced_teacher import BalancedTeacher
from hybridcascade.methods.base import FeatureNeeds, ParameterGroup
from hybridcascade.methods.ema import mixed_logits, start_average, update_average
from hybridcascade.methods.given import given_or_pseudo, needs_teacher
from hybridcascade.methods.parts import (
    check_waiting_prompts,
    collect_rows,
    layer_norm_names,
    mild_views,
    parameter_names,
    seeded_generator,
    shallow_prompts,
)
from hybridcascade.methods.settings import method_settings
from hybridcascade.methods.stages import StageReader, learned_stages, stage_groups
from hybridcascade.methods.text_head import as_texts, noisy_text_loss
from hybridcascade.types import ImageBatch, LossReport, Prediction, StagePlan, TargetBatch, TextBatch, UnlabeledBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["HybridCascade"]

_AGREEMENT_EPSILON = 0.1  # of the stages' joint assignment: near a balanced first maximum


class HybridCascade(BalancedTeacher):
    """Label-free tuning on balanced soft labels; CLIP's own path starts at the balanced zero-shot prediction.

    - The colours of the pictures are aligned with what the weights expect, once, before all else.
    - Heads start at the mean texts and score cosines at CLIP's logit scale over the temperature of the
      labels, with a class bias that starts at Sinkhorn's balance. The temperature makes descriptions on
      average as sure as CLIP is with class names alone.
    - The teacher averages over mild views and labels all training pictures before training, balanced by
      Sinkhorn; `live` and `ema` teachers relabel at each epoch, anchored to the first labels.
    - The last block is a stage of its own on CLIP's own path (`ln_post`, `proj`), untouched at the
      start; the shallower stages have their own alignment. Learned weights fuse all stages, and start
      uniform or, with `fusion_start=last`, on CLIP's own path.

    With a `TargetBatch` the joint target of class and distribution takes the labels' place where it is known.

    Args:
        backbone: the vision tower.
        text_features: unit vectors, `[T, E]`.
        text_labels: class of each text, int64 `[T]`.
        class_count: K.
        seed: of every draw.
        text_kinds: 0 for a class name in a template, 1 for a description, int64 `[T]`; None for one kind.
        settings: the fields of `HybridCascadeSettings`.

    Raises:
        SettingsError: the settings leave nothing to train on pictures.
    """

    name: ClassVar[str] = "hybrid_cascade"
    phases: ClassVar[tuple[str, ...]] = ("text", "image")
    needs: ClassVar[str] = "unlabelled"
    tunes: ClassVar[tuple[str, ...]] = ("full", "heads")

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
        self.seed = seed
        self.backbone = backbone
        self.keep_texts(text_features, text_labels, class_count, text_kinds)
        scale = backbone.logit_scale / float(self.teacher_temperature)
        self.head = CosineHead(self.teacher_prototypes, scale, own.train_logit_scale, own.class_bias)
        self.prompts = shallow_prompts(backbone, own.prompts, own.prompt_init, seed) if own.prompts else None
        self._build_stages()
        self.adapter: nn.Module = nn.Identity()
        if own.adapter_rank:
            generator = seeded_generator(seed, "adapter")
            self.adapter = ResidualAdapter(backbone.embed_dim, own.adapter_rank, generator)
        if not self.trainable_names("image"):
            raise SettingsError("hybrid_cascade: these settings leave nothing to train on pictures")

    def _build_stages(self) -> None:
        own = self.settings
        depth = self.backbone.depth
        # CLIP's own path is the last stage and in no plan; merging earlier blocks into it is known to hurt.
        shallow = [tuple(block for block in stage if block != depth) for stage in stage_plan(own.plan, depth).stages]
        self.plan = StagePlan(tuple(stage for stage in shallow if stage), depth)
        sizes = self.plan.sizes
        self.reader = (
            StageReader(self.backbone, sizes, own.pool, own.aggregation, own.sigma, own.sigma_per_layer)
            if sizes
            else None
        )
        self.fusion = StageFusion(len(sizes) + 1, own.fusion_start, own.fusion_gap, own.fusion)
        self.stage_heads = StageHeads(self.head, len(sizes) + 1) if own.heads == "per_stage" else None

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """Text: the head's class vectors. Image: what the settings switch on. Heads: of that what is no tower's."""
        if phase == "text":
            return (ParameterGroup("head", ("head.weight",)),)
        own = self.settings
        heads = parameter_names(self._image_head(), "stage_heads" if self.stage_heads is not None else "head")
        groups = (
            ParameterGroup("head", tuple(n for n in heads if n.endswith("weight") and own.train_head)),
            ParameterGroup("class_bias", tuple(n for n in heads if n.endswith("bias")), weight_decay=0.0),
            ParameterGroup("logit_scale", tuple(n for n in heads if n.endswith("log_scale")), weight_decay=0.0),
            ParameterGroup("adapter", parameter_names(self.adapter, "adapter")),
            ParameterGroup("layer_norms", layer_norm_names(self.backbone, own.train_layer_norms)),
            ParameterGroup("prompts", parameter_names(self.prompts, "prompts") if self.prompts is not None else ()),
            *stage_groups(self.reader, self.fusion, own.fusion_lr_scale, own.alignment_lr_scale),
        )
        inside = ("layer_norms", "prompts") if phase == "heads" else ()
        return tuple(group for group in groups if group.parameters and group.name not in inside)

    def feature_needs(self) -> FeatureNeeds:
        """The stages' blocks in all views that the teacher or the prediction looks at.

        Raises:
            SettingsError: nothing outside of the tower trains, or untrained prompts would change the tower.
        """
        own = self.settings
        if not self.trainable_names("heads"):
            raise SettingsError("hybrid_cascade: these settings leave nothing to train outside of the tower")
        check_waiting_prompts(self.name, self.prompts)
        patch_mean = self.reader is not None and self.reader.needs_patch_mean
        return FeatureNeeds(self.plan.taps, patch_mean, views=max(own.teacher_views, own.predict_views))

    def _image_head(self) -> nn.Module:
        return self.head if self.stage_heads is None else self.stage_heads

    def set_geometry(self, near: Tensor | None, signs: Tensor | None) -> None:
        """Keep the geometry for the settings `wheel` and `polarity_gate`."""
        if near is not None:
            self.set_teacher("near", near.float())
        if signs is not None:
            self.set_teacher("signs", signs)

    def _shaped(self, labels: Tensor) -> Tensor:
        own = self.settings
        near, signs = self._buffers.get("teacher_near"), self._buffers.get("teacher_signs")
        if (own.wheel and near is None) or (own.polarity_gate and signs is None):
            raise SettingsError(
                "hybrid_cascade: wheel and polarity_gate need an emotion space with a ring or a polarity, such as "
                "--space mikels8"
            )
        labels = gate_polarity(labels, signs, own.polarity_gate) if signs is not None else labels
        return spread_to_near(labels, near, own.wheel) if near is not None else labels

    def begin_phase(self, phase: str, plain: Iterable[ImageBatch] | None, targets: Tensor | None = None) -> None:
        """Heads or image phase: label the pictures with the frozen teacher, then start the student's head.

        An image phase after a heads phase goes on with the labels and heads that it finds.

        Raises:
            SettingsError: neither plain pictures for the teacher nor targets were given.
        """
        if phase == "text":
            return
        if not self.started_warm(phase):
            self._start(plain, targets)
        if self.settings.teacher == "ema":
            start_average(self, self._names(phase))

    def _start(self, plain: Iterable[ImageBatch] | None, targets: Tensor | None) -> None:
        if needs_teacher(targets):
            if plain is None:
                raise SettingsError(
                    "hybrid_cascade: the image phase needs plain pictures for its teacher, or all targets"
                )
            features, logits = self.see_pictures(plain)
            self._label(logits, features)
            if self.settings.teacher != "frozen":
                self.set_teacher("logits", logits)
                if self._labels_read_features():
                    self.set_teacher("features", features)
            self._start_bias(logits)
        self._start_head()

    @torch.no_grad()
    def _start_bias(self, logits: Tensor) -> None:
        own = self.settings
        if self.head.bias is not None and own.labels == "sinkhorn":
            temperature = float(self.teacher_temperature)
            balanced = sinkhorn(logits.float(), temperature, self.get_buffer("teacher_prior"))
            self.head.bias.copy_(column_bias(logits, balanced, temperature))

    @torch.no_grad()
    def _start_head(self) -> None:
        if self.settings.head_start == "prototypes":
            self.head.weight.copy_(self.teacher_prototypes)
        # Student and teacher score at one temperature, so that the student starts where its labels are.
        self.head.log_scale.copy_((self.backbone.logit_scale / self.teacher_temperature).log())
        if self.stage_heads is not None:
            for head in self.stage_heads.heads:
                head.load_state_dict(self.head.state_dict())

    def teacher_scores(self, features: Tensor) -> Tensor:
        """Score `[N, E]` with the texts, the head trained on them, or both."""
        source = self.settings.teacher_source
        zero_shot = super().teacher_scores(features)
        if source == "zero_shot":
            return zero_shot
        learned: Tensor = self.head(unit(features)) * self.teacher_temperature
        return learned if source == "text_head" else (zero_shot + learned) / 2

    def _labels_read_features(self) -> bool:
        own = self.settings
        return bool(own.neighbours) or own.prior == "estimated" or own.labels in ("prototype", "anchored_mixture")

    def _label(self, logits: Tensor, features: Tensor | None) -> None:
        own = self.settings
        adaptive = own.prior == "adaptive"
        found = refine(
            logits,
            features,
            self.teacher_prototypes,
            kind=own.labels,
            epsilon=float(self.teacher_temperature),
            prior="uniform" if adaptive else own.prior,
            prior_power=float(self.get_buffer("teacher_power")),
            temperature=own.label_temperature,
            neighbours=own.neighbours,
            neighbour_share=own.neighbour_share,
            per_class=own.top_share,
            scale=self.backbone.logit_scale,
        )
        self.set_teacher("labels", self._shaped(found.labels))
        self.set_teacher("prior", found.prior)
        if own.labels in ("topk", "prototype"):  # the other kinds trust all pictures alike
            self.set_teacher("weights", found.weights)

    def begin_epoch(self, phase: str, epoch: int, plain: Iterable[ImageBatch] | None) -> None:
        """Live and ema teachers: relabel with the model as it is, anchored to the frozen teacher.

        With `fusion=agreement` the stages are weighed first.
        """
        if phase != "text" and self.settings.fusion == "agreement":
            self._weigh_stages(plain)
        frozen = self._buffers.get("teacher_logits")
        if phase == "text" or epoch == 0 or frozen is None:
            return
        own = self.settings
        mixed = mixed_logits(
            self, self._names(phase), plain, frozen,
            teacher=own.teacher, share=own.teacher_share, temperature=self.teacher_temperature,
        )  # fmt: skip
        self._label(mixed, self._buffers.get("teacher_features"))

    def _weigh_stages(self, plain: Iterable[ImageBatch] | None) -> None:
        if plain is None:
            raise SettingsError("hybrid_cascade: fusion=agreement needs plain pictures at each epoch")
        stages = collect_rows(plain, lambda images: self(images).stage_logits.softmax(dim=-1), self.device)
        shares = self._buffers.get("teacher_prior")
        shares = stages.mean(dim=(0, 1)) if shares is None else shares
        weights = agreement_weights(stages, lambda scores: sinkhorn(scores, _AGREEMENT_EPSILON, shares))
        self.fusion.set_weights(weights)

    def after_step(self, phase: str) -> None:
        """Move the ema teacher."""
        if phase != "text" and self.settings.teacher == "ema":
            update_average(self, self._names(phase), self.settings.ema_decay)

    def _names(self, phase: str) -> list[str]:
        return sorted(self.trainable_names(phase))

    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Text: noisy texts. Image: fit of the fusion and of the stages, consistency, fairness."""
        own = self.settings
        if phase == "text":
            return noisy_text_loss(
                self.head,
                as_texts(batch),
                noise_std=own.noise_std,
                smoothing=own.text_smoothing,
                seed=self.seed,
                step=step,
            )
        if isinstance(batch, TextBatch):
            raise TypeError("the image phase expects pictures, got a TextBatch")
        prediction = self(batch.strong)
        target = self._target(batch)
        trust = self._trust(batch)
        terms = {"fit": soft_cross_entropy(prediction.logits, target, weight=trust)}
        shallow = prediction.stage_logits[:, :-1]
        if shallow.shape[1]:
            repeated = target.repeat_interleave(shallow.shape[1], dim=0)
            trusts = None if trust is None else trust.repeat_interleave(shallow.shape[1])
            terms["stage_fit"] = own.stage_loss * soft_cross_entropy(shallow.flatten(0, 1), repeated, weight=trusts)
            consistency = stage_consistency(prediction.stage_logits, detach_teacher=True)
            terms["consistency"] = own.consistency * consistency
        if own.fairness:
            terms["fairness"] = own.fairness * fairness(prediction.logits)
        loss = torch.stack(list(terms.values())).sum()
        scalars: dict[str, float | Tensor] = {"image_loss": loss.detach()}
        return LossReport(loss, scalars | {name: term.detach() for name, term in terms.items()})

    def _target(self, batch: UnlabeledBatch) -> Tensor:
        def pseudo() -> Tensor:
            return smooth_target(self.teacher_rows("labels", batch.index), self.settings.label_smoothing)

        return given_or_pseudo(batch, self.settings.distribution_share, pseudo)

    def _trust(self, batch: UnlabeledBatch) -> Tensor | None:
        """Weight of each picture in the fit, `[B]`: of its label, 1 where a target is known; None for equal ones."""
        weights = self._buffers.get("teacher_weights")
        if weights is None:
            return None
        chosen = weights[batch.index]
        if not isinstance(batch, TargetBatch):
            return chosen
        return torch.ones_like(chosen) if batch.known is None else torch.where(batch.known, 1.0, chosen)

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]`: stages, cosine heads, fusion; in evaluation the mean over views."""
        weights = self.fusion.weights()
        if self.training or self.settings.predict_views == 1:
            stage_logits = self._stage_logits(images)
            return Prediction(self.fusion(stage_logits), stage_logits, weights)
        views = [self._stage_logits(view) for view in mild_views(images, self.settings.predict_views)]
        logits = torch.stack([self.fusion(view).log_softmax(dim=-1) for view in views]).mean(dim=0)
        return Prediction(logits, torch.stack(views).log_softmax(dim=-1).mean(dim=0), weights)

    def _stage_logits(self, images: Tensor) -> Tensor:
        """Scores of each stage, CLIP's own path last, `[B, 3, H, W]` to `[B, S, K]`."""
        patch_mean = self.reader is not None and self.reader.needs_patch_mean
        prompts = None if is_stored(images) else self.prompts  # stored without, and without effect while untrained
        taps = self.backbone.forward_taps(images, taps=self.plan.taps, prompts=prompts, patch_mean=patch_mean)
        features = taps.image.float().unsqueeze(1)
        if self.reader is not None:
            features = torch.cat([self.reader(taps), features], dim=1)
        stage_logits: Tensor = self._image_head()(self.adapter(unit(features)))
        return stage_logits

    def learned(self) -> dict[str, list[float] | float]:
        """Return sigmas, block weights, stage weights and the logit scale."""
        return learned_stages(self.reader, self.fusion) | {"logit_scale": float(self.head.log_scale.detach().exp())}
