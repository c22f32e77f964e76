"""Zero-shot CLIP: nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hybridcascade.cascade.heads import unit
from hybridcascade.methods.base import Method, ParameterGroup
from hybridcascade.methods.parts import class_prototypes
from hybridcascade.methods.settings import method_settings
from hybridcascade.types import LossReport, Prediction, TextBatch, UnlabeledBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["ZeroShot"]


class ZeroShot(Method):
    """Cosine of the image feature and each class's mean text, times CLIP's logit scale.

    Args:
        backbone: the vision tower.
        text_features: unit vectors, `[T, E]`.
        text_labels: class of each text, int64 `[T]`.
        class_count: K.
        seed: unused, nothing is drawn.
        settings: none exist.
    """

    name: ClassVar[str] = "zero_shot"

    prototypes: Tensor
    logit_scale: Tensor

    def __init__(
        self,
        *,
        backbone: ClipBackbone,
        text_features: Tensor,
        text_labels: Tensor,
        class_count: int,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        method_settings(self.name, settings)
        self.backbone = backbone
        self.register_buffer("prototypes", class_prototypes(text_features, text_labels, class_count))
        self.register_buffer("logit_scale", torch.tensor(float(backbone.logit_scale)))

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """Nothing trains."""
        return ()

    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Never called: there is no phase.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("zero_shot trains nothing and has no loss")

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]`."""
        features = unit(self.backbone.forward_taps(images).image.float())
        return Prediction(self.logit_scale * features @ self.prototypes.T)
