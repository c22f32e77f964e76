"""What the settings of several methods share: phase numbers, valid names, range checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = ["AGGREGATIONS", "POOLS", "PROMPT_INITS", "PhaseDefaults", "between", "choice"]

POOLS = ("cls", "patch", "both")
AGGREGATIONS = ("nga", "free", "mean", "last")
PROMPT_INITS = ("uniform", "neutral")


@dataclass(frozen=True)
class PhaseDefaults:
    """Numbers of one training phase."""

    epochs: int
    """Passes over the pictures; in the text phase an epoch is one step on all texts."""

    lr: float
    """Highest learning rate of AdamW."""

    weight_decay: float
    """Decoupled weight decay of AdamW, per unit of learning rate and step."""

    batch_size: int
    """Pictures a step; the text phase takes all texts at once."""

    schedule: str = "none"
    """Learning-rate schedule, a name of `engine.schedules`."""

    warmup_epochs: float = 3.0
    """Epochs of linear warm-up from a tenth, for the schedules that have one."""

    milestones: tuple[float, ...] = ()
    """Epochs at which `multistep` lowers the rate."""

    gamma: float = 0.1
    """Factor of `multistep` at each milestone."""


def choice(key: str, value: str, valid: Sequence[str]) -> None:
    """Raise `UnknownNameError` when a setting is not one of its valid names."""
    if value not in valid:
        raise UnknownNameError(key.replace("_", " "), value, valid)


def between(key: str, value: float, low: float, high: float = float("inf"), open_low: bool = False) -> None:
    """Raise `SettingsError` when a number is outside `[low, high]`, or at `low` with `open_low`."""
    fits = (low < value if open_low else low <= value) and value <= high
    if not fits:
        bracket = "(" if open_low else "["
        end = "infinity)" if high == float("inf") else f"{high:g}]"
        raise SettingsError(f"expected {key} in {bracket}{low:g}, {end}, got {value}")
