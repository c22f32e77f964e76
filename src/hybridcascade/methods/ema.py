"""An exponential moving average of a method's trained parameters, kept in its `teacher_*` buffers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from hybridcascade.methods.parts import TeacherMethod

__all__ = ["averaged_weights", "start_average", "update_average"]


def start_average(method: TeacherMethod, names: Sequence[str]) -> None:
    """Start the average at the present values of the parameters `names`, always in the same order."""
    for number, name in enumerate(names):
        method.set_teacher(f"ema_{number}", method.get_parameter(name))


@torch.no_grad()
def update_average(method: TeacherMethod, names: Sequence[str], decay: float) -> None:
    """Move the average: `average = decay * average + (1 - decay) * value`."""
    for number, name in enumerate(names):
        _average(method, number).lerp_(method.get_parameter(name), 1 - decay)


@contextmanager
def averaged_weights(method: TeacherMethod, names: Sequence[str]) -> Iterator[None]:
    """Run a block with the average in place of the parameters `names`."""
    kept = [method.get_parameter(name).detach().clone() for name in names]
    try:
        _assign(method, names, [_average(method, number) for number in range(len(names))])
        yield
    finally:
        _assign(method, names, kept)


@torch.no_grad()
def _assign(method: TeacherMethod, names: Sequence[str], values: Sequence[Tensor]) -> None:
    for name, value in zip(names, values, strict=True):
        method.get_parameter(name).copy_(value)


def _average(method: TeacherMethod, number: int) -> Tensor:
    return method.get_buffer(f"teacher_ema_{number}")
