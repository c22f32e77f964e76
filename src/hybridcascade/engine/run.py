"""Run the phases of a method: from a constructed method to a trained one, once, resumably."""

from __future__ import annotations

import itertools
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from lightning.pytorch.callbacks import Callback
from torch import Tensor

from hybridcascade.engine.checkpoints import KEY, MODULE_PREFIX, check_identity, read_checkpoint
from hybridcascade.engine.fitting import fit
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.module import PhaseModule, seed_all
from hybridcascade.engine.records import EpochRecord, PhaseRecord
from hybridcascade.engine.schedules import lr_factor
from hybridcascade.engine.solving import SOLVED, solve_phase
from hybridcascade.engine.state import checksums, restore
from hybridcascade.engine.watching import EpochWatch
from hybridcascade.errors import OutputExistsError, SettingsError
from hybridcascade.methods.base import Method
from hybridcascade.types import ImageBatch, TextBatch

__all__ = ["PhaseNumbers", "StoredData", "run_phases"]

_log = logging.getLogger(__name__)


class PhaseNumbers(Protocol):
    """The numbers of one phase; any object with these attributes will do."""

    @property
    def epochs(self) -> int:
        """Length in epochs; in the text phase an epoch is one full-batch step. 0: only `begin_phase`."""

    @property
    def lr(self) -> float:
        """AdamW's learning rate, above 0."""

    @property
    def weight_decay(self) -> float:
        """AdamW's weight decay, 0 or above."""

    @property
    def schedule(self) -> str:
        """One of `hybridcascade.engine.schedules.SCHEDULES`."""

    @property
    def warmup_epochs(self) -> float:
        """Length of a warm-up, in epochs."""

    @property
    def milestones(self) -> Sequence[float]:
        """Falls of `multistep`, in epochs, ascending."""

    @property
    def gamma(self) -> float:
        """Factor of each fall."""


@dataclass(frozen=True)
class StoredData:
    """Stored features in place of pictures, for the heads phase.

    Attributes:
        batches: for training, `UnlabeledBatch` or `TargetBatch` with features `[B, V, F]`; as `train_loader`.
        plain: all rows once, in order, `ImageBatch` with features `[B, V, F]`; as `plain_loader`.
    """

    batches: Any
    plain: Iterable[ImageBatch]


def run_phases(
    method: Method,
    phases: Mapping[str, PhaseNumbers],
    text_batch: TextBatch | None = None,
    train_loader: Iterable[Any] | None = None,
    plain_loader: Iterable[ImageBatch] | None = None,
    targets: Tensor | None = None,
    folder: Path | RunFolder | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    accelerator: str = "auto",
    devices: int | str | list[int] = 1,
    gradient_clip: float | None = None,
    accumulate: int = 1,
    checkpoint_every: int = 1,
    *,
    strategy: str = "auto",
    num_nodes: int = 1,
    precision: Any = "32-true",
    callbacks: Sequence[Callback] = (),
    stored: StoredData | None = None,
) -> list[PhaseRecord]:
    """Train `method` through its phases: `method.phases_with(phases)`, in that order.

    Resuming. A phase that a checkpoint says is finished is not run again; its end state is restored. The
    phase that was interrupted starts from the end state of the phase before, `begin_phase` is called as
    in the first run (whatever it leaves outside of the tensors is there again), and then the checkpoint of
    the last finished epoch is laid over: trained parameters, optimiser, schedule and all buffers, so a
    frozen teacher is the saved one. With all phases finished nothing runs, the final state is restored,
    and each record says `"already finished"`. A method must therefore create its parameters in its
    constructor and keep what `begin_epoch` computes in buffers.

    Args:
        method: freshly constructed; changed in place. Afterwards nothing in it requires a gradient, and
            it is on the CPU.
        phases: numbers for each phase in `method.phases`, and for `"heads"` where that phase is wanted.
        text_batch: all encoded texts; the text phase takes it whole in every step.
        train_loader: batches of the other phases (`UnlabeledBatch` or `TargetBatch`); its sampler's
            `set_epoch`, where there is one, is called as every epoch begins, and Lightning does not replace it.
        plain_loader: all training pictures once, in order, for the method's hooks.
        targets: target distributions by row, `[N, K]`, or None without labels.
        folder: the run folder, for checkpoints, logs and `metrics.jsonl`; None keeps nothing.
        seed: the run's seed.
        resume: continue from the checkpoints in `folder`, if there are any.
        progress: show a progress bar on stderr, where that is a terminal.
        accelerator: Lightning's, such as `"auto"`, `"cpu"`, `"gpu"`.
        devices: Lightning's, on each machine.
        gradient_clip: largest norm of the gradient, or None.
        accumulate: batches an optimiser step; the text phase always has 1.
        checkpoint_every: epochs between checkpoints; the end of a phase always has one.
        strategy: Lightning's, such as `"auto"`, `"ddp"`.
        num_nodes: machines.
        precision: Lightning's; methods manage the dtype of frozen weights themselves.
        callbacks: further Lightning callbacks.
        stored: batches of stored features, for the heads phase.

    Returns:
        One record a phase, in order; none for a method that trains nothing.

    Raises:
        SettingsError: numbers, texts or pictures of a phase are missing or out of range, or a resume has
            other settings than the run it continues.
        UnknownNameError: the schedule is unknown.
        OutputExistsError: `folder` has checkpoints and `resume` is False.
        CheckpointError: a checkpoint is damaged or of another method.
        HybridCascadeError: the loss is not finite, or what trains is not what is declared.
    """
    run = folder if isinstance(folder, RunFolder) or folder is None else RunFolder(folder)
    order = method.phases_with(phases)
    numbers = {phase: SOLVED if phase in method.solves else phases.get(phase) for phase in order}
    heads = None if stored is None else stored.batches
    for phase in order:
        _check_phase(method, phase, numbers[phase], phases, text_batch, heads if phase == "heads" else train_loader)
    _check_run({*order, *method.phases}, run, resume, accumulate, checkpoint_every, gradient_clip)
    if any(word in strategy for word in ("spawn", "fork", "notebook")):
        raise SettingsError(f"strategy {strategy!r} trains in copies of this process; use 'ddp', from a script")
    options = {
        "accelerator": accelerator, "devices": devices, "strategy": strategy, "num_nodes": num_nodes,
        "precision": precision, "gradient_clip_val": gradient_clip, "accumulate": accumulate,
        "checkpoint_every": checkpoint_every, "bar": progress and sys.stderr.isatty(), "callbacks": tuple(callbacks),
    }  # fmt: skip
    baseline = checksums(method, leave_out=(n for phase in order for n in method.trainable_names(phase)))
    records = []
    for phase in order:
        own = numbers[phase] or SOLVED
        data = _PhaseData(train_loader, plain_loader, targets, False)
        if phase == "text":
            data = _PhaseData.of_texts(text_batch, own.epochs)
        elif phase == "heads" and stored is not None:
            data = _PhaseData(stored.batches, stored.plain, targets, False)
        records.append(_run_phase(method, phase, order, own, data, run, seed, baseline, options))
    if records and all(record.status == "already finished" for record in records):
        _log.info("all phases of this run are finished already: nothing left to train")
    return records


@dataclass(frozen=True)
class _PhaseData:
    """What one phase runs on.

    Attributes:
        batches: what Lightning iterates over.
        plain: for the method's hooks.
        targets: for the method's hooks.
        one_step_epochs: whether every batch is an epoch.
    """

    batches: Any
    plain: Iterable[ImageBatch] | None
    targets: Tensor | None
    one_step_epochs: bool

    @classmethod
    def of_texts(cls, text_batch: TextBatch | None, epochs: int) -> Self:
        """The whole text batch in every step, `epochs` times."""
        return cls(_Repeated(text_batch, epochs), None, None, True)


class _Repeated:
    """One batch, many times: a class, because Lightning takes a list for several loaders."""

    def __init__(self, batch: Any, times: int) -> None:
        self._batch = batch
        self._times = times

    def __len__(self) -> int:
        return self._times

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self._batch, self._times)


def _run_phase(
    method: Method, phase: str, order: Sequence[str], numbers: PhaseNumbers, data: _PhaseData,
    folder: RunFolder | None, seed: int, baseline: Mapping[str, int], options: Mapping[str, Any],
) -> PhaseRecord:  # fmt: skip
    """Run, resume or restore one phase."""
    start = time.perf_counter()
    if numbers.epochs == 0:
        seed_all(seed, phase)
        method.begin_phase(phase, data.plain, data.targets)
        return PhaseRecord(phase, 0, 0, "skipped", time.perf_counter() - start)
    identity = _identity(method, phase, order, numbers, seed, options)
    file = folder.checkpoints / f"{phase}.ckpt" if folder else None
    saved = read_checkpoint(file) if file and file.exists() else None
    if saved:
        check_identity(saved[KEY]["identity"], identity)
    done = int(saved[KEY]["epochs_done"]) if saved else 0
    history = _history(folder, order, phase, done)
    if saved and done == numbers.epochs:
        _restore_finished(method, phase, saved, str(file), options["callbacks"])
        _log.info("phase %s is finished already (%d epochs): nothing to do", phase, done)
        steps = int(saved[KEY]["steps"])
        return PhaseRecord(phase, done, steps, "already finished", time.perf_counter() - start, history)
    if phase in method.solves:
        solved = solve_phase(
            method, phase, plain=data.plain, targets=data.targets, folder=folder, seed=seed, baseline=baseline,
            identity=identity, accelerator=options["accelerator"],
        )  # fmt: skip
        return PhaseRecord(phase, 1, solved.step, "trained", time.perf_counter() - start, (solved,))
    new: list[EpochRecord] = []

    def remember(record: EpochRecord) -> None:
        new.append(record)
        if folder and module.trainer.is_global_zero:
            folder.append_metrics(record)

    module = PhaseModule(
        method, phase, epochs=numbers.epochs, lr=numbers.lr, weight_decay=numbers.weight_decay,
        schedule=numbers.schedule, warmup_epochs=numbers.warmup_epochs, milestones=numbers.milestones,
        gamma=numbers.gamma, seed=seed, one_step_epochs=data.one_step_epochs, plain=data.plain,
        targets=data.targets, first_epoch=done, baseline=baseline, identity=identity, on_epoch=remember,
    )  # fmt: skip
    if saved:
        _log.info("phase %s: resuming after epoch %d of %d", phase, done, numbers.epochs)
    fit(module, data.batches, folder, file if saved else None, history, **options)
    method.requires_grad_(False)
    method.zero_grad(set_to_none=True)
    status, seconds = "resumed" if saved else "trained", time.perf_counter() - start
    return PhaseRecord(phase, numbers.epochs, module.steps_done, status, seconds, (*history, *new))


def _restore_finished(
    method: Method, phase: str, saved: Mapping[str, Any], file: str, callbacks: Sequence[Callback]
) -> None:
    """Give the method the state that the phase ended with; a watch that chose an epoch does so again."""
    tensors = {k.removeprefix(MODULE_PREFIX): v for k, v in saved["state_dict"].items()}
    restore(method, tensors, saved[KEY]["omitted"], file)
    for callback in callbacks:
        if isinstance(callback, EpochWatch) and phase not in method.solves:
            callback.take_finished(phase, method, saved)


def _history(folder: RunFolder | None, order: Sequence[str], phase: str, done: int) -> tuple[EpochRecord, ...]:
    """Records of the epochs that need not run again; a killed run may have left later ones, which go."""
    if folder is None or not folder.metrics_file.exists():
        return ()
    records = folder.read_metrics()
    later = order[order.index(phase) + 1 :]
    keep = [r for r in records if r.phase != phase or r.epoch < done]
    if len(keep) < len(records):
        keep = [r for r in keep if r.phase not in later]
        folder.keep_metrics(keep)
    return tuple(r for r in keep if r.phase == phase)


def _identity(
    method: Method, phase: str, order: Sequence[str], numbers: PhaseNumbers, seed: int, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Settings that a resume must share for the run to be the same run; plain values."""
    return {
        "method": method.name, "phase": phase, "phases": list(order), "seed": seed, "epochs": numbers.epochs,
        "lr": numbers.lr, "weight_decay": numbers.weight_decay, "schedule": numbers.schedule, "gamma": numbers.gamma,
        "warmup_epochs": numbers.warmup_epochs, "milestones": list(numbers.milestones),
        "accumulate": options["accumulate"], "gradient_clip": options["gradient_clip_val"],
        "unfreezing": [[step.name, step.start, *step.groups] for step in method.unfreezing(phase)],
    }  # fmt: skip


def _check_phase(
    method: Method, phase: str, numbers: PhaseNumbers | None, given: Iterable[str], text_batch: TextBatch | None,
    loader: Any,
) -> None:  # fmt: skip
    if numbers is None:
        raise SettingsError(f"method {method.name!r} needs numbers for its phase {phase!r}, found {sorted(given)}")
    if numbers.epochs < 0 or not numbers.lr > 0 or not numbers.weight_decay >= 0:
        found = f"epochs={numbers.epochs}, lr={numbers.lr}, weight_decay={numbers.weight_decay}"
        raise SettingsError(f"phase {phase!r} needs epochs >= 0, lr > 0 and weight_decay >= 0, found {found}")
    # an unknown schedule stops before the phases ahead of it have run
    lr_factor(numbers.schedule, 0.0, max(numbers.epochs, 1), numbers.warmup_epochs, numbers.milestones, numbers.gamma)
    if phase == "text" and (text_batch is None or len(text_batch) == 0):
        raise SettingsError(f"method {method.name!r} trains on texts, but there are none")
    if phase != "text" and not (isinstance(loader, Sized) and len(loader)):  # schedules need to know the length
        what = "stored features" if phase == "heads" else "pictures"
        raise SettingsError(f"method {method.name!r} trains on {what} in phase {phase!r}, but there is no batch")


def _check_run(
    phases: Iterable[str], folder: RunFolder | None, resume: bool, accumulate: int, every: int, clip: float | None
) -> None:
    if accumulate < 1 or every < 1 or (clip is not None and not clip > 0):
        found = f"accumulate={accumulate}, checkpoint_every={every}, gradient_clip={clip}"
        raise SettingsError(f"needs accumulate >= 1, checkpoint_every >= 1, gradient_clip > 0 or None, found {found}")
    if folder and not resume and any((folder.checkpoints / f"{phase}.ckpt").exists() for phase in phases):
        raise OutputExistsError(
            f"'{folder.path}' already holds checkpoints of a run; nothing was changed. Continue it with --resume "
            "(resume=True), replace it with --overwrite (overwrite=True), or name another folder with --out"
        )
