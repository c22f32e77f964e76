"""Weights from a local file: what kind of file it is, its tensors, and which activation they want.

Three kinds are read: OpenAI's TorchScript archives, pickled state dicts (plain, or as open_clip's trainer
saves them: under `state_dict`, names with `module.`), and safetensors. Pickles are read with
`weights_only=True`: nothing in them is executed. A TorchScript archive holds no Python pickle of
arbitrary objects; its tensors are read through `torch.jit.load` and its code is never called.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hybridcascade.errors import BackboneError

__all__ = ["SIDECAR", "WeightFile", "quick_gelu_of", "read_model_json", "read_sidecar", "read_weights"]

SIDECAR = "open_clip_config.json"
"""open_clip's config file beside the weights; its `model_cfg` says what no weight can show."""

_MARKS = ("input_resolution", "context_length", "vocab_size")
_DERIVED = ("attn_mask", "text.attn_mask", "text.transformer.embeddings.position_ids")
_DAMAGE = (
    RuntimeError,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    SafetensorError,
)


@dataclass(frozen=True)
class WeightFile:
    """Tensors of a file, with what the file itself tells of the activation.

    Attributes:
        path: the file.
        state: tensors by open_clip's names, without OpenAI's three number entries.
        archive_quick_gelu: for a TorchScript archive, whether it uses QuickGELU; None for other files.
        openai_marks: whether a file without code looks like OpenAI's weights, which want QuickGELU.
    """

    path: Path
    state: dict[str, Tensor]
    archive_quick_gelu: bool | None
    openai_marks: bool


def read_weights(path: Path) -> WeightFile:
    """Read a weight file of any of the three kinds.

    Raises:
        BackboneError: no such file, a damaged file, a pickle with more than tensors, or no CLIP weights in it.
    """
    if not path.is_file():
        raise BackboneError(f"no weights file at {path}")
    try:
        archive = _is_torchscript(path)
        raw = _read(path, archive)
    except _DAMAGE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackboneError(
            f"cannot read weights from {path}: {reason}. Expected a TorchScript archive, a state dict (.pt) or "
            ".safetensors; the file is damaged, incomplete or of another kind."
        ) from error
    state = _unwrap(raw, path)
    openai = all(mark in state for mark in _MARKS) or _half_as_openai(state)
    state = {key: value for key, value in state.items() if key not in (*_MARKS, *_DERIVED)}
    return WeightFile(path, state, _archive_activation(path) if archive else None, openai)


def read_sidecar(path: Path) -> dict[str, Any] | None:
    """Read `open_clip_config.json` beside a weight file; None when there is none.

    Returns:
        Dictionary with `model_cfg` and, if given, `preprocess_cfg`.

    Raises:
        BackboneError: the file is not JSON, or has no `model_cfg`.
    """
    sidecar = path.parent / SIDECAR
    return read_model_json(sidecar) if sidecar.is_file() else None


def read_model_json(path: Path) -> dict[str, Any]:
    """Read an open_clip model config: the bare config, or one under `model_cfg` beside `preprocess_cfg`.

    Raises:
        BackboneError: the file cannot be read, is not JSON, or is no model config.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"cannot read the model config {path}: {error}") from error
    config = found if isinstance(found, dict) and "model_cfg" in found else {"model_cfg": found}
    model = config["model_cfg"]
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
        raise BackboneError(f"{path} is no open_clip model config: it needs embed_dim, vision_cfg and text_cfg")
    return config


def quick_gelu_of(weights: WeightFile, model: str, named: bool, sidecar: bool | None) -> bool:
    """Decide the activation: it follows the weights, or the load stops and says what to write.

    The same tensors load without complaint under GELU and QuickGELU and give silently wrong numbers under
    the wrong one (open_clip issues 771 and 915).

    Args:
        weights: the file.
        model: the model as it was named, for the message.
        named: whether the named model's config has QuickGELU.
        sidecar: the activation that `open_clip_config.json` states, or None without one.

    Raises:
        BackboneError: the activation cannot be told, or two sources contradict each other.
    """
    if weights.archive_quick_gelu is not None:
        if named and not weights.archive_quick_gelu:
            raise BackboneError(f"{weights.path} computes GELU, but {model!r} asks for QuickGELU")
        return weights.archive_quick_gelu
    if sidecar is not None:
        if named and not sidecar:
            raise BackboneError(
                f"{weights.path.parent / SIDECAR} says GELU, but {model!r} asks for QuickGELU; correct one of them"
            )
        return sidecar
    if weights.openai_marks and not named:
        raise BackboneError(
            f"{weights.path} looks like OpenAI's weights, which need QuickGELU; as {model!r} they would run under GELU "
            f"and give wrong numbers. Write {model}-quickgelu@{weights.path}, or, if they were trained with GELU, put "
            f'{SIDECAR} with "quick_gelu": false in its model_cfg beside them.'
        )
    return named


def _is_torchscript(path: Path) -> bool:
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _read(path: Path, archive: bool) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if archive:
        return dict(torch.jit.load(str(path), map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
    return torch.load(path, map_location="cpu", weights_only=True)


def _archive_activation(path: Path) -> bool:
    """Read the activation from the archive's own code; without a clear sign it is OpenAI's, QuickGELU."""
    with zipfile.ZipFile(path) as archive:
        code = "".join(
            archive.read(name).decode("utf-8", "replace") for name in archive.namelist() if name.endswith(".py")
        )
    return "sigmoid" in code or "gelu(" not in code


def _unwrap(raw: Any, path: Path) -> dict[str, Tensor]:
    state = raw.get("state_dict", raw) if isinstance(raw, dict) else raw
    if not isinstance(state, dict):
        raise BackboneError(f"{path} holds {type(raw).__name__}, expected a dictionary of tensors")
    for prefix in ("module.", "_orig_mod."):
        if state and all(str(key).startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    # OpenAI's three marks are tensors in archives and numbers in some converted files.
    state = {str(k): torch.tensor(v) if isinstance(v, int | float) else v for k, v in state.items()}
    if "visual.conv1.weight" not in state or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(
            f"{path} holds no CLIP vision transformer in open_clip's names: 'visual.conv1.weight' is missing"
        )
    return state


def _half_as_openai(state: dict[str, Tensor]) -> bool:
    """OpenAI's storage: matrices in fp16, LayerNorms and embeddings in fp32."""
    norm = state.get("visual.ln_post.weight")
    half = state["visual.conv1.weight"].dtype == torch.float16
    return half and norm is not None and norm.dtype == torch.float32
