"""Backbones by name: `nano`, `MODEL/TAG`, `hf-hub:ORG/NAME` and `MODEL@FILE`.

Every way ends the same: a model config, an activation that follows the weights, and one file of weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip import factory, pretrained
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.model import convert_to_custom_text_state_dict, convert_weights_to_lp
from torch import Tensor, nn

from hybridcascade.backbone.clip import ClipBackbone, check_tower
from hybridcascade.backbone.precision import PRECISIONS, resolve_precision
from hybridcascade.backbone.text import TextTower
from hybridcascade.backbone.weights import (
    SIDECAR,
    WeightFile,
    quick_gelu_of,
    read_model_json,
    read_sidecar,
    read_weights,
)
from hybridcascade.errors import BackboneError, UnknownNameError

__all__ = ["backbone_names", "load_backbone", "model_names", "nano_folder"]

_log = logging.getLogger(__name__)

_FORMS = "Write nano, MODEL/TAG (ViT-B-32/openai), hf-hub:ORG/NAME, or MODEL@FILE (.pt, .safetensors)."


@dataclass(frozen=True)
class _Source:
    """What a name resolves to: the architecture, where the weights are, how to tokenise."""

    config: dict[str, Any]
    weights: WeightFile | Path
    tokenizer_name: str
    preprocess: Mapping[str, Any] = field(default_factory=dict)


def load_backbone(name: str, precision: str = "auto", device: str = "cpu") -> ClipBackbone:
    """Load a frozen CLIP model.

    Args:
        name: `"nano"` (bundled); `"ViT-B-32/openai"` (a pretrained tag of open_clip, downloaded once);
            `"hf-hub:org/name"`; or `"ViT-B-32@path/file.pt"` for local weights: OpenAI's TorchScript
            archive, a state dict, or safetensors.
        precision: `"auto"` (bf16 where the hardware has it, else fp32), `"fp32"`, `"bf16"` or `"fp16"`.
        device: `"cpu"`, `"cuda"`, `"cuda:1"`, ...

    Raises:
        UnknownNameError: no such model, tag or precision; the message lists the valid ones.
        BackboneError: weights missing, damaged, of another model, or of an activation that cannot be told.

    Note:
        The activation follows the weights: a tag's own record in open_clip, whatever the model's name says;
        for files see `backbone.weights.quick_gelu_of`.
    """
    precision = resolve_precision(precision, device)
    source = _resolve(name)
    model = _build(source.config, precision, name)
    _fill(model, source, name)
    weights_hash = _hash_state(model.state_dict())
    dtype = PRECISIONS[precision]
    if dtype != torch.float32:
        convert_weights_to_lp(model, dtype=dtype)
    visual = model.visual
    del model.visual  # the text tower must not keep the vision tower alive, nor move it
    preprocess = source.preprocess
    backbone = ClipBackbone(
        visual,
        name=name,
        vision_cfg=source.config["vision_cfg"],
        quick_gelu=bool(source.config.get("quick_gelu", False)),
        precision=precision,
        logit_scale=math.exp(float(model.logit_scale.detach().reshape(-1)[0])),
        weights_hash=weights_hash,
        mean=preprocess.get("mean") or OPENAI_DATASET_MEAN,
        std=preprocess.get("std") or OPENAI_DATASET_STD,
        interpolation=preprocess.get("interpolation") or "bicubic",
        resize_mode=preprocess.get("resize_mode") or "shortest",
        pixel_mean=preprocess.get("pixel_mean"),
        pixel_std=preprocess.get("pixel_std"),
        text=TextTower(model, _tokenizer(source.config["text_cfg"], source.tokenizer_name)),
    )
    _log.info("loaded backbone %s in %s, weights %s", name, precision, weights_hash[:12])
    return backbone.to(device)


def nano_folder() -> Path:
    """Folder of the bundled nano model: `nano.json` (config) and `nano.safetensors` (weights)."""
    return Path(str(resources.files("hybridcascade.sandbox"))) / "nano"


def model_names() -> tuple[str, ...]:
    """Architectures whose vision tower works here, as written before `/` or `@`."""
    return tuple(name for name in open_clip.list_models() if _usable(factory.get_model_config(name)))


def backbone_names() -> tuple[str, ...]:
    """`nano` and every `MODEL/TAG` that works here."""
    usable = set(model_names())
    return ("nano", *(f"{model}/{tag}" for model, tag in open_clip.list_pretrained() if model in usable))


def _usable(config: Mapping[str, Any] | None) -> bool:
    if config is None or "multimodal_cfg" in config:
        return False
    vision = config["vision_cfg"]
    plain = not vision.get("timm_model_name") and not vision.get("attentional_pool")
    return plain and isinstance(vision.get("layers", 12), int)


def _resolve(name: str) -> _Source:
    if name == "nano":
        return _resolve_nano()
    if name.startswith(factory.HF_HUB_PREFIX):
        return _resolve_hub(name)
    if "@" in name:
        return _resolve_file(*name.split("@", 1))
    return _resolve_tag(name)


def _resolve_nano() -> _Source:
    folder = nano_folder()
    found = read_model_json(folder / "nano.json")
    weights = read_weights(folder / "nano.safetensors")
    return _Source(found["model_cfg"], weights, "", found.get("preprocess_cfg", {}) | _card_pixels(folder))


def _card_pixels(folder: Path) -> dict[str, Any]:
    """Colour moments of the training pictures, from the card beside the weights; none without a card."""
    card = folder / "nano_card.json"
    if not card.is_file():
        return {}
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"cannot read the card {card}: {error}") from error
    return {key: found.get(key) for key in ("pixel_mean", "pixel_std")}


def _resolve_hub(name: str) -> _Source:
    repository = name.removeprefix(factory.HF_HUB_PREFIX)
    try:
        found = factory._get_hf_config(repository)
        path = Path(pretrained.download_pretrained_from_hf(repository))
    except (OSError, RuntimeError, ValueError) as error:
        raise BackboneError(f"cannot get {name!r}: {_first_line(error)}. {_OFFLINE}") from error
    return _Source(found.get("model_cfg", found), path, name, found.get("preprocess_cfg", {}))


def _resolve_tag(name: str) -> _Source:
    model, _, tag = name.rpartition("/")
    model = model.replace("/", "-")  # ViT-B/32 is an old spelling of ViT-B-32
    whole = name.replace("/", "-")
    if not model or model not in model_names():
        known = whole if whole in model_names() else model
        if known not in model_names():
            raise UnknownNameError("backbone", name, ("nano", *model_names()), _FORMS)
        raise UnknownNameError("backbone", name, [f"{known}/{t}" for t in _tags(known)], f"A tag is missing. {_FORMS}")
    record = pretrained.get_pretrained_cfg(model, tag)
    if not record:
        raise UnknownNameError("pretrained tag", name, [f"{model}/{known}" for known in _tags(model)], _FORMS)
    try:
        path = Path(pretrained.download_pretrained(record))
    except (OSError, RuntimeError, ValueError) as error:
        raise BackboneError(f"cannot download the weights of {name!r}: {_first_line(error)}. {_OFFLINE}") from error
    config = factory.get_model_config(model)
    # open_clip itself only warns when model and tag disagree; the record of the tag is what was trained.
    config["quick_gelu"] = bool(record.get("quick_gelu")) or bool(config.get("quick_gelu"))
    return _Source(config, path, model, record)


def _resolve_file(model: str, file: str) -> _Source:
    model = model.replace("/", "-")
    if model not in ("nano", *model_names()):
        raise UnknownNameError("backbone model", model, ("nano", *model_names()), _FORMS)
    weights = read_weights(Path(file).expanduser())
    sidecar = read_sidecar(weights.path)
    nano = model == "nano"
    config = read_model_json(nano_folder() / "nano.json")["model_cfg"] if nano else factory.get_model_config(model)
    named = bool(config.get("quick_gelu", False))
    stated = None
    if sidecar is not None:
        stated = bool(sidecar["model_cfg"].get("quick_gelu", False))
        config = _same_tower(config, sidecar["model_cfg"], model, weights.path)
    config["quick_gelu"] = quick_gelu_of(weights, model, named, stated)
    return _Source(config, weights, model, (sidecar or {}).get("preprocess_cfg", {}))


def _same_tower(named: Mapping[str, Any], stated: dict[str, Any], model: str, path: Path) -> dict[str, Any]:
    """Return the sidecar's config, if its vision tower is the one that was named."""
    for key in ("layers", "width", "patch_size"):
        if stated["vision_cfg"].get(key) != named["vision_cfg"].get(key):
            raise BackboneError(
                f"{path.parent / SIDECAR} describes a tower of {key} {stated['vision_cfg'].get(key)}, "
                f"but {model} has {named['vision_cfg'].get(key)}; correct the name or the file"
            )
    return stated


_OFFLINE = "Without network, load a local file: MODEL@FILE."


def _tags(model: str) -> list[str]:
    return list(open_clip.list_pretrained_tags_by_model(model))


def _build(config: Mapping[str, Any], precision: str, name: str) -> Any:
    """Build the empty model in fp32, with the LayerNorm kind that the precision needs."""
    plain = deepcopy(dict(config))
    if not _usable(plain):
        raise BackboneError(f"{name!r} has no plain vision transformer; choose one of {', '.join(model_names())}")
    custom = plain.pop("custom_text", False) or "hf_model_name" in plain["text_cfg"]
    if "hf_model_name" in plain["text_cfg"]:
        plain["text_cfg"]["hf_model_pretrained"] = False  # the CLIP weights bring the text tower's
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    dtype = PRECISIONS[precision]
    try:
        with torch.random.fork_rng(devices=[]):  # arbitrary first weights must not move the caller's randomness
            model = kind(**plain, cast_dtype=None if dtype == torch.float32 else dtype)
    except (TypeError, ImportError) as error:
        raise BackboneError(f"cannot build the model of {name!r}: {error}") from error
    check_tower(model.visual, name)
    return model.eval().requires_grad_(False)


def _fill(model: nn.Module, source: _Source, name: str) -> None:
    weights = source.weights
    try:
        if isinstance(weights, Path) and weights.suffix in (".npz", ".npy"):
            open_clip.load_checkpoint(model, str(weights))
            return
        found = read_weights(weights) if isinstance(weights, Path) else weights
        state = dict(found.state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        for key in ("logit_scale", "logit_bias"):
            own = getattr(model, key, None)
            if key in state and isinstance(own, Tensor):
                state[key] = state[key].reshape(own.shape)
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, BackboneError):
            raise
        path = weights if isinstance(weights, Path) else weights.path
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        detail = " ".join(lines[:2])[:400]
        raise BackboneError(f"the weights in {path} do not fit {name!r}: {detail}") from error


def _tokenizer(text_cfg: Mapping[str, Any], name: str) -> Any:
    if text_cfg.get("hf_tokenizer_name"):
        return open_clip.get_tokenizer(name or text_cfg["hf_tokenizer_name"])
    context = text_cfg.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH)
    return open_clip.SimpleTokenizer(context_length=context, **text_cfg.get("tokenizer_kwargs", {}))


def _hash_state(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and fp32 values, so the precision of the load does not matter."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().float().contiguous().cpu()
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
