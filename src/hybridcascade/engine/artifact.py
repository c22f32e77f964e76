"""The finished model on disk: `model.safetensors` and `model.json`, with a checksum between them.

No pickle. The JSON holds the description that rebuilds the empty model and the SHA-256 of the tensor
file. Two files cannot be renamed at once, so a save goes: (1) JSON with the new description and, as
`previous`, the old one; (2) the tensor file, the moment from which the new model counts; (3) JSON
without `previous`. Whoever reads at any moment, or after a kill at any moment, finds a description
whose checksum fits the tensors.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from hybridcascade.engine.atomic import write_bytes, write_json
from hybridcascade.errors import CheckpointError

__all__ = ["load_model", "save_model"]

_TENSORS, _JSON = "model.safetensors", "model.json"
_FORMAT = 1
_READ_TRIES, _READ_WAIT = 20, 0.05  # a reader that meets a writer between two renames looks again, seconds


def save_model(folder: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Save a model, whole or not at all.

    Args:
        folder: the `model` folder; made when missing, an older model in it is replaced.
        tensors: what the model needs to predict, by name.
        description: plain JSON values that rebuild the empty model (settings, classes, preprocessing).

    Raises:
        TypeError: the description holds something JSON has no word for; nothing was written.
        OSError: the disk is full or cannot be written; the older model is still whole.
    """
    folder = Path(folder)
    data = safetensors.torch.save(_standalone(tensors))
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "description": dict(description)}
    json.dumps(entry)  # refuse before anything is written
    new = {"package": "hybridcascade", "format": _FORMAT, **entry}
    folder.mkdir(parents=True, exist_ok=True)
    previous = _previous(folder)
    write_json(folder / _JSON, {**new, "previous": previous} if previous else new)
    write_bytes(folder / _TENSORS, data)
    if previous:
        write_json(folder / _JSON, new)


def load_model(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load what `save_model` saved, checked.

    Args:
        folder: the `model` folder.

    Returns:
        The tensors by name, on the CPU, and the description.

    Raises:
        CheckpointError: a file is missing, damaged, of another kind or of a later format.
    """
    folder = Path(folder)
    for attempt in range(_READ_TRIES):
        entry = _read_json(folder / _JSON)
        data = _read_tensors(folder / _TENSORS)
        digest = hashlib.sha256(data).hexdigest()
        for candidate in (entry, entry.get("previous") or {}):
            if candidate.get("sha256") == digest:
                return _parse(folder / _TENSORS, data), dict(candidate["description"])
        if attempt < _READ_TRIES - 1 and _read_json(folder / _JSON) == entry:
            time.sleep(_READ_WAIT)
    raise CheckpointError(
        f"{folder / _TENSORS} is damaged or belongs to another {_JSON}: expected SHA-256 {entry['sha256'][:12]}..., "
        f"found {digest[:12]}.... Copy the folder again, or make the model again (train with --resume does it "
        "from the checkpoints)"
    )


def _standalone(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        if own.numel() and own.untyped_storage().data_ptr() in seen:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        result[name] = own
    return result


def _previous(folder: Path) -> dict[str, Any] | None:
    """The entry that fits the tensors on disk, or None without a whole model there."""
    try:
        entry = _read_json(folder / _JSON)
        digest = hashlib.sha256(_read_tensors(folder / _TENSORS)).hexdigest()
    except CheckpointError:
        return None
    for candidate in (entry, entry.get("previous") or {}):
        if candidate.get("sha256") == digest:
            return {"sha256": digest, "description": candidate["description"]}
    return None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"no model here: {path} does not exist. Was the training finished?") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged (not JSON): {error}. Copy the folder again") from error
    if not isinstance(entry, dict) or entry.get("package") != "hybridcascade" or "sha256" not in entry:
        raise CheckpointError(f"{path} is no model description of this package")
    if entry.get("format") != _FORMAT:
        found = entry.get("format")
        raise CheckpointError(f"{path} has format {found}, this version reads {_FORMAT}: use a later hybridcascade")
    return entry


def _read_tensors(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the tensors of the model, {path}: {error}") from error


def _parse(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load(data))
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error
