"""Watching a phase from outside: measure after each epoch, warn when it goes downhill, keep the best epoch.

What is measured is the caller's affair; it must draw nothing at random and leave the method as it was. Measures, best
epoch and its weights travel in the checkpoint, so a resumed run ends like an undisturbed one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hybridcascade.engine.module import PhaseModule
from hybridcascade.errors import SettingsError
from hybridcascade.methods.base import Method

__all__ = ["TOLERANCE", "EpochWatch", "Measure", "evaluating"]

_log = logging.getLogger(__name__)

Measure: TypeAlias = Callable[[Method, Tensor | None], tuple[Mapping[str, float], Tensor]]
"""From the method and the class numbers of the epoch before (or None) to figures, one of them named `criterion`, and
the class numbers `[N]` now."""

TOLERANCE = 0.05
"""How far the criterion may fall below its start or its best before it is told."""


class EpochWatch(Callback):
    """Measures a method before training and after each epoch of every phase on pictures.

    The figures stand in the records of the epochs (`metrics.jsonl`, logs). The criterion before training is the
    figure `criterion_start` of each epoch.

    Args:
        measure: gives the figures; the key `criterion` counts, higher is better.
        choose: end each phase with the weights of its best epoch instead of the last.
        tolerance: how far the criterion may fall before a warning.

    Attributes:
        chosen: by phase, the epoch (from 0) whose weights the phase ended with, where `choose` decided.
        values: by phase, the criterion after each epoch.
    """

    def __init__(self, measure: Measure, choose: bool = False, tolerance: float = TOLERANCE) -> None:
        self.measure, self.choose, self.tolerance = measure, choose, tolerance
        self.chosen: dict[str, int] = {}
        self.values: dict[str, list[float]] = {}
        self._reset()

    def _reset(self) -> None:
        self._start: float | None = None
        self._before: Tensor | None = None
        self._so_far: list[float] = []
        self._best: dict[str, Tensor] = {}
        self._warned = False

    # -- what Lightning calls ---------------------------------------------------------------------------

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Forget the phase before; a checkpoint is loaded after this."""
        self._reset()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure the start of a phase."""
        module = _phase_of(pl_module)
        if module is not None and self._start is None:
            figures, self._before = self._measure(module)
            self._start = figures["criterion"]

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure an epoch, before its record is written."""
        module = _phase_of(pl_module)
        if module is None:
            return
        figures, self._before = self._measure(module)
        value = figures["criterion"]
        if self.choose and value > max(self._so_far, default=float("-inf")):
            names = module.method.trainable_names(module.phase)
            self._best = {n: p.detach().cpu().clone() for n, p in module.method.named_parameters() if n in names}
        self._so_far.append(value)
        start = {} if self._start is None else {"criterion_start": self._start}
        module.watched = dict(figures) | start
        self._warn(module.phase)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Lay the best epoch's weights over the last ones."""
        module = _phase_of(pl_module)
        if module is not None:
            self.finish(module.phase, module.method)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resume needs; tensors and plain values."""
        return {"start": self._start, "before": self._before, "values": list(self._so_far), "best": dict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""
        self._start, self._before = state_dict["start"], state_dict["before"]
        self._so_far, self._best = list(state_dict["values"]), dict(state_dict["best"])

    # -- parts --------------------------------------------------------------------------------------------

    def finish(self, phase: str, method: Method) -> None:
        """End a phase: note its values and, with `choose`, lay the best epoch's weights over the method.

        Raises:
            SettingsError: the checkpoint of the phase has no best epoch, for it was run without `choose`.
        """
        self.values[phase] = list(self._so_far)
        if not self.choose:
            return
        if not self._best:
            raise SettingsError(
                f"phase {phase!r} was run without choosing an epoch, so only its last one is kept; "
                "resume without the choice, or begin again with --overwrite"
            )
        parameters = dict(method.named_parameters())
        with torch.no_grad():
            for name, value in self._best.items():
                parameters[name].copy_(value)
        best = max(range(len(self._so_far)), key=lambda epoch: self._so_far[epoch])
        self.chosen[phase] = best
        if best < len(self._so_far) - 1:
            _log.info(
                "phase %s: took epoch %d of %d, by its criterion %.3f (the last has %.3f)",
                phase, best + 1, len(self._so_far), self._so_far[best], self._so_far[-1], extra={"remark": True},
            )  # fmt: skip

    def take_finished(self, phase: str, method: Method, saved: Mapping[str, Any]) -> None:
        """Do for a phase that is finished already what its end did.

        Args:
            phase: its name.
            method: with the last epoch's weights.
            saved: the checkpoint.
        """
        if phase == "text":  # the engine runs it on texts, so it is not watched
            return
        self._reset()
        if (state := saved.get("callbacks", {}).get(self.state_key)) is not None:
            self.load_state_dict(state)
        self.finish(phase, method)

    def _measure(self, module: PhaseModule) -> tuple[Mapping[str, float], Tensor]:
        with evaluating(module.method):
            return self.measure(module.method, self._before)

    def _warn(self, phase: str) -> None:
        value, best = self._so_far[-1], max(self._so_far)
        if self._warned or self._start is None:
            return
        for name, reference in (("before training", self._start), ("at its best", best)):
            if value < reference - self.tolerance:
                self._warned = True
                _log.warning(
                    "phase %s, epoch %d: tuning drifts. The criterion without labels fell to %.3f; %s it was %.3f. "
                    "Try fewer epochs, a lower lr, or --choose_epoch criterion",
                    phase, len(self._so_far), value, name, reference, extra={"remark": True},
                )  # fmt: skip
                return


@contextmanager
def evaluating(method: Method) -> Any:
    """Put a method into evaluation without gradients, and every part of it back into its own mode afterwards."""
    modes = [(part, part.training) for part in method.modules()]
    method.eval()
    try:
        with torch.no_grad():
            yield method
    finally:
        for part, mode in modes:
            part.training = mode


def _phase_of(module: lightning.LightningModule) -> PhaseModule | None:
    """Return the phase, if it is one on pictures."""
    return module if isinstance(module, PhaseModule) and not module.one_step_epochs else None
