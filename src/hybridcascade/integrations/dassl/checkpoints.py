"""Dassl's checkpoint files, with what changed and nothing else, read without unpickling anything foreign."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from hybridcascade.errors import CheckpointError

__all__ = ["checkpoint_file", "read_checkpoint"]


def checkpoint_file(directory: str, name: str, epoch: int | None = None) -> Path | None:
    """Return the file of a registered model below an output folder.

    Args:
        directory: Dassl's `OUTPUT_DIR`.
        name: under which the model is registered.
        epoch: epochs done, or None for the last checkpoint written (there is no best one: nothing is chosen).

    Returns:
        The file, or None when no checkpoint was written there yet.

    Raises:
        CheckpointError: the folder has no checkpoint of that epoch.
    """
    folder = Path(directory) / name
    if epoch is None:
        note = folder / "checkpoint"  # where Dassl writes the name of its last file
        if not note.is_file():
            return None
        return folder / note.read_text(encoding="utf-8").strip()
    file = folder / f"model.pth.tar-{epoch}"
    if not file.is_file():
        present = sorted(found.name for found in folder.glob("model*.pth.tar*")) if folder.is_dir() else []
        raise CheckpointError(f"no checkpoint of epoch {epoch} at {file}; there is {', '.join(present) or 'none'}")
    return file


def read_checkpoint(file: Path, method: str, classes: tuple[str, ...]) -> dict[str, Any]:
    """Read a checkpoint of ours; only tensors and plain values are accepted.

    Args:
        file: as `checkpoint_file` gives it.
        method: registry key that it must be of.
        classes: class names that it must be of.

    Raises:
        CheckpointError: missing, damaged, of another trainer, method or class list.
    """
    try:
        saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file} cannot be read, or holds more than tensors and plain values: {reason}"
        ) from error
    if not isinstance(saved, dict) or "omitted" not in saved:
        raise CheckpointError(f"{file} is no checkpoint of a hybridcascade trainer")
    found = (saved.get("method"), tuple(saved.get("classes") or ()))
    if found != (method, classes):
        raise CheckpointError(f"{file} is of method {found[0]!r} and classes {list(found[1])}, not of this trainer's")
    return saved
