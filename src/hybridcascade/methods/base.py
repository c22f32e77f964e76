"""The contract every method fulfils and the engine relies on.

A method is an `nn.Module` that holds its backbone. It runs through named phases (`"text"` on encoded
texts, `"heads"` on stored features of a frozen tower, `"image"` on pictures); for each it declares which
parameters train, gives the loss of a batch, and after all of them it predicts. Everything it does not
declare is frozen; the engine checks after the first step that the parameters that changed are the declared
ones, no more and no fewer.

Frozen features. The numbers a run is given decide whether a `"heads"` phase is in it: with numbers for
`heads` but not for `image` it stands in the image phase's place (`--tune heads`), with both it comes right
before it (a warm start). `Method.feature_needs` says what is stored; the engine then hands out batches of
stored features `[B, V, F]` where pictures would be, and the backbone unpacks them, so a method's code is the
same for both. A warm-started image phase must go on from the heads as they are.

At once instead of step by step. A phase named in `Method.solves` has a closed solution or an optimiser of its
own: after `begin_phase` the engine calls `Method.solve` once, in place of epochs, checks as always which
parameters changed, and saves the end of the phase, so that a resumed run does not solve it again. Such a
phase takes no numbers.

A phase may open its groups one after the other (progressive training): `Method.unfreezing` gives the
schedule as data, and the engine follows, logs and checks it step by step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from hybridcascade.errors import CheckpointError, SettingsError
from hybridcascade.methods.registry import no_heads
from hybridcascade.types import ImageBatch, LossReport, Prediction, TextBatch, UnlabeledBatch

__all__ = ["FeatureNeeds", "Method", "ParameterGroup", "UnfreezeStep"]


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that train with one learning rate.

    Attributes:
        name: for the logs, such as `"prompts"`.
        parameters: names as in `Method.named_parameters()`.
        lr_scale: factor on the phase's learning rate.
        weight_decay: of this group; None means the phase's.
    """

    name: str
    parameters: tuple[str, ...]
    lr_scale: float = 1.0
    weight_decay: float | None = None


@dataclass(frozen=True)
class UnfreezeStep:
    """A moment of a phase from which further parameter groups train.

    Attributes:
        name: for the logs, such as `"warm-up"`.
        start: share of the phase's epochs done when the step begins, in [0, 1); 0 for the first step.
        groups: names of the groups that train from then on; those of earlier steps go on training.
    """

    name: str
    start: float
    groups: tuple[str, ...]

    def first_epoch(self, epochs: int) -> int:
        """Return the epoch (from 0) in which the step begins, in a phase of `epochs` epochs.

        Rounded up, so that in a phase of two epochs or more the first step has at least one to itself, and
        never past the last epoch, so that every group trains in at least one.

        Example:
            >>> [UnfreezeStep("all", 0.6, ()).first_epoch(epochs) for epochs in (1, 2, 5, 50)]
            [0, 1, 3, 30]
        """
        # Less a hair: 0.3 * 10 is 3.0000000000000004 in floating point arithmetic, and means 3.
        return min(math.ceil(self.start * epochs - 1e-9), epochs - 1)


@dataclass(frozen=True)
class FeatureNeeds:
    """What the `heads` phase of a method reads of each picture.

    Attributes:
        taps: blocks whose tokens it reads, counted from 1, ascending; the image feature is always stored.
        patch_mean: whether it reads the mean patch token of each block.
        patches: whether it reads all patch tokens of each block (P times as much to store).
        views: how many views of `methods.parts.mild_views` it looks at, the picture itself included.
    """

    taps: tuple[int, ...] = ()
    patch_mean: bool = False
    patches: bool = False
    views: int = 1


class Method(nn.Module, ABC):
    """Base of all methods.

    Class attributes:
        name: registry key.
        phases: the phases that train, in order; empty for a method that trains nothing.
        needs: batches of the image phase: `"none"`, `"unlabelled"` (`UnlabeledBatch`) or
            `"targets"` (`TargetBatch`).
        tunes: ways of tuning it knows: `"full"`, and `"heads"` when it has a `heads` phase.
        solves: phases that `solve` does at once.
        takes_text_kinds: whether its constructor takes `text_kinds`, the kind of each text.
    """

    name: ClassVar[str]
    phases: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[str] = "none"
    tunes: ClassVar[tuple[str, ...]] = ("full",)
    solves: ClassVar[tuple[str, ...]] = ()
    takes_text_kinds: ClassVar[bool] = False

    @abstractmethod
    def parameter_groups(self, phase: str) -> tuple[ParameterGroup, ...]:
        """Declare what trains in `phase`. A parameter may be in one group only."""

    def trainable_names(self, phase: str) -> frozenset[str]:
        """Names of all parameters that train in `phase`."""
        return frozenset(n for group in self.parameter_groups(phase) for n in group.parameters)

    def phases_with(self, numbers: Iterable[str]) -> tuple[str, ...]:
        """Return the phases that run, in order, when `numbers` are given for these.

        Args:
            numbers: phases that there are numbers for; `"heads"` among them asks for a `heads` phase, before the
                image phase where that has numbers too, else in its place.

        Raises:
            SettingsError: a `heads` phase was asked for and the method has none.
        """
        given = set(numbers)
        if "heads" not in given or "heads" in self.phases:
            return self.phases
        if "heads" not in self.tunes:
            raise SettingsError(no_heads(self.name))
        late = ("heads", "image") if "image" in given else ("heads",)
        return tuple(part for phase in self.phases for part in (late if phase == "image" else (phase,)))

    def feature_needs(self) -> FeatureNeeds:
        """Return what the `heads` phase reads of each picture: by default the image feature alone."""
        return FeatureNeeds()

    def solve(self, phase: str) -> LossReport:
        """Find the parameters of a phase of `solves` at once, after its `begin_phase`; called without gradients.

        Returns:
            The loss at the solution, and what to log beside it.
        """
        raise NotImplementedError(f"{self.name} does not solve its phase {phase!r} at once")

    def unfreezing(self, phase: str) -> tuple[UnfreezeStep, ...]:
        """Return the steps in which the groups of `phase` begin to train; none means all from the start.

        Steps are in order of `start`, the first at 0, and each group is in exactly one. Until its step a
        parameter keeps its value to the last bit: it gets no gradient and no weight decay.
        """
        return ()

    def groups_opened(self, phase: str, groups: frozenset[str]) -> None:
        """Hook as the phase starts (or resumes), and at each step of `unfreezing`: `groups` train from now on."""

    def set_geometry(self, near: Tensor | None, signs: Tensor | None) -> None:
        """Tell a method how its classes lie to each other; one that has no use for it forgets it.

        Args:
            near: the distribution that each class stands for, rows sum to 1, `[K, K]`; None without a ring.
            signs: 1 pleasant, -1 unpleasant, 0 neither, `[K]`; None where nothing is said.
        """

    def fit_input(self, plain: Iterable[ImageBatch]) -> None:
        """Fit what all features depend on, once, before any phase and before features are stored.

        A resumed run calls it again, so it must depend on the pictures alone.

        Args:
            plain: all training pictures once, in the plain view.
        """

    def begin_phase(self, phase: str, plain: Iterable[ImageBatch] | None, targets: Tensor | None = None) -> None:
        """Prepare for a phase: initialise heads, compute frozen teachers once.

        Args:
            phase: the phase that begins.
            plain: all training pictures once, in data set order, in the plain view; None in the text phase.
            targets: target distributions by data set row, `[N, K]`, zeros where a row has none, or None
                without labels.
        """

    def begin_epoch(self, phase: str, epoch: int, plain: Iterable[ImageBatch] | None) -> None:
        """Hook before an epoch (0-based), for methods that refresh their pseudo-labels."""

    def after_step(self, phase: str) -> None:
        """Hook after each optimiser step, for EMA teachers."""

    @abstractmethod
    def training_loss(self, phase: str, batch: UnlabeledBatch | TextBatch, step: int) -> LossReport:
        """Loss of one batch.

        Args:
            phase: the running phase.
            batch: `TextBatch` in the text phase; `UnlabeledBatch` or `TargetBatch` in the others, of pictures
                or, in the heads phase, of stored features: all views as `plain`, one of them as `strong`.
            step: optimiser steps done in this phase; noise is drawn from (seed, phase, step), so that a
                resumed run draws the same.
        """

    @abstractmethod
    def forward(self, images: Tensor) -> Prediction:
        """Predict normalised pictures `[B, 3, H, W]`, or in the heads phase stored features `[B, V, F]`."""

    def artifact_state(self) -> dict[str, Tensor]:
        """Tensors that a saved model needs to predict (no optimiser, no teacher, no cached targets).

        `load_artifact_state` of a method built with the same settings restores it exactly.
        """
        return {k: v for k, v in self.state_dict().items() if not k.startswith("teacher")}

    def load_artifact_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `artifact_state` gave.

        Raises:
            CheckpointError: keys or shapes differ from what this method needs.
        """
        own = self.artifact_state()
        if missing := sorted(own.keys() - state.keys()):
            raise CheckpointError(f"the saved model lacks {len(missing)} tensors, first {missing[0]!r}")
        if extra := sorted(state.keys() - own.keys()):
            raise CheckpointError(f"the saved model has {len(extra)} unknown tensors, first {extra[0]!r}")
        for key, value in state.items():
            if own[key].shape != value.shape:
                found, wanted = tuple(value.shape), tuple(own[key].shape)
                raise CheckpointError(f"saved tensor {key!r} has shape {found}, the model needs {wanted}")
        self.load_state_dict(state, strict=False)

    def learned(self) -> dict[str, list[float] | float]:
        """Small learned quantities worth showing (NGA sigmas and weights, stage weights, temperature)."""
        return {}
