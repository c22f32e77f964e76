"""What the benchmarks run on: models, pictures and texts made here, without any download."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.floor import Geometry
from benchmarks.reference import PlainTower
from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.loading import load_backbone, nano_folder

__all__ = ["MODELS", "Models", "class_pictures", "distort", "geometry", "plain_tower", "prepare"]

MODELS = ("ViT-B-32", "nano", "tiny")
"""`tiny` is for tests of the benchmarks themselves; its figures mean nothing."""

_TINY: dict[str, Any] = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 12, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


@dataclass(frozen=True)
class Models:
    """A model twice: as the library runs it, and in fp32 for the reference.

    Attributes:
        name: one of `MODELS`.
        ours: in the library's own choice of precision for this machine.
        exact: the same weights in fp32.
        trained: whether the weights are trained (the bundled nano) or random.
    """

    name: str
    ours: ClipBackbone
    exact: ClipBackbone
    trained: bool


def prepare(name: str, folder: Path, precision: str = "auto", seed: int = 0) -> Models:
    """Make a model and load it as a user would, through `load_backbone`.

    Args:
        name: one of `MODELS`; `nano` has its bundled weights, the others random ones. Activation of
            ViT-B-32: QuickGELU, as in OpenAI's weights.
        folder: where the file of random weights is written.
        precision: of `ours`.
        seed: of the random weights.
    """
    trained = name == "nano" and (nano_folder() / "nano.safetensors").is_file()
    where = "nano" if trained else _random_weights(f"random-{name}", _config(name), folder, seed)
    return Models(name, load_backbone(where, precision), load_backbone(where, "fp32"), trained)


def _config(name: str) -> dict[str, Any]:
    if name == "tiny":
        return _TINY
    if name == "nano":
        found: dict[str, Any] = json.loads((nano_folder() / "nano.json").read_text(encoding="utf-8"))
        nano: dict[str, Any] = found.get("model_cfg", found)
        return nano
    config: dict[str, Any] = open_clip.get_model_config(f"{name}-quickgelu")
    config["text_cfg"] |= {"width": 64, "heads": 1, "layers": 1}  # the text tower is not measured
    return config


def _random_weights(name: str, config: dict[str, Any], folder: Path, seed: int) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**copy.deepcopy(config))
    file = folder / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    config_file = folder / f"{name}.json"
    config_file.write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(config_file)
    return f"{name}@{file}"


def geometry(backbone: ClipBackbone) -> Geometry:
    """Sizes of a backbone's vision tower."""
    shapes = {name: value.shape for name, value in backbone.visual.state_dict().items()}
    return Geometry(
        depth=backbone.depth,
        width=backbone.width,
        embed_dim=backbone.embed_dim,
        patch=shapes["conv1.weight"][-1],
        patches=backbone.patch_grid[0] * backbone.patch_grid[1],
        mlp=shapes["transformer.resblocks.0.mlp.c_fc.weight"][0],
    )


def plain_tower(exact: ClipBackbone) -> PlainTower:
    """The reference's tower with the weights of an fp32 backbone."""
    return PlainTower(exact.visual.state_dict(), exact.heads, exact.quick_gelu)


def class_pictures(classes: int, size: int, seed: int = 0) -> Tensor:
    """Draw one smooth random picture a class, in the range of normalised pictures, `[K, 3, size, size]`.

    Args:
        classes: K.
        size: height and width in pixels.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(classes, 3, 6, 6, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)


def distort(pictures: Tensor, strength: float, seed: int) -> Tensor:
    """Mix each picture with a smooth picture and noise of its own.

    Args:
        pictures: `[B, 3, H, W]`.
        strength: share of what is mixed in, 0 to 1.
        seed: of the draw.
    """
    smooth = class_pictures(len(pictures), pictures.shape[-1], seed)
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(seed + 1))
    return (1 - strength) * pictures + strength * (smooth + 0.5 * noise)
