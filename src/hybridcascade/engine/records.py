"""What a run remembers of itself: one record an epoch, one a phase. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

__all__ = ["EpochRecord", "PhaseRecord"]


@dataclass(frozen=True)
class EpochRecord:
    """One line of `metrics.jsonl`.

    Attributes:
        phase: the phase.
        epoch: epoch of the phase, from 0.
        step: optimiser steps done in this phase at the end of the epoch.
        loss: mean training loss over the pictures (texts) of the epoch.
        scalars: means of what the method logged beside the loss.
        lr: learning rate of each parameter group in the last step of the epoch.
        seconds: wall-clock time of the epoch.
    """

    phase: str
    epoch: int
    step: int
    loss: float
    scalars: dict[str, float]
    lr: dict[str, float]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def numbers(self) -> dict[str, float]:
        """Loss, scalars and `lr/GROUP` as one flat mapping, for loggers."""
        return {"loss": self.loss, **self.scalars, **{f"lr/{name}": value for name, value in self.lr.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a record from `to_dict`.

        Args:
            values: what `to_dict` gave.
        """
        return cls(**values)


@dataclass(frozen=True)
class PhaseRecord:
    """What happened to one phase.

    Attributes:
        phase: the phase.
        epochs: epochs it is long.
        steps: optimiser steps done, over all runs of it.
        status: `"trained"` from its start, `"resumed"` from a checkpoint, `"already finished"` when
            nothing was left to do, or `"skipped"` with 0 epochs (only `begin_phase` ran).
        seconds: wall-clock time spent in this call.
        history: one record an epoch, those before a resume included (read from the run folder).
    """

    phase: str
    epochs: int
    steps: int
    status: str
    seconds: float
    history: tuple[EpochRecord, ...] = field(default=())
