"""What of a method goes into a checkpoint, and how it comes back.

Saved: every parameter that any phase trains, every persistent buffer (frozen teachers and cached targets
are buffers named `teacher*`), and every other parameter that is no longer what the constructor made. Not
saved: parameters that nothing trains and nothing changed, the backbone first of all; whoever resumes
builds the method again from the same weights. Their checksums are saved instead, so that resuming on
other weights is an error and not a silently different run.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from hybridcascade.errors import CheckpointError
from hybridcascade.methods.base import Method

__all__ = ["check_omitted", "checksum", "checksums", "fit_buffers", "restore", "select"]


def checksum(tensor: Tensor) -> int:
    """CRC-32 of a tensor's dtype, shape and bytes.

    Args:
        tensor: any dense tensor, on any device.
    """
    plain = tensor.detach().cpu().contiguous()
    start = zlib.crc32(f"{plain.dtype}{tuple(plain.shape)}".encode())
    return zlib.crc32(plain.reshape(-1).view(torch.uint8).numpy().data, start)


def checksums(method: Method, leave_out: Iterable[str] = ()) -> dict[str, int]:
    """Checksums of a method's parameters.

    Args:
        method: the method.
        leave_out: names of parameters not wanted.
    """
    without = frozenset(leave_out)
    return {name: checksum(p) for name, p in method.named_parameters() if name not in without}


def select(state: Mapping[str, Tensor], baseline: Mapping[str, int]) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Split a method's state into what a checkpoint holds and what it only names.

    Args:
        state: `method.state_dict()`.
        baseline: checksums, right after construction, of the parameters that no phase trains.

    Returns:
        The tensors to save, and name and checksum of those left out.
    """
    omitted = {k: baseline[k] for k, v in state.items() if k in baseline and checksum(v) == baseline[k]}
    return {k: v for k, v in state.items() if k not in omitted}, omitted


def fit_buffers(method: Method, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give `method` the buffers that `tensors` holds and `begin_phase` or `begin_epoch` had made or resized.

    Args:
        method: changed in place: buffers of other or unknown shape are registered anew.
        tensors: saved state by name.

    Returns:
        `tensors` without those of teacher modules that do not exist here: they are made by the
        `begin_phase` of a phase that is over, and no later phase needs them.

    Raises:
        CheckpointError: a saved tensor has no place in the method.
    """
    own = method.state_dict()
    buffers = {name for name, _ in method.named_buffers()}
    fitting = {}
    for name, tensor in tensors.items():
        path, _, leaf = name.rpartition(".")
        new = name not in own
        if new and path and not _has_module(method, path):
            if name.startswith("teacher"):
                continue
            raise CheckpointError(f"the checkpoint holds {name!r}, which the method {type(method).__name__} lacks")
        if new or (name in buffers and own[name].shape != tensor.shape):
            if hasattr(parent := method.get_submodule(path), leaf):
                delattr(parent, leaf)
            parent.register_buffer(leaf, tensor.clone())
        elif own[name].shape != tensor.shape:
            found, wanted = tuple(tensor.shape), tuple(own[name].shape)
            raise CheckpointError(f"{name!r} has shape {found} in the checkpoint, the method needs {wanted}")
        fitting[name] = tensor
    return fitting


def check_omitted(method: Method, omitted: Mapping[str, int], where: str) -> None:
    """Check that what a checkpoint left out is the same here.

    Args:
        method: the method that resumes.
        omitted: name and checksum of the tensors left out.
        where: the checkpoint file, for messages.

    Raises:
        CheckpointError: a tensor is missing or other.
    """
    own = method.state_dict()
    for name, expected in omitted.items():
        if name not in own or checksum(own[name]) != expected:
            raise CheckpointError(
                f"{where} was made with other frozen weights: {name!r} differs. "
                "Resume with the backbone and precision of the first run, or start a new run"
            )


def restore(method: Method, tensors: Mapping[str, Tensor], omitted: Mapping[str, int], where: str) -> None:
    """Bring a freshly built method to a saved state.

    Args:
        method: built with the same settings as the saved one; changed in place.
        tensors: what `select` said to save.
        omitted: what `select` left out.
        where: the checkpoint file, for messages.

    Raises:
        CheckpointError: the method, or the weights it was built from, are not those of the checkpoint.
    """
    fitting = fit_buffers(method, tensors)
    check_omitted(method, omitted, where)
    own = method.state_dict()
    if missing := sorted(own.keys() - fitting.keys() - omitted.keys()):
        raise CheckpointError(f"{where} lacks {len(missing)} tensors of the method, first {missing[0]!r}")
    method.load_state_dict(fitting, strict=False)


def _has_module(method: Method, path: str) -> bool:
    try:
        method.get_submodule(path)
    except AttributeError:
        return False
    return True
