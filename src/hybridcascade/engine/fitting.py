"""The Lightning trainer of one phase: loggers, checkpoint, progress bar, and quiet elsewhere."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from hybridcascade.engine.checkpoints import AtomicCheckpointIO
from hybridcascade.engine.folder import RunFolder, is_first_process
from hybridcascade.engine.module import PhaseModule, seed_all
from hybridcascade.engine.records import EpochRecord

__all__ = ["fit"]

# Warnings of Lightning's that the user can do nothing about: the library chose what they are of.
_NOISE = (
    ".*exists and is not empty.*",
    ".*module.s. in eval mode.*",
    ".*dirpath.* has changed from.*",
    ".*isinstance.treespec, LeafSpec.. is deprecated.*",
)


def fit(
    module: PhaseModule,
    batches: Any,
    folder: RunFolder | None,
    resume_from: Path | None,
    history: Sequence[EpochRecord],
    *,
    accelerator: str,
    devices: int | str | list[int],
    strategy: str,
    num_nodes: int,
    precision: Any,
    gradient_clip_val: float | None,
    accumulate: int,
    checkpoint_every: int,
    bar: bool,
    callbacks: Sequence[Callback],
) -> None:
    """Let Lightning run one phase.

    Args:
        module: the phase.
        batches: what an epoch iterates over.
        folder: where logs and checkpoints go, or None.
        resume_from: the checkpoint to continue from, or None.
        history: records of the epochs before.
        accelerator: Lightning's.
        devices: Lightning's.
        strategy: Lightning's.
        num_nodes: Lightning's.
        precision: Lightning's.
        gradient_clip_val: Lightning's.
        accumulate: batches an optimiser step.
        checkpoint_every: epochs between checkpoints.
        bar: whether to show a progress bar.
        callbacks: further Lightning callbacks.
    """
    passes = 1 if module.one_step_epochs else module.epochs
    every = min(checkpoint_every, passes)
    own: list[Callback] = [_Bar()] if bar else []
    if folder:
        folder.path.mkdir(parents=True, exist_ok=True)
        own.append(_checkpoint(folder, module.phase, every))
    loader = batches if module.one_step_epochs else _Epochs(batches, module)
    with _quiet():
        trainer = lightning.Trainer(
            accelerator=accelerator, devices=devices, strategy=strategy, num_nodes=num_nodes, precision=precision,
            gradient_clip_val=gradient_clip_val, accumulate_grad_batches=1 if module.one_step_epochs else accumulate,
            max_epochs=passes, callbacks=[*callbacks, *own], logger=_loggers(folder, module, history),
            plugins=[AtomicCheckpointIO()], enable_checkpointing=folder is not None, enable_progress_bar=bar,
            enable_model_summary=False, enable_autolog_hparams=False, log_every_n_steps=1,
            use_distributed_sampler=False,  # the loader's own sampler knows the processes, and the resume
            default_root_dir=str(folder.path) if folder else None,
        )  # fmt: skip
        trainer.fit(module, loader, ckpt_path=str(resume_from) if resume_from else None)
        if folder and passes % every:
            trainer.save_checkpoint(folder.checkpoints / f"{module.phase}.ckpt")


def _checkpoint(folder: RunFolder, phase: str, every: int) -> ModelCheckpoint:
    """The last epoch's checkpoint, always under the same name, so that a new one replaces the old at once."""
    return ModelCheckpoint(
        folder.checkpoints, phase, every_n_epochs=every, save_top_k=1, save_on_train_epoch_end=True,
        enable_version_counter=False,
    )  # fmt: skip


def _loggers(folder: RunFolder | None, module: PhaseModule, history: Sequence[EpochRecord]) -> list[Logger] | bool:
    """CSV and TensorBoard below `logs/`; in a resume the epochs before are kept and later ones go."""
    if folder is None:
        return False
    phase, flush = module.phase, 100 if module.one_step_epochs else 1  # a short epoch should not wait for the disk
    csv = CSVLogger(folder.logs, name="csv", version=phase, flush_logs_every_n_steps=flush)
    board = TensorBoardLogger(folder.logs, name="tensorboard", version=phase, purge_step=len(history) or None)
    if is_first_process():
        shutil.rmtree(csv.log_dir, ignore_errors=True)  # Lightning would delete it too, with a warning
        for record in history:
            csv.log_metrics({**record.numbers()}, step=record.epoch)
    return [csv, board]


class _Epochs:
    """A loader whose iteration begins when the first batch of an epoch is wanted, and not before.

    Lightning makes the first iterator of a run early, before it tells the sampler the epoch: with worker
    processes a resumed run would fetch its first batches in the order of epoch 0. Here every epoch begins
    alike: sampler told, global generators seeded, then iterated.
    """

    def __init__(self, loader: Any, module: PhaseModule) -> None:
        self._loader = loader
        self._module = module

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        module, batch_sampler = self._module, getattr(self._loader, "batch_sampler", None)
        samplers = (getattr(self._loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
        for sampler in {id(s): s for s in samplers}.values():
            if callable(set_epoch := getattr(sampler, "set_epoch", None)):
                set_epoch(module.epochs_done)
        seed_all(module.seed, module.phase, module.epochs_done)
        yield from self._loader


class _Bar(RichProgressBar):
    """Lightning's rich bar, on stderr, with the running loss."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=10, console_kwargs={"stderr": True})

    def get_metrics(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        if not isinstance(pl_module, PhaseModule):
            return {}
        return {"phase": pl_module.phase, "loss": pl_module.last_loss}


@contextmanager
def _quiet() -> Iterator[None]:
    """Lightning's notices (devices found, tips) go below the level of warnings, and its wrong advice away."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
