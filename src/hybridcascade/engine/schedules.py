"""Learning-rate schedules: each does what its name says. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = ["SCHEDULES", "WARMUP_START", "lr_factor"]

WARMUP_START = 0.1
"""Factor at the first step of a warm-up."""


def lr_factor(
    schedule: str,
    epoch: float,
    epochs: float,
    warmup_epochs: float = 3.0,
    milestones: Sequence[float] = (),
    gamma: float = 0.1,
) -> float:
    """Factor on the learning rate at a moment of training.

    - `none`: 1.
    - `warmup`: linear from 0.1 to 1 over `warmup_epochs`, then 1.
    - `cosine`: `(1 + cos(pi * epoch / epochs)) / 2`: 1 at the start, 0 at the end (Loshchilov and Hutter,
      arXiv:1608.03983, without restarts).
    - `cosine_warmup`: linear from 0.1 to 1 over `warmup_epochs`, then the cosine over the epochs left.
    - `multistep`: `gamma` to the power of the number of milestones reached.

    Args:
        schedule: one of `SCHEDULES`.
        epoch: epochs done, fractional (optimiser steps done / steps an epoch), from 0.
        epochs: epochs of the whole phase, above 0.
        warmup_epochs: length of the warm-up in epochs, 0 for none.
        milestones: epochs at which `multistep` falls, ascending.
        gamma: factor of each fall, above 0.

    Returns:
        The factor, in [0, 1] (for `multistep` with gamma <= 1).

    Raises:
        UnknownNameError: no schedule has this name.
        SettingsError: a number is out of its range.

    Example:
        >>> [lr_factor("warmup", e, 10) for e in (0, 3, 9)]
        [0.1, 1.0, 1.0]
        >>> round(lr_factor("cosine", 5, 10), 6)
        0.5
    """
    if schedule not in _FACTORS:
        raise UnknownNameError("schedule", schedule, SCHEDULES)
    if not epochs > 0 or not warmup_epochs >= 0 or not gamma > 0:
        found = f"epochs={epochs}, warmup_epochs={warmup_epochs}, gamma={gamma}"
        raise SettingsError(f"a schedule needs epochs > 0, warmup_epochs >= 0 and gamma > 0, found {found}")
    if list(milestones) != sorted(milestones):
        raise SettingsError(f"milestones must ascend (epochs), found {list(milestones)}")
    return _FACTORS[schedule](epoch, epochs, warmup_epochs, milestones, gamma)


def _none(epoch: float, epochs: float, warmup: float, milestones: Sequence[float], gamma: float) -> float:
    return 1.0


def _warmup(epoch: float, epochs: float, warmup: float, milestones: Sequence[float], gamma: float) -> float:
    return WARMUP_START + (1.0 - WARMUP_START) * epoch / warmup if epoch < warmup else 1.0


def _cosine(epoch: float, epochs: float, warmup: float, milestones: Sequence[float], gamma: float) -> float:
    # after the end the cosine would rise again
    return 0.5 * (1.0 + math.cos(math.pi * min(epoch / epochs, 1.0)))


def _cosine_warmup(epoch: float, epochs: float, warmup: float, milestones: Sequence[float], gamma: float) -> float:
    if epoch < warmup or epochs <= warmup:
        return _warmup(epoch, epochs, warmup, milestones, gamma)
    return _cosine(epoch - warmup, epochs - warmup, warmup, milestones, gamma)


def _multistep(epoch: float, epochs: float, warmup: float, milestones: Sequence[float], gamma: float) -> float:
    return float(gamma ** sum(epoch >= milestone for milestone in milestones))


_FACTORS: dict[str, Callable[[float, float, float, Sequence[float], float], float]] = {
    "none": _none,
    "warmup": _warmup,
    "cosine": _cosine,
    "cosine_warmup": _cosine_warmup,
    "multistep": _multistep,
}

SCHEDULES: tuple[str, ...] = tuple(_FACTORS)
"""Names of all schedules."""
