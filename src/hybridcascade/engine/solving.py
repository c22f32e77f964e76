"""A phase that its method solves at once, without optimiser steps of the engine's."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor

from hybridcascade.engine.checkpoints import KEY, MODULE_PREFIX, AtomicCheckpointIO
from hybridcascade.engine.folder import RunFolder
from hybridcascade.engine.module import OnDevice, seed_all
from hybridcascade.engine.records import EpochRecord
from hybridcascade.engine.state import checksums, select
from hybridcascade.engine.trained import check_solved, declare
from hybridcascade.errors import HybridCascadeError
from hybridcascade.methods.base import Method
from hybridcascade.types import ImageBatch

__all__ = ["SOLVED", "SolvedNumbers", "solve_phase"]


class SolvedNumbers:
    """The numbers of a phase that is solved at once: one epoch, and nothing that anybody could set."""

    epochs = 1
    lr = 1.0
    weight_decay = 0.0
    schedule = "none"
    warmup_epochs = 0.0
    milestones: tuple[float, ...] = ()
    gamma = 1.0


SOLVED = SolvedNumbers()
"""Stands where the numbers of other phases are."""


def solve_phase(
    method: Method,
    phase: str,
    *,
    plain: Iterable[ImageBatch] | None,
    targets: Tensor | None,
    folder: RunFolder | None,
    seed: int,
    baseline: Mapping[str, int],
    identity: Mapping[str, Any],
    accelerator: str,
) -> EpochRecord:
    """Let a method solve a phase, check what changed, and save the end of the phase.

    Args:
        method: changed in place; on the CPU and frozen afterwards.
        phase: one of `method.solves`.
        plain: all training pictures (or stored features) once, in order.
        targets: target distributions by row, `[N, K]`, or None.
        folder: of the run, for the checkpoint and the record; None keeps nothing.
        seed: the run's seed.
        baseline: checksums that tell which parameters need not be saved.
        identity: settings that a resume must share.
        accelerator: Lightning's; several devices would all solve the same, so one does.

    Raises:
        HybridCascadeError: the loss is not finite, or what changed is not what is declared.
    """
    began = time.perf_counter()
    device = lightning.Fabric(accelerator=accelerator, devices=1).device
    method.to(device)
    seed_all(seed, phase)
    on_device = None if plain is None else OnDevice(plain, device)
    method.begin_phase(phase, on_device, None if targets is None else targets.to(device))
    declared = {name for group, _ in declare(method, phase) for name in group.parameters}
    method.requires_grad_(False)
    before = checksums(method)
    with torch.no_grad():
        report = method.solve(phase)
    loss = float(report.loss)
    if not math.isfinite(loss):
        raise HybridCascadeError(
            f"the loss of phase {phase!r} is {loss} at its solution. Are the pictures' features finite? "
            "Try --precision fp32"
        )
    method.to("cpu")
    check_solved(method, phase, declared, before)
    scalars = {name: float(value) for name, value in report.scalars.items()}
    record = EpochRecord(phase, 0, 1, loss, scalars, {}, time.perf_counter() - began)
    if folder is not None:
        _save(method, phase, folder.checkpoints / f"{phase}.ckpt", baseline, identity)
        folder.append_metrics(record)
    return record


def _save(method: Method, phase: str, file: Path, baseline: Mapping[str, int], identity: Mapping[str, Any]) -> None:
    kept, omitted = select(method.state_dict(), baseline)
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": {MODULE_PREFIX + name: tensor for name, tensor in kept.items()},
        KEY: {
            "format": 1, "phase": phase, "epochs_done": 1, "epochs": 1, "steps": 1, "steps_per_epoch": 1,
            "identity": dict(identity), "omitted": omitted,
        },
    }  # fmt: skip
    AtomicCheckpointIO().save_checkpoint(content, file)
