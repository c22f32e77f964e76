"""LaFTer (NeurIPS 2023), re-implemented from its described behaviour, in its `faithful` preset."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hybridcascade.cascade.heads import unit
from hybridcascade.cascade.losses import soft_cross_entropy
from hybridcascade.labelling.argmax import argmax_labels
from hybridcascade.methods.base import ParameterGroup
from hybridcascade.methods.parts import layer_norm_names, parameter_names, shallow_prompts
from hybridcascade.methods.text_only import TextOnly
from hybridcascade.types import ImageBatch, LossReport, Prediction, TextBatch, UnlabeledBatch

__all__ = ["Lafter"]


class Lafter(TextOnly):
    """Hard labels of the text-trained head on plain views teach prompts, LayerNorms and head.

    - Teacher: a frozen copy of the text head, on unit features of the plain view, through the *live*
      LayerNorms, without prompts, without gradient.
    - Student: the head, on features of the strong view as they come (not normalised), with prompts.

    The two see features of very different length, and the teacher drifts with the LayerNorms: both are
    LaFTer's own and kept, since this is the reference. `hybrid_cascade` does otherwise.

    Args:
        settings: the fields of `LafterSettings`; the rest as in `TextOnly`.
    """

    name: ClassVar[str] = "lafter"
    phases: ClassVar[tuple[str, ...]] = ("text", "image")
    needs: ClassVar[str] = "unlabelled"

    teacher_head: Tensor

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.prompts = shallow_prompts(self.backbone, self.settings.prompts, self.settings.prompt_init, self.seed)
        self.register_buffer("teacher_head", self.head.weight.detach().clone())

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """Text: the head. Image: head, all visual LayerNorms, prompts; all with the phase's decay."""
        groups = super().parameter_groups(phase)
        if phase == "text":
            return groups
        return (
            *groups,
            ParameterGroup("layer_norms", layer_norm_names(self.backbone)),
            ParameterGroup("prompts", parameter_names(self.prompts, "prompts")),
        )

    def begin_phase(self, phase: str, plain: Iterable[ImageBatch] | None, targets: Tensor | None = None) -> None:
        """Freeze the text-trained head as the teacher's."""
        if phase == "image":
            self.teacher_head.copy_(self.head.weight.detach())

    def pseudo_labels(self, plain: Tensor) -> Tensor:
        """Return the teacher's hard labels of plain views `[B, 3, H, W]`, `[B, K]`."""
        with torch.no_grad():
            features = unit(self.backbone.forward_taps(plain).image.float())
            return argmax_labels(functional.linear(features, self.teacher_head))

    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Text: see `TextOnly`. Image: cross-entropy of the student to the teacher's hard labels."""
        if phase == "text":
            return super().training_loss(phase, batch, step)
        if isinstance(batch, TextBatch):
            raise TypeError("the image phase expects pictures, got a TextBatch")
        labels = self.pseudo_labels(batch.plain)
        logits = self(batch.strong).logits
        loss = soft_cross_entropy(logits, labels, self.settings.label_smoothing)
        agreement = (logits.detach().argmax(dim=-1) == labels.argmax(dim=-1)).float().mean()
        return LossReport(loss, {"image_loss": loss.detach(), "agreement": agreement})

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]` as the student does: with prompts, features as they come."""
        features = self.backbone.forward_taps(images, prompts=self.prompts).image.float()
        return Prediction(self.head(features))
