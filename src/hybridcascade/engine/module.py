"""One phase of one method, as Lightning runs it."""

from __future__ import annotations

import hashlib
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import lightning
import torch
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hybridcascade.engine.checkpoints import KEY, MODULE_PREFIX, check_identity
from hybridcascade.engine.records import EpochRecord
from hybridcascade.engine.schedules import lr_factor
from hybridcascade.engine.state import check_omitted, fit_buffers, select
from hybridcascade.engine.trained import TrainedSetCheck, declare
from hybridcascade.engine.unfreezing import Unfreezing
from hybridcascade.errors import HybridCascadeError
from hybridcascade.methods.base import Method, ParameterGroup
from hybridcascade.types import ImageBatch, LossReport, TextBatch, UnlabeledBatch

__all__ = ["OnDevice", "PhaseModule", "seed_all"]

_log = logging.getLogger(__name__)


class PhaseModule(lightning.LightningModule):
    """Runs one phase of a `Method` under Lightning: hooks, AdamW, schedule, checks, records.

    An *epoch* is one pass over the loader, except with `one_step_epochs`, where every step is an epoch
    (the text phase): there Lightning runs one long epoch of its own, because its work around an epoch
    takes longer than such a step.
    """

    def __init__(
        self,
        method: Method,
        phase: str,
        *,
        epochs: int,
        lr: float,
        weight_decay: float,
        schedule: str = "none",
        warmup_epochs: float = 3.0,
        milestones: Sequence[float] = (),
        gamma: float = 0.1,
        seed: int = 0,
        one_step_epochs: bool = False,
        plain: Iterable[ImageBatch] | None = None,
        targets: Tensor | None = None,
        first_epoch: int = 0,
        baseline: Mapping[str, int] | None = None,
        identity: Mapping[str, Any] | None = None,
        on_epoch: Callable[[EpochRecord], None] | None = None,
    ) -> None:
        """Prepare a phase; nothing of `method` changes before Lightning starts.

        Args:
            method: the method, in the state in which the phase begins.
            phase: the phase.
            epochs: length of the phase in epochs.
            lr: learning rate at factor 1, for groups of `lr_scale` 1.
            weight_decay: AdamW's, for groups that have none of their own.
            schedule: one of `SCHEDULES`.
            warmup_epochs: length of a warm-up, in epochs.
            milestones: falls of `multistep`, in epochs.
            gamma: factor of each fall.
            seed: the run's seed.
            one_step_epochs: every step is an epoch.
            plain: all training pictures once, in order, for the method's hooks; None in the text phase.
            targets: target distributions by row, `[N, K]`, or None without labels.
            first_epoch: the epoch that runs first (above 0 in a resume).
            baseline: checksums that tell which parameters need not be saved (see `engine.state`).
            identity: settings that a resume must share.
            on_epoch: called with the record of every finished epoch.
        """
        super().__init__()
        self.strict_loading = False  # a checkpoint leaves out what nothing trains; on_load_checkpoint checks it
        self.method = method
        self.phase = phase
        self.epochs_done = first_epoch
        self.steps_done = 0
        self.last_loss = float("nan")
        self.watched: dict[str, float] = {}  # figures that a callback adds to the record of the epoch
        self._numbers = {"lr": lr, "weight_decay": weight_decay}
        self._schedule = (schedule, epochs, warmup_epochs, tuple(milestones), gamma)
        self.seed = seed
        self._one_step_epochs = one_step_epochs
        self._plain = plain
        self._targets = targets
        self._baseline = dict(baseline or {})
        self._identity = dict(identity or {})
        self._on_epoch = on_epoch
        self._steps_per_epoch = 1
        self._saved_steps_per_epoch: int | None = None
        self._groups: list[tuple[ParameterGroup, list[nn.Parameter]]] = []
        self._unfreezing = Unfreezing((), (), epochs, phase)
        self._check: TrainedSetCheck | None = None
        self._meter = _Meter()
        self._lr_now: dict[str, float] = {}
        self._epoch_start = time.perf_counter()
        self._moved: tuple[TextBatch, TextBatch] | None = None
        lr_factor(schedule, 0.0, epochs, warmup_epochs, milestones, gamma)  # wrong numbers stop here, not in step 1

    @property
    def epochs(self) -> int:
        """Length of the phase in epochs."""
        return self._schedule[1]

    @property
    def one_step_epochs(self) -> bool:
        """Whether every step is an epoch."""
        return self._one_step_epochs

    # -- beginning ------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Prepare the phase on its device and open what trains, before DDP wraps it and a checkpoint is loaded."""
        self.method.to(self.trainer.strategy.root_device)
        self.method.requires_grad_(False)
        seed_all(self.seed, self.phase)
        targets = None if self._targets is None else self._targets.to(self.trainer.strategy.root_device)
        self.method.begin_phase(self.phase, self._plain_on_device(), targets)
        self._groups = declare(self.method, self.phase)
        where = f"method {type(self.method).__name__}, phase {self.phase!r}"
        self._unfreezing = Unfreezing(self._groups, self.method.unfreezing(self.phase), self.epochs, where)
        self._tell_unfreezing()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW over the declared groups, with the schedule applied every optimiser step."""
        groups = [
            {
                "params": parameters,
                "lr": self._numbers["lr"] * group.lr_scale,
                "weight_decay": self._numbers["weight_decay"] if group.weight_decay is None else group.weight_decay,
                "name": group.name,
            }
            for group, parameters in self._groups
        ]
        optimizer = AdamW(groups, lr=self._numbers["lr"])
        steps = self._steps_per_epoch = self._find_steps_per_epoch()
        schedule, epochs, warmup_epochs, milestones, gamma = self._schedule

        def factor(step: int) -> float:
            return lr_factor(schedule, step / steps, epochs, warmup_epochs, milestones, gamma)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def on_train_start(self) -> None:
        """Start the clock of the first epoch."""
        self._epoch_start = time.perf_counter()

    def on_train_epoch_start(self) -> None:
        """Let the method begin an epoch."""
        if not self._one_step_epochs:
            self._begin_epoch()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Let the method begin an epoch of one step."""
        if self._one_step_epochs:
            self._begin_epoch()

    # -- a step ---------------------------------------------------------------------------------------

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch; the text batch, the same object in every step, only once."""
        if not isinstance(batch, TextBatch):
            return batch.to(device, non_blocking=True)
        if self._moved is None or self._moved[0] is not batch:
            self._moved = (batch, batch.to(device))
        return self._moved[1]

    def training_step(self, batch: UnlabeledBatch | TextBatch, batch_idx: int) -> Tensor:
        """Loss of one batch; a loss that is not finite stops the run before it reaches the weights.

        Raises:
            HybridCascadeError: the loss is NaN or infinite.
        """
        report = self.method.training_loss(self.phase, batch, self.global_step)
        self.last_loss = report.loss.item()
        if not math.isfinite(self.last_loss):
            raise HybridCascadeError(
                f"the loss became {self.last_loss} in phase {self.phase!r}, epoch {self.epochs_done}, step "
                f"{self.global_step}. The checkpoint of the last finished epoch is kept. "
                "Try a lower lr, a warmup schedule, or gradient clipping"
            )
        self._meter.add(report, len(batch))
        return report.loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """One optimiser step and the method's `after_step`; at first, and when more trains, the check of what did."""
        active = self._unfreezing.groups(self.epochs_done)
        self._lr_now = {g["name"]: float(g["lr"]) if g["name"] in active else 0.0 for g in optimizer.param_groups}
        check = None if self._check is None or self._check.done else self._check
        if check:
            check.before_step()
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.method.after_step(self.phase)
        if check:
            check.after_step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Keep what is not unfrozen yet out of clipping and step, where its gradients were computed anyway."""
        if self._unfreezing.progressive and not self._skips_frozen:
            self._unfreezing.drop_gradients(self.epochs_done)

    # -- ending ---------------------------------------------------------------------------------------

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record an epoch of one step."""
        if self._one_step_epochs:
            self._end_epoch()

    def on_train_epoch_end(self) -> None:
        """Record an epoch. Lightning writes the checkpoint right after this."""
        if not self._one_step_epochs:
            self._end_epoch()

    def on_train_end(self) -> None:
        """Close the check of what trained, and look for weights that are not finite.

        Raises:
            HybridCascadeError: a declared parameter never trained, or the last step broke the weights.
        """
        if self._check:
            self._check.finish()
        broken = [n for n, p in self.method.named_parameters() if p.requires_grad and not torch.isfinite(p).all()]
        if broken:
            raise HybridCascadeError(
                f"phase {self.phase!r} ended with {len(broken)} parameters that are not finite, first {broken[0]!r}: "
                "try a lower lr or gradient clipping"
            )

    # -- checkpoints ----------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what nothing trained, and add what a resume must know."""
        state = {k.removeprefix(MODULE_PREFIX): v for k, v in checkpoint["state_dict"].items()}
        kept, omitted = select(state, self._baseline)
        checkpoint["state_dict"] = {MODULE_PREFIX + k: v for k, v in kept.items()}
        checkpoint[KEY] = {
            "format": 1,
            "phase": self.phase,
            "epochs_done": self.epochs_done,
            "epochs": self.epochs,
            "steps": self.global_step,
            "steps_per_epoch": self._steps_per_epoch,
            "identity": self._identity,
            "omitted": omitted,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this run, and make room for buffers that `begin_epoch` resized.

        Raises:
            CheckpointError: the checkpoint is of another method.
            SettingsError: the settings differ.
        """
        check_identity(checkpoint[KEY]["identity"], self._identity)
        state = {k.removeprefix(MODULE_PREFIX): v for k, v in checkpoint["state_dict"].items()}
        fit_buffers(self.method, state)
        check_omitted(self.method, checkpoint[KEY]["omitted"], "the checkpoint")
        self._saved_steps_per_epoch = int(checkpoint[KEY]["steps_per_epoch"])

    # -- parts ----------------------------------------------------------------------------------------

    def _find_steps_per_epoch(self) -> int:
        """Optimiser steps an epoch; Lightning knows them, with accumulation and several processes."""
        steps = 1 if self._one_step_epochs else int(self.trainer.estimated_stepping_batches) // self.epochs
        saved = self._saved_steps_per_epoch
        if saved is not None:  # other pictures, batch size or number of devices
            check_identity({"steps an epoch": saved}, {"steps an epoch": steps})
        return steps

    @property
    def _skips_frozen(self) -> bool:
        """Whether a parameter may be taken out of the graph for a while: DDP must see all of them in every step."""
        return not isinstance(self.trainer.strategy, ParallelStrategy)

    def _tell_unfreezing(self) -> None:
        if self._unfreezing.progressive:
            for line in self._unfreezing.lines(self._numbers["lr"]):
                _log.info("phase %s: %s", self.phase, line, extra={"remark": True})

    def _begin_epoch(self) -> None:
        epoch = self.epochs_done
        seed_all(self.seed, self.phase, epoch)
        if self._check is None or self._unfreezing.changes_at(epoch):
            if self._check is not None:
                _log.info(
                    "phase %s, epoch %d: trains %s", self.phase, epoch + 1, sorted(self._unfreezing.groups(epoch))
                )
            self._check = TrainedSetCheck(self.method, self.phase, self._unfreezing.parameters(epoch))
            if self._skips_frozen:
                self._unfreezing.open(epoch)
            self.method.groups_opened(self.phase, self._unfreezing.groups(epoch))
        self.method.begin_epoch(self.phase, epoch, self._plain_on_device())

    def _end_epoch(self) -> None:
        now = time.perf_counter()
        loss, scalars = self._meter.take(self.trainer.strategy.reduce)
        scalars |= self.watched
        record = EpochRecord(
            phase=self.phase, epoch=self.epochs_done, step=self.global_step, loss=loss, scalars=scalars,
            lr=self._lr_now, seconds=now - self._epoch_start,
        )  # fmt: skip
        self.epochs_done += 1
        self.steps_done = record.step
        self._epoch_start = now
        if self._on_epoch:
            self._on_epoch(record)
        for logger in self.loggers:
            logger.log_metrics(record.numbers(), step=record.epoch)

    def _plain_on_device(self) -> Iterable[ImageBatch] | None:
        return None if self._plain is None else OnDevice(self._plain, self.trainer.strategy.root_device)


class OnDevice:
    """The batches of a loader, moved to a device; may be iterated again and again."""

    def __init__(self, loader: Iterable[ImageBatch], device: torch.device) -> None:
        """Wrap a loader.

        Args:
            loader: gives batches, in the same order every time.
            device: where they go.
        """
        self._loader = loader
        self._device = device

    def __iter__(self) -> Iterator[ImageBatch]:
        for batch in self._loader:
            yield batch.to(self._device)


class _Meter:
    """Means over an epoch, weighted by batch size, without waiting for the device in every step."""

    def __init__(self) -> None:
        self._sums: dict[str, float | Tensor] = {}
        self._weight = 0

    def add(self, report: LossReport, size: int) -> None:
        for name, value in {**report.scalars, "": report.loss}.items():
            number = value.detach().double() if isinstance(value, Tensor) else float(value)
            self._sums[name] = self._sums.get(name, 0.0) + number * size
        self._weight += size

    def take(self, reduce: Callable[..., Any]) -> tuple[float, dict[str, float]]:
        """Mean loss and mean scalars since the last call, over all processes."""
        means = {}
        for name, value in self._sums.items():
            mean = torch.as_tensor(value) / max(self._weight, 1)
            means[name] = float(reduce(mean, reduce_op="mean"))
        self._sums, self._weight = {}, 0
        loss = means.pop("", float("nan"))
        return loss, means


def seed_all(seed: int, *where: object) -> None:
    """Seed the global generators of Python and torch for one place of a run.

    Methods and loaders draw from generators of their own; this is for what draws from the global ones in
    spite of that (a third-party layer or transform), so that a resumed run draws as the first one did.

    Args:
        seed: the run's seed.
        where: the place, such as phase and epoch.
    """
    digest = hashlib.sha256(repr((seed, *where)).encode()).digest()
    number = int.from_bytes(digest[:8], "little") % 2**63
    random.seed(number)
    # Not torch.manual_seed: while no GPU is in use it queues a stack trace a call (1 ms, and they pile up).
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(number)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(number)
