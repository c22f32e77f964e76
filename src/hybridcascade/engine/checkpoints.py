"""Checkpoint files: Lightning's content, written whole or not at all, read without pickled code."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from hybridcascade.engine.atomic import write_bytes
from hybridcascade.errors import CheckpointError, SettingsError

__all__ = ["KEY", "MODULE_PREFIX", "AtomicCheckpointIO", "check_identity", "read_checkpoint"]

KEY = "hybridcascade"
"""Our entry in a checkpoint: phase, epochs done, identity of the run, checksums of what was left out."""

MODULE_PREFIX = "method."
"""Where the method's tensors are in the checkpoint's `state_dict`."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's file access, made atomic (beside, fsync, rename), checked, and free of pickled code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; the older one stays until the new one is whole.

        Args:
            checkpoint: what Lightning collected.
            path: the file.
            storage_options: not used; there for Lightning.

        Raises:
            OSError: the disk is full or cannot be written; the older checkpoint is unchanged.
        """
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_bytes(Path(path), buffer.getvalue())

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, tensors and plain values only.

        Args:
            path: the file.
            map_location: ignored: tensors come to the CPU and are copied from there.
            weights_only: ignored: always True.

        Raises:
            CheckpointError: the file is missing, damaged or not ours.
        """
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read and check one checkpoint file.

    The file is a zip archive: the CRC-32 of every record is compared, so a flipped bit in a tensor is
    found too. Unpickling is limited to tensors and plain values (`weights_only=True`).

    Args:
        path: the file.

    Raises:
        CheckpointError: the file is missing, damaged or not ours; the message says what to do.
    """
    remedy = f"Delete {path} to repeat this phase from its start with --resume, or start a new run with --overwrite"
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise CheckpointError(f"the checkpoint {path} is damaged (record {bad!r}). {remedy}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"the checkpoint {path} does not exist") from error
    except (OSError, EOFError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"the checkpoint {path} is damaged: {error}. {remedy}") from error
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise CheckpointError(f"{path} is not a checkpoint of this package. {remedy}")
    return checkpoint


def check_identity(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Compare the settings of a checkpoint with those of the run that resumes it.

    Args:
        saved: settings in the checkpoint, by name.
        own: settings of this run.

    Raises:
        SettingsError: they differ; all differences are listed.
    """
    keys = sorted(k for k in saved.keys() | own.keys() if saved.get(k) != own.get(k))
    if keys:
        found = "; ".join(f"{k} was {saved.get(k)!r}, is now {own.get(k)!r}" for k in keys)
        raise SettingsError(
            f"a resume continues the run as it was begun, but the settings differ: {found}. "
            "Resume without the change, or start a new run (another --out, or --overwrite)"
        )
