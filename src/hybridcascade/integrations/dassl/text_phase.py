"""The text phase before Dassl's epochs, as the engine runs it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader

from hybridcascade.engine.fitting import fit
from hybridcascade.engine.module import PhaseModule, seed_all
from hybridcascade.methods.base import Method
from hybridcascade.methods.settings import PhaseDefaults
from hybridcascade.types import TextBatch

__all__ = ["run_text_phase"]

_PHASE = "text"


def run_text_phase(method: Method, texts: TextBatch, numbers: PhaseDefaults, seed: int, device: torch.device) -> None:
    """Train what a method trains on texts; a step on all texts is an epoch, as in the engine.

    Args:
        method: changed in place; stays on `device`.
        texts: all encoded texts.
        numbers: of the phase; 0 epochs only let the method prepare.
        seed: of the run.
        device: where the method is.
    """
    if numbers.epochs == 0:
        seed_all(seed, _PHASE)
        method.begin_phase(_PHASE, None)
        return
    module = PhaseModule(
        method, _PHASE, epochs=numbers.epochs, lr=numbers.lr, weight_decay=numbers.weight_decay,
        schedule=numbers.schedule, warmup_epochs=numbers.warmup_epochs, milestones=numbers.milestones,
        gamma=numbers.gamma, seed=seed, one_step_epochs=True,
    )  # fmt: skip
    every_step: Any = [texts] * numbers.epochs  # a list is data set enough for a loader
    steps: Any = DataLoader(every_step, batch_size=None)
    fit(
        module, steps, None, None, (), accelerator="gpu" if device.type == "cuda" else "cpu", devices=1,
        strategy="auto", num_nodes=1, precision="32-true", gradient_clip_val=None, accumulate=1,
        checkpoint_every=1, bar=False, callbacks=(),
    )  # fmt: skip
    method.requires_grad_(False)
    method.zero_grad(set_to_none=True)
    method.to(device)  # Lightning leaves it on the CPU
