"""Dassl's learning-rate schedules by their keys, without the parts of Dassl's code that current torch refuses.

Dassl's own warm-up schedulers pass `verbose` to torch's base class, which has no such argument since torch 2.7.
Here every schedule is one factor an epoch.
"""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = ["epoch_factor", "epoch_schedule"]

_SCHEDULES = ("single_step", "multi_step", "cosine")
_WARMUPS = ("linear", "constant")


def epoch_schedule(optimizer: Optimizer, optim: Any) -> LambdaLR:
    """Return the schedule that `cfg.OPTIM` describes; `update_lr()` steps it once an epoch.

    Args:
        optimizer: its groups keep the ratios of their learning rates.
        optim: Dassl's node `OPTIM`.

    Raises:
        UnknownNameError: no such schedule or warm-up.
        SettingsError: a step size of the wrong kind.
    """
    epoch_factor(0, optim)  # wrong names are told before training

    def factor(epoch: int) -> float:
        return epoch_factor(epoch, optim)

    return LambdaLR(optimizer, factor)


def epoch_factor(epoch: int, optim: Any) -> float:
    """Factor on the learning rate in an epoch.

    - `WARMUP_EPOCH` W > 0: `constant` is `WARMUP_CONS_LR` for W epochs; `linear` is `WARMUP_MIN_LR` in epoch 0, then
      epoch / W. With `WARMUP_RECOUNT` the schedule after it starts from its epoch 0.
    - `single_step`: `GAMMA` every `STEPSIZE` epochs (the last number of a list; 0 or below: never before the end).
    - `multi_step`: `GAMMA` at each epoch of `STEPSIZE`.
    - `cosine`: (1 + cos(pi * epoch / MAX_EPOCH)) / 2.

    Args:
        epoch: from 0.
        optim: Dassl's node `OPTIM`.

    Raises:
        UnknownNameError: no such schedule or warm-up.
        SettingsError: a step size of the wrong kind.
    """
    if optim.LR_SCHEDULER not in _SCHEDULES:
        raise UnknownNameError("OPTIM.LR_SCHEDULER", str(optim.LR_SCHEDULER), _SCHEDULES)
    warmup = max(optim.WARMUP_EPOCH, 0)
    if warmup and optim.WARMUP_TYPE not in _WARMUPS:
        raise UnknownNameError("OPTIM.WARMUP_TYPE", str(optim.WARMUP_TYPE), _WARMUPS)
    if epoch < warmup:
        if optim.WARMUP_TYPE == "constant":
            return float(optim.WARMUP_CONS_LR / optim.LR)
        return float(epoch / warmup if epoch else optim.WARMUP_MIN_LR / optim.LR)
    return _after_warmup(epoch - (warmup if optim.WARMUP_RECOUNT else 0), optim)


def _after_warmup(epoch: int, optim: Any) -> float:
    sizes = optim.STEPSIZE
    if optim.LR_SCHEDULER == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * epoch / optim.MAX_EPOCH))
    if optim.LR_SCHEDULER == "multi_step":
        if not isinstance(sizes, (list, tuple)):
            raise SettingsError(f"OPTIM.STEPSIZE of multi_step must be a list of epochs, got {sizes!r}")
        return float(optim.GAMMA ** sum(epoch >= size for size in sizes))
    size = sizes[-1] if isinstance(sizes, (list, tuple)) else sizes
    if type(size) is not int:
        raise SettingsError(f"OPTIM.STEPSIZE of single_step must be a whole number of epochs, got {size!r}")
    return float(optim.GAMMA ** (epoch // (size if size > 0 else optim.MAX_EPOCH)))
