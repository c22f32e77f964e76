"""The supervised reference: a linear head on frozen features, with true targets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridcascade.backbone.plans import stage_plan
from hybridcascade.cascade.aggregation import FixedAggregation
from hybridcascade.cascade.heads import unit
from hybridcascade.cascade.losses import joint_target, soft_cross_entropy
from hybridcascade.errors import DataError, SettingsError
from hybridcascade.methods.base import ParameterGroup
from hybridcascade.methods.given import known_rows
from hybridcascade.methods.parts import TeacherMethod, collect_rows
from hybridcascade.methods.settings import method_settings
from hybridcascade.types import ImageBatch, LossReport, Prediction, TextBatch, UnlabeledBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["LinearProbe"]


class LinearProbe(TeacherMethod):
    """Logistic regression on standardised features that are computed once.

    The features and targets of all pictures are cached by row when the phase begins, so a step reads
    nothing of its batch but `index`: the pictures in it may be empty tensors.

    Args:
        backbone: the vision tower.
        text_features: unused but for its device; texts play no part.
        text_labels: unused.
        class_count: K.
        seed: unused, the head starts at zero.
        settings: the fields of `LinearProbeSettings`.
    """

    name: ClassVar[str] = "linear_probe"
    phases: ClassVar[tuple[str, ...]] = ("image",)
    needs: ClassVar[str] = "targets"

    feature_mean: Tensor
    feature_std: Tensor

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
        self.backbone = backbone
        self.kinds: tuple[str, ...] = ()
        self.taps: tuple[int, ...] = ()
        self.mean: FixedAggregation | None = None
        width = backbone.embed_dim
        if self.settings.stages == "all":
            plan = stage_plan(self.settings.plan, backbone.depth)
            self.taps = plan.taps
            self.mean = FixedAggregation(plan.sizes, "mean")
            self.kinds = ("cls", "patch") if self.settings.pool == "both" else (self.settings.pool,)
            width += len(self.kinds) * len(plan.sizes) * backbone.width
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("feature_std", torch.ones(width))
        self.head = nn.Linear(width, class_count)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """The head trains."""
        return (
            ParameterGroup("head", ("head.weight",)),
            ParameterGroup("bias", ("head.bias",), weight_decay=0.0),
        )

    def begin_phase(self, phase: str, plain: Iterable[ImageBatch] | None, targets: Tensor | None = None) -> None:
        """Cache features and targets by row and standardise the features.

        Raises:
            SettingsError: pictures or targets are missing.
            DataError: there are not as many targets as pictures.
        """
        if plain is None or targets is None:
            raise SettingsError("linear_probe is supervised: it needs the plain pictures and their targets")
        features = collect_rows(plain, self._features, self.device)
        if targets.shape != (len(features), self.head.out_features):
            wanted = (len(features), self.head.out_features)
            raise DataError(f"expected targets of shape {wanted}, got {tuple(targets.shape)}")
        if not bool(known_rows(targets).any()):
            raise DataError("linear_probe learns from targets alone, and no picture has one")
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_std.copy_(features.std(dim=0, correction=0).clamp_min(1e-6))
        self.set_teacher("features", (features - self.feature_mean) / self.feature_std)
        self.set_teacher("targets", targets.to(self.device))

    def _features(self, images: Tensor) -> Tensor:
        """Features of pictures `[B, 3, H, W]` before standardisation, `[B, F]`."""
        taps = self.backbone.forward_taps(images, taps=self.taps, patch_mean="patch" in self.kinds)
        image = unit(taps.image.float())
        parts = [image * math.sqrt(image.shape[1])]
        for kind in self.kinds:
            tokens = taps.cls if kind == "cls" else taps.patch_mean
            if tokens is not None and self.mean is not None:
                plain = functional.layer_norm(tokens.float(), tokens.shape[-1:])
                parts.append(self.mean(plain).flatten(1))
        return torch.cat(parts, dim=1)

    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Cross-entropy of the cached rows of the batch to their targets; rows without one have no part in it."""
        if isinstance(batch, TextBatch):
            raise TypeError("linear_probe learns from pictures, got a TextBatch")
        logits = self.head(self.teacher_rows("features", batch.index))
        target = self.teacher_rows("targets", batch.index)
        joint = joint_target(target, self.settings.distribution_share)
        loss = soft_cross_entropy(logits, joint, weight=known_rows(target).float())
        return LossReport(loss, {"image_loss": loss.detach()})

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]`."""
        standard = (self._features(images) - self.feature_mean) / self.feature_std
        return Prediction(self.head(standard))
