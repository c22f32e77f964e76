"""The frozen zero-shot teacher that several methods share; they differ in what they train."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hybridcascade.labelling.sinkhorn import adaptive_power, column_bias
from hybridcascade.labelling.soft import make_labels
from hybridcascade.methods.input_alignment import align_input
from hybridcascade.methods.parts import TeacherMethod, collect_rows, mean_view_feature
from hybridcascade.methods.text_prototypes import joint_prototypes, kind_prototypes, matching_temperature
from hybridcascade.types import ImageBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["BalancedTeacher"]


class BalancedTeacher(TeacherMethod):
    """A method that learns balanced soft labels of the frozen tower, made once before training.

    - The colours of the pictures are aligned with what the weights expect, before all else.
    - Every kind of text counts alike in the class vectors, and the temperature makes the teacher on average as
      sure as class names alone make CLIP, unless `sinkhorn_epsilon` gives one.
    - Sinkhorn aims at equal shares where all classes seem to be there, and nearer to the teacher's own shares
      where few do (`prior=adaptive`).

    Its settings have `input_alignment`, `labels`, `prior`, `sinkhorn_epsilon`, `teacher_views` and, where other
    shares can be asked for, `prior_power`.
    """

    takes_text_kinds: ClassVar[bool] = True

    backbone: ClipBackbone
    settings: Any
    teacher_prototypes: Tensor
    teacher_names: Tensor
    teacher_temperature: Tensor

    def keep_texts(self, features: Tensor, labels: Tensor, class_count: int, kinds: Tensor | None) -> None:
        """Keep the class vectors that the teacher scores with; arguments as in `kind_prototypes`."""
        of_kinds = kind_prototypes(features, labels, class_count, kinds)
        self.register_buffer("teacher_prototypes", joint_prototypes(of_kinds))
        self.register_buffer("teacher_names", of_kinds[0])
        self.register_buffer("teacher_temperature", torch.tensor(self.settings.sinkhorn_epsilon or 1.0))

    def fit_input(self, plain: Iterable[ImageBatch]) -> None:
        """Align the colours of the pictures with what the weights expect."""
        strength = self.settings.input_alignment
        if strength:
            align_input(self.backbone, plain, self._zero_shot, strength, self.device)

    def _zero_shot(self, images: Tensor) -> Tensor:
        # The texts' scores, whatever a method's teacher scores with.
        return BalancedTeacher.teacher_scores(self, mean_view_feature(self.backbone, images, 1))

    def teacher_scores(self, features: Tensor) -> Tensor:
        """Return the teacher's logits at CLIP's own scale: of the texts, unless a method has others.

        Args:
            features: mean unit features of pictures over mild views, `[N, E]`.

        Returns:
            `[N, K]`.
        """
        return self.backbone.logit_scale * features @ self.teacher_prototypes.T

    def see_pictures(self, plain: Iterable[ImageBatch]) -> tuple[Tensor, Tensor]:
        """Look at all pictures; find the temperature of the labels and how far Sinkhorn goes to the teacher's shares.

        Args:
            plain: all training pictures once, in the plain view.

        Returns:
            Mean features over mild views `[N, E]` and the teacher's logits at CLIP's own scale `[N, K]`.
        """
        own = self.settings
        features = collect_rows(plain, self._mean_feature, self.device)
        with torch.no_grad():
            logits = self.teacher_scores(features)
        if not own.sinkhorn_epsilon:
            names = self.backbone.logit_scale * features @ self.teacher_names.T
            self.teacher_temperature.fill_(matching_temperature(logits, names))
        power = getattr(own, "prior_power", 0.0)
        if own.prior == "adaptive":
            power = adaptive_power((logits / self.teacher_temperature).softmax(dim=1))
        self.set_teacher("power", torch.tensor(power))
        return features, logits

    def label_pictures(self, plain: Iterable[ImageBatch]) -> Tensor:
        """Look at all pictures and label them; return the teacher's logits at CLIP's own scale, `[N, K]`."""
        _, logits = self.see_pictures(plain)
        self.label(logits)
        return logits

    def _mean_feature(self, images: Tensor) -> Tensor:
        return mean_view_feature(self.backbone, images, self.settings.teacher_views)

    def label(self, logits: Tensor) -> None:
        """Make labels of scores at CLIP's own scale, `[N, K]`, at the temperature and shares found before."""
        self.set_teacher("labels", self._made(logits, self.settings.labels))

    def balance(self, logits: Tensor) -> Tensor:
        """Return the class bias that carries Sinkhorn's balance over to other pictures, `[K]`."""
        return column_bias(logits, self._made(logits, "sinkhorn"), float(self.teacher_temperature))

    def _made(self, logits: Tensor, kind: str) -> Tensor:
        return make_labels(logits, kind, float(self.teacher_temperature), float(self.get_buffer("teacher_power")))
