"""An exponential moving average of a method's trained parameters, kept in its `teacher_*` buffers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from hybridcascade.errors import SettingsError
from hybridcascade.methods.parts import TeacherMethod, collect_rows
from hybridcascade.types import ImageBatch

__all__ = ["averaged_weights", "mixed_logits", "start_average", "update_average"]


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


def mixed_logits(
    method: TeacherMethod,
    names: Sequence[str],
    plain: Iterable[ImageBatch] | None,
    frozen: Tensor,
    *,
    teacher: str,
    share: float,
    temperature: float | Tensor,
) -> Tensor:
    """Mix the frozen teacher's scores with those of the model as it is, to label the pictures anew, `[N, K]`.

    Args:
        method: scores the pictures.
        names: parameters that the average is of.
        plain: all training pictures once.
        frozen: the frozen teacher's scores, `[N, K]`, at CLIP's own scale.
        teacher: live, or ema for the averaged parameters.
        share: of the frozen teacher in the mixture, in `[0, 1]`.
        temperature: that the method's scores were divided by; undone, so that both parts weigh alike.

    Raises:
        SettingsError: there are no pictures.
    """
    if plain is None:
        raise SettingsError(f"{method.name}: teacher={teacher} needs plain pictures at each epoch")
    with averaged_weights(method, names) if teacher == "ema" else nullcontext():
        present = temperature * collect_rows(plain, lambda images: method(images).logits, method.device)
    return share * frozen + (1 - share) * present


@torch.no_grad()
def _assign(method: TeacherMethod, names: Sequence[str], values: Sequence[Tensor]) -> None:
    for name, value in zip(names, values, strict=True):
        method.get_parameter(name).copy_(value)


def _average(method: TeacherMethod, number: int) -> Tensor:
    return method.get_buffer(f"teacher_ema_{number}")
