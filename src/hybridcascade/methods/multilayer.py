"""Prompts of their own for every segment of the tower, unfrozen from deep to shallow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hybridcascade.backbone.plans import stage_plan
from hybridcascade.backbone.prompts import PromptSpec, VisualPrompts
from hybridcascade.cascade.fusion import StageFusion
from hybridcascade.cascade.heads import CosineHead, unit
from hybridcascade.cascade.losses import neighbour_consistency, smooth_target, soft_cross_entropy
from hybridcascade.errors import SettingsError
from hybridcascade.labelling.argmax import argmax_labels
from hybridcascade.methods.balanced_teacher import BalancedTeacher
from hybridcascade.methods.base import ParameterGroup, UnfreezeStep
from hybridcascade.methods.given import given_or_pseudo, needs_teacher
from hybridcascade.methods.parts import (
    collect_rows,
    layer_norm_names,
    mild_views,
    parameter_names,
    seeded_generator,
)
from hybridcascade.methods.segments import SegmentReader
from hybridcascade.methods.settings import method_settings
from hybridcascade.methods.text_head import as_texts, noisy_text_loss
from hybridcascade.types import ImageBatch, LossReport, Prediction, TextBatch, UnlabeledBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["MultiLayer", "schedule"]


def schedule(segments: int, share: float, names: Sequence[str] = ()) -> tuple[UnfreezeStep, ...]:
    """Return the steps of progressive training, evenly spread over the first `share` of a phase.

    Args:
        segments: S; step 0 is the warm-up, steps 1 to S - 1 open a segment each, step S opens all that is left.
        share: part of the phase after which everything trains, in [0, 1).
        names: of all parameter groups; a step names only groups that are among them.
    """
    opened = [["head", "class_bias", f"prompts_{segments}"]]
    opened += [[f"prompts_{number}", f"alignment_{number}"] for number in range(segments - 1, 0, -1)]
    opened.append([name for name in names if not any(name in step for step in opened)])
    words = ["warm-up", *(f"segment {number}" for number in range(segments - 1, 0, -1)), "everything"]
    return tuple(
        UnfreezeStep(word, number * share / segments, tuple(name for name in step if name in names))
        for number, (word, step) in enumerate(zip(words, opened, strict=True))
    )


class MultiLayer(BalancedTeacher):
    """Segments of the tower, each with prompts, NGA, alignment and a learned weight; progressive training.

    - The plan `multilayer` cuts 12 blocks into {1-4}, {5-8}, {9-11}, {12}. Prompt tokens of a segment's own
      enter at its first block. By default they *replace* those of the segment before: every block then
      attends to 16 more tokens, not to up to 64, and what earlier prompts did stays in CLS and patches.
      With `earlier_prompts=kept` they stay; the count of parameters is the same.
    - NGA sums the CLS tokens of a segment's blocks; its LayerNorm and projection, started as CLIP's own,
      lead to the text space. The last segment keeps CLIP's own projection and is CLIP's own prediction at
      the start, but for the prompts.
    - One cosine head, trained on noisy texts, scores all segments; learned weights fuse them.
    - Neighbouring segments are held together: KL from each deeper one, detached, to the one before it.

    New parameters beside head and alignment on ViT-B: 4 x 16 x 768 prompts, 4 sigmas and 4 segment weights,
    49,160. The sigma of a segment of one block is counted and has no effect.

    Progressive training, as `unfreezing` gives it: first the deepest segment's prompts and the head; then,
    from deep to shallow, prompts and alignment of one segment after the other; then the rest: NGA, segment
    weights, LayerNorms. A segment takes part in fusion and loss from the epoch on in which it opens, so what
    is untrained does not teach the head. Early epochs are cheap: no gradient passes below the first prompt
    that trains.

    Pseudo-labels are those of a frozen teacher, made before training, or LaFTer's (`labels`). With a
    `TargetBatch` the joint target of class and distribution takes their place wherever it is known.

    Args:
        backbone: the vision tower.
        text_features: unit vectors, `[T, E]`.
        text_labels: class of each text, int64 `[T]`.
        class_count: K.
        seed: of every draw.
        text_kinds: 0 for a class name in a template, 1 for a description, int64 `[T]`; None for one kind.
        settings: the fields of `MultiLayerSettings`.
    """

    name: ClassVar[str] = "multilayer"
    phases: ClassVar[tuple[str, ...]] = ("text", "image")
    needs: ClassVar[str] = "unlabelled"

    teacher_prototypes: Tensor
    teacher_head: Tensor

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
        self.plan = stage_plan(own.plan, backbone.depth)
        self.keep_texts(text_features, text_labels, class_count, text_kinds)
        scale = backbone.logit_scale / float(self.teacher_temperature)
        self.head = CosineHead(self.teacher_prototypes, scale, class_bias=own.class_bias)
        self.register_buffer("teacher_head", self.teacher_prototypes.clone())
        spec = PromptSpec.staged(self.plan, own.prompts, replace=own.earlier_prompts == "replaced")
        draw = seeded_generator(seed, "prompts").initial_seed()
        init = "neutral" if own.prompt_init == "neutral" else "uniform"
        self.prompts = VisualPrompts(spec, backbone.width, backbone.depth, backbone.heads, init=init, seed=draw)
        self.reader = SegmentReader(backbone, self.plan.sizes, own.aggregation, own.sigma)
        self.fusion = StageFusion(len(self.plan.stages), own.fusion_start, own.fusion_gap)
        self._open = [True] * len(self.plan.stages)

    # -- what trains when -----------------------------------------------------------------------------

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """Text: the head's class vectors. Image: head, and for each segment prompts and alignment; the rest."""
        if phase == "text":
            return (ParameterGroup("head", ("head.weight",)),)
        own = self.settings
        bias = ("head.bias",) if own.class_bias else ()
        groups = [ParameterGroup("head", ("head.weight",)), ParameterGroup("class_bias", bias, weight_decay=0.0)]
        for segment in reversed(range(len(self.plan.stages))):
            prompts = (f"prompts.tokens.{segment}", *([f"prompts.gates.{segment}"] if len(self.prompts.gates) else []))
            alignment = self.reader.alignment_names(segment, "reader")
            groups.append(ParameterGroup(f"prompts_{segment + 1}", prompts, own.prompt_lr_scale))
            groups.append(ParameterGroup(f"alignment_{segment + 1}", alignment, own.alignment_lr_scale))
        nga, fusion = self.reader.aggregation_names("reader"), parameter_names(self.fusion, "fusion")
        groups += [
            ParameterGroup("nga", nga, own.nga_lr_scale, weight_decay=0.0),
            ParameterGroup("segment_weights", fusion, own.fusion_lr_scale, weight_decay=0.0),
            ParameterGroup("layer_norms", self._layer_norms() if own.train_layer_norms else ()),
        ]
        return tuple(group for group in groups if group.parameters)

    def _layer_norms(self) -> tuple[str, ...]:
        """LayerNorms that the prediction passes: not `ln_post`, and none behind the deepest segment."""
        names = layer_norm_names(self.backbone, with_last=False)
        return names[: len(names) - 4 * (self.backbone.depth - self.plan.taps[-1])]

    def unfreezing(self, phase: str) -> tuple[UnfreezeStep, ...]:
        """Return the schedule: warm-up, a step for each shallower segment, and one for all that is left."""
        if phase != "image" or not self.settings.progressive:
            return ()
        names = tuple(group.name for group in self.parameter_groups(phase))
        return schedule(len(self.plan.stages), self.settings.unfreeze_share, names)

    def groups_opened(self, phase: str, groups: frozenset[str]) -> None:
        """Let segments take part whose prompts train."""
        if phase == "image":
            self._open = [f"prompts_{number + 1}" in groups for number in range(len(self.plan.stages))]

    # -- labels ---------------------------------------------------------------------------------------

    def begin_phase(self, phase: str, plain: Iterable[ImageBatch] | None, targets: Tensor | None = None) -> None:
        """Image phase: keep the text-trained head, label the pictures that have no target, start the student.

        Raises:
            SettingsError: there are pictures without target, and no plain pictures for the teacher.
        """
        own = self.settings
        if phase != "image":
            return
        self.teacher_head.copy_(self.head.weight.detach())
        if own.head_start == "prototypes":
            self.head.weight.data.copy_(self.teacher_prototypes)
        if own.prompt_init == "cls":
            self._start_prompts(plain)
        if own.labels == "live" or not needs_teacher(targets):
            return
        if plain is None:
            raise SettingsError("multilayer: the image phase needs plain pictures for its teacher, or all targets")
        logits = self.label_pictures(plain)
        # Student and teacher score at one temperature, so that the student starts where its labels are.
        self.head.log_scale.data.copy_((self.backbone.logit_scale / self.teacher_temperature).log())
        if self.head.bias is not None and own.labels == "sinkhorn" and targets is None:
            self.head.bias.data.copy_(self.balance(logits))

    @torch.no_grad()
    def _start_prompts(self, plain: Iterable[ImageBatch] | None) -> None:
        """Move the prompts' draw to the mean CLS token of where they enter.

        What CLS and patches then read from untrained prompts is near what they read from CLS. Tokens drawn around
        zero, and mean patches too, say something else, and take a fifth of the attention of a small tower.
        """
        if plain is None:
            raise SettingsError(
                "multilayer: prompt_init=cls needs plain pictures; give some, or set prompt_init=uniform"
            )
        places = [entry.after_block for entry in self.prompts.spec().entries]
        taps = tuple(place for place in places if place)
        seen = collect_rows(plain, lambda images: self.backbone.forward_taps(images, taps=taps).cls, self.device)
        means = dict(zip(taps, seen.mean(dim=0), strict=True)) | {0: self.backbone.first_cls()}
        for tokens, place in zip(self.prompts.tokens, places, strict=True):
            tokens.add_(means[place].to(tokens.device))

    @torch.no_grad()
    def _teacher(self, images: Tensor) -> Tensor:
        """Logits of plain views `[B, 3, H, W]` through the tower as it is, without prompts, `[B, K]`."""
        return self.teacher_scores(self._mean_feature(images))

    def teacher_scores(self, features: Tensor) -> Tensor:
        """Score `[N, E]` with the texts, or with `teacher_source=text_head` with the head trained on them."""
        if self.settings.teacher_source != "text_head":
            return super().teacher_scores(features)
        return self.backbone.logit_scale * features @ unit(self.teacher_head).T

    def _target(self, batch: UnlabeledBatch) -> Tensor:
        own = self.settings

        def pseudo() -> Tensor:
            live = own.labels == "live"
            labels = argmax_labels(self._teacher(batch.plain)) if live else self.teacher_rows("labels", batch.index)
            return smooth_target(labels, own.label_smoothing)

        return given_or_pseudo(batch, own.distribution_share, pseudo)

    # -- loss and prediction --------------------------------------------------------------------------

    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Text: noisy texts. Image: fit of the fusion and of the shallower segments, neighbours' consistency."""
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
        target = self._target(batch)
        prediction = self(batch.strong)
        terms = {"fit": soft_cross_entropy(prediction.logits, target)}
        stages = prediction.stage_logits
        if stages.shape[1] > 1:
            # Weights of 0, not fewer terms: under DDP all parameters must be part of every step.
            part = torch.tensor(self._open[:-1], device=stages.device).float()
            single = torch.stack([soft_cross_entropy(stage, target) for stage in stages[:, :-1].unbind(dim=1)])
            terms["segment_fit"] = own.segment_loss * (part * single).mean()
            terms["consistency"] = own.consistency * (part * neighbour_consistency(stages)).mean()
        loss = torch.stack(list(terms.values())).sum()
        agreement = (prediction.logits.detach().argmax(dim=-1) == target.argmax(dim=-1)).float().mean()
        scalars: dict[str, float | Tensor] = {"image_loss": loss.detach(), "agreement": agreement}
        return LossReport(loss, scalars | {name: term.detach() for name, term in terms.items()})

    def _weights(self) -> Tensor:
        """Weights of the segments that take part, `[S]`, summing to 1."""
        weights = self.fusion.weights()
        part = torch.tensor(self._open, device=weights.device).to(weights.dtype)
        return weights * part / (weights * part).sum()

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]`: segments, head, fusion; in evaluation the mean over views."""
        weights = self._weights()
        count = 1 if self.training else self.settings.predict_views
        views = [self._stage_logits(view) for view in mild_views(images, count)]
        if count == 1:
            return Prediction(torch.einsum("s,bsk->bk", weights, views[0]), views[0], weights)
        fused = [torch.einsum("s,bsk->bk", weights, view).log_softmax(dim=-1) for view in views]
        stages = torch.stack(views).log_softmax(dim=-1).mean(dim=0)
        return Prediction(torch.stack(fused).mean(dim=0), stages, weights)

    def _stage_logits(self, images: Tensor) -> Tensor:
        """Scores of each segment, `[B, 3, H, W]` to `[B, S, K]`."""
        taps = self.backbone.forward_taps(images, taps=self.plan.taps, prompts=self.prompts)
        logits: Tensor = self.head(self.reader(taps.cls))
        return logits

    def learned(self) -> dict[str, list[float] | float]:
        """Return segment weights, sigmas and block weights."""
        return {"stage_weights": self.fusion.weights().detach().cpu().tolist()} | self.reader.learned()
