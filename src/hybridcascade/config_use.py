"""How to use a saved run, and the checks that all configurations share. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybridcascade.data.readers.catalogue import check_format
from hybridcascade.data.readers.splits import parse_rule
from hybridcascade.errors import SettingsError, UnknownNameError

__all__ = [
    "DEVICES",
    "CalibrateConfig",
    "EvaluateConfig",
    "PredictConfig",
    "at_least",
    "check_layout",
    "one_of",
    "split_names",
]

DEVICES = ("auto", "cpu", "cuda", "mps")


@dataclass(frozen=True)
class UseConfig:
    """How pictures are read and predicted, whatever for."""

    batch_size: int = 64
    """Pictures in a forward pass."""

    workers: int = 0
    """Processes that decode pictures beside the predicting process."""

    device: str = "auto"
    """Where to predict: auto, cpu, cuda or mps."""

    strict: bool = False
    """Stop at the first picture that cannot be read, instead of leaving it out."""

    allow_outside: bool = False
    """Let a manifest point to pictures outside its own folder."""

    def __post_init__(self) -> None:
        one_of("device", self.device, DEVICES)
        at_least("batch_size", self.batch_size, 1)
        at_least("workers", self.workers, 0)


@dataclass(frozen=True)
class PredictConfig(UseConfig):
    """How to predict with a saved run."""

    out: str | None = None
    """File to write: .csv, .jsonl or .parquet. Left out: CSV on stdout (JSON lines with --json)."""

    strict: bool = False
    """Stop at the first picture that cannot be read, instead of writing a row with the reason."""


@dataclass(frozen=True)
class LabelledConfig(UseConfig):
    """How the labelled pictures are read that a saved run is held against."""

    format: str = "auto"
    """Layout of the data: auto, none, or a published data set with its options, such as emotion6@classes=6."""

    make_split: str | None = None
    """Split for data that has none: the rule that the run was trained with, such as hash:0.8 or hash:0.7,0.1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_layout(self.format, self.make_split)

    def reading(self) -> dict[str, Any]:
        """Return what `TunedModel.evaluate` and `calibrate` take beside data and split."""
        return {
            "batch_size": self.batch_size, "workers": self.workers, "strict": self.strict,
            "allow_outside": self.allow_outside, "format": self.format, "make_split": self.make_split,
        }  # fmt: skip


@dataclass(frozen=True)
class EvaluateConfig(LabelledConfig):
    """How to evaluate a saved run."""

    data: str | None = None
    """Labelled pictures: a folder per class, a manifest with labels, votes or probabilities, or a zip of either."""

    split: str | None = None
    """Pictures to evaluate on, by the `split` of the data; left out: all."""

    full: bool = False
    """Distribution metrics (Chebyshev, Clark, Canberra, KL, cosine, intersection), each class and the confusion
    matrix too."""

    plots: str | None = None
    """Folder to write the confusion matrix and the reliability diagram to, as .svg files."""

    def __post_init__(self) -> None:
        if not self.data:
            raise SettingsError("say what to evaluate on: --data labelled.csv (or a folder per class, or a zip)")
        super().__post_init__()


@dataclass(frozen=True)
class CalibrateConfig(LabelledConfig):
    """How to calibrate a saved run on labelled pictures."""

    data: str | None = None
    """Labelled pictures: a folder per class, a manifest with labels, votes or probabilities, or a zip of either."""

    split: str | None = None
    """Pictures to calibrate on, by the `split` of the data, such as val; left out: all."""

    remove: bool = False
    """Remove the temperature from the run instead."""

    def __post_init__(self) -> None:
        if self.remove and self.data:
            raise SettingsError("--remove takes the temperature away and needs no --data")
        if not self.remove and not self.data:
            raise SettingsError("say what to calibrate on: --data labelled.csv --split val (or --remove)")
        super().__post_init__()


def check_layout(form: str, make_split: str | None) -> None:
    """Raise `SettingsError` when a layout or a rule for a split cannot be."""
    check_format(form)
    if make_split is not None:
        parse_rule(make_split)


def at_least(name: str, value: float | None, low: float) -> None:
    """Raise `SettingsError` when a number is given and below `low` (or NaN)."""
    if value is not None and not value >= low:
        raise SettingsError(f"{name} must be {low} or above, got {value}")


def one_of(kind: str, name: str, valid: Mapping[str, str] | tuple[str, ...]) -> None:
    """Raise `UnknownNameError` when a name is not among the valid ones."""
    if name not in valid:
        raise UnknownNameError(kind, name, valid)


def split_names(text: str | None) -> list[str]:
    """Return the names in a text that divides them by commas, without blanks around them; none for None.

    >>> split_names(" zero_shot, lafter,")
    ['zero_shot', 'lafter']
    """
    return [word.strip() for word in (text or "").split(",") if word.strip()]
