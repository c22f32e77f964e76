"""The supervised reference: a linear head on frozen features, learned from true targets to its optimum."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hybridcascade.backbone.plans import stage_plan
from hybridcascade.cascade.aggregation import FixedAggregation
from hybridcascade.cascade.heads import unit
from hybridcascade.cascade.logistic import choose_strength, fit_logistic
from hybridcascade.cascade.losses import joint_target
from hybridcascade.errors import DataError, SettingsError
from hybridcascade.methods.base import FeatureNeeds, ParameterGroup
from hybridcascade.methods.given import known_rows
from hybridcascade.methods.parts import TeacherMethod, collect_rows
from hybridcascade.methods.settings import method_settings
from hybridcascade.types import ImageBatch, LossReport, Prediction, TextBatch, UnlabeledBatch

if TYPE_CHECKING:
    from hybridcascade.backbone.clip import ClipBackbone

__all__ = ["LinearProbe", "lowest_hashes"]

_FEW = 10  # pictures below which none is held out, and
_STRENGTH_OF_FEW = 0.1  # the penalty that is taken then


class LinearProbe(TeacherMethod):
    """Multinomial logistic regression on standardised stored features, solved at once by L-BFGS.

    Nothing of it is in the tower, so it reads each picture once, as stored features, whichever way of tuning is
    asked for. The strength of the L2 penalty is chosen by the cross-entropy of held-out training pictures: the
    share of them whose SHA-256 of the id is lowest, so the choice depends neither on their order nor on the
    seed. The head is then fitted to all pictures. Pictures without a target have no part in it.

    Args:
        backbone: the vision tower.
        text_features: unused but for its device; texts play no part.
        text_labels: unused.
        class_count: K.
        seed: unused, the head starts at zero.
        settings: the fields of `LinearProbeSettings`.
    """

    name: ClassVar[str] = "linear_probe"
    phases: ClassVar[tuple[str, ...]] = ("heads",)
    needs: ClassVar[str] = "targets"
    tunes: ClassVar[tuple[str, ...]] = ("full", "heads")
    solves: ClassVar[tuple[str, ...]] = ("heads",)

    feature_mean: Tensor
    feature_std: Tensor
    regularisation: Tensor

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
        self.register_buffer("regularisation", torch.tensor(self.settings.regularisation))
        self._rows: tuple[Tensor, Tensor, tuple[str, ...]] | None = None
        self.head = nn.Linear(width, class_count)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """The head trains."""
        return (ParameterGroup("head", ("head.weight",)), ParameterGroup("bias", ("head.bias",)))

    def feature_needs(self) -> FeatureNeeds:
        """The picture alone; with stages=all its stages too."""
        return FeatureNeeds(self.taps, patch_mean="patch" in self.kinds)

    def begin_phase(self, phase: str, plain: Iterable[ImageBatch] | None, targets: Tensor | None = None) -> None:
        """Collect and standardise the features of all pictures.

        Raises:
            SettingsError: pictures or targets are missing.
            DataError: there are not as many targets as pictures, or none is known.
        """
        if plain is None or targets is None:
            raise SettingsError("linear_probe is supervised: it needs the plain pictures and their targets")
        ids: dict[int, str] = {}
        features = collect_rows(_noting(plain, ids), self._features, self.device)
        if targets.shape != (len(features), self.head.out_features):
            wanted = (len(features), self.head.out_features)
            raise DataError(f"expected targets of shape {wanted}, got {tuple(targets.shape)}")
        if not bool(known_rows(targets).any()):
            raise DataError("linear_probe learns from targets alone, and no picture has one")
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_std.copy_(features.std(dim=0, correction=0).clamp_min(1e-6))
        standard = (features - self.feature_mean) / self.feature_std
        self._rows = standard, targets.to(self.device), tuple(ids[row] for row in range(len(features)))

    @torch.no_grad()
    def solve(self, phase: str) -> LossReport:
        """Choose the penalty, fit the head to its optimum, and forget the features.

        Raises:
            SettingsError: the phase was not begun.
        """
        if self._rows is None:
            raise SettingsError("linear_probe: call begin_phase with the plain pictures and their targets first")
        features, targets, ids = self._rows
        known = known_rows(targets)
        exact = torch.float32 if self.device.type == "mps" else torch.float64  # MPS has no float64
        rows = features[known].to(exact)
        wanted = joint_target(targets[known], self.settings.distribution_share).to(exact)
        wanted = wanted / wanted.sum(dim=1, keepdim=True)
        strength: float = self.settings.regularisation
        scalars: dict[str, float | Tensor] = {}
        if strength == 0:
            names = [name for name, is_known in zip(ids, known.tolist(), strict=True) if is_known]
            strength, scalars = self._choose(rows, wanted, names)
        fit = fit_logistic(rows, wanted, strength, iterations=self.settings.iterations)
        self.head.weight.copy_(fit.weight)
        self.head.bias.copy_(fit.bias - fit.bias.mean())
        self.regularisation.fill_(strength)
        self._rows = None
        more = {"regularisation": strength, "gradient": fit.gradient, "iterations": float(fit.iterations)}
        return LossReport(torch.tensor(fit.loss), {**scalars, **more})

    def _choose(self, rows: Tensor, wanted: Tensor, ids: Sequence[str]) -> tuple[float, dict[str, float | Tensor]]:
        if len(ids) < _FEW:
            return _STRENGTH_OF_FEW, {}
        held_out = lowest_hashes(ids, self.settings.held_out_share).to(rows.device)
        strength, tried = choose_strength(rows, wanted, held_out)
        return strength, {"held_out_loss": tried[strength]}

    def _features(self, images: Tensor) -> Tensor:
        """Features of pictures `[B, 3, H, W]`, or stored `[B, V, F]`, before standardisation, `[B, F]`."""
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
        """Never called: the phase is solved at once.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("linear_probe is solved at once and has no loss of a batch")

    def forward(self, images: Tensor) -> Prediction:
        """Predict pictures `[B, 3, H, W]`."""
        standard = (self._features(images) - self.feature_mean) / self.feature_std
        return Prediction(self.head(standard))

    def learned(self) -> dict[str, list[float] | float]:
        """Return the strength of the penalty."""
        return {"regularisation": float(self.regularisation)}


def lowest_hashes(ids: Sequence[str], share: float) -> Tensor:
    """Mark the share of ids whose SHA-256 is lowest, at least one and not all.

    Args:
        ids: N of them, two or more.
        share: of the rows to mark, between 0 and 1.

    Returns:
        bool `[N]`.
    """
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    order = sorted(range(len(ids)), key=lambda row: hashlib.sha256(ids[row].encode()).digest())
    marked = torch.zeros(len(ids), dtype=torch.bool)
    marked[order[:count]] = True
    return marked


def _noting(plain: Iterable[ImageBatch], ids: dict[int, str]) -> Iterator[ImageBatch]:
    """Pass batches on and note the ids of their rows."""
    for batch in plain:
        ids.update(zip(batch.index.tolist(), batch.ids, strict=True))
        yield batch
