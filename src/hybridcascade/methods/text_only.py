"""LaFTer's text stage as a method of its own: a classifier learned from texts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from hybridcascade.cascade.heads import LinearHead, random_head_weight, unit
from hybridcascade.methods.base import ParameterGroup
from hybridcascade.methods.parts import TeacherMethod, seeded_generator
from hybridcascade.methods.settings import method_settings
from hybridcascade.methods.text_head import as_texts, noisy_text_loss
from hybridcascade.types import LossReport, Prediction, TextBatch, UnlabeledBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["TextOnly"]


class TextOnly(TeacherMethod):
    """A linear head without bias, randomly initialised, trained on noisy unit text features.

    It scores unit image features, since it has learned on unit text features. `lafter` and
    `hybrid_cascade_seed` begin with it.

    Args:
        backbone: the vision tower.
        text_features: unit vectors, `[T, E]`; they come again as the batch of the text phase.
        text_labels: class of each text, int64 `[T]`.
        class_count: K.
        seed: of the head's start and of the noise.
        settings: the fields of `TextOnlySettings`.
    """

    name: ClassVar[str] = "text_only"
    phases: ClassVar[tuple[str, ...]] = ("text",)

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
        self.settings = method_settings(self.name, settings)
        self.seed = seed
        self.backbone = backbone
        start = random_head_weight(class_count, backbone.embed_dim, seeded_generator(seed, "head"))
        self.head = LinearHead(start)

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """The head trains."""
        return (ParameterGroup("head", ("head.weight",)),)

    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Loss of the text stage, see `noisy_text_loss`."""
        return noisy_text_loss(
            self.head,
            as_texts(batch),
            noise_std=self.settings.noise_std,
            smoothing=self.settings.label_smoothing,
            seed=self.seed,
            step=step,
        )

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]` from unit features."""
        features = self.backbone.forward_taps(images).image.float()
        return Prediction(self.head(unit(features)))
