"""A tiny CLIP (12 blocks, width 64, 32 pixels) registered with open_clip, and weight files made from it."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.loading import load_backbone

TINY = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 12, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
# Heads of width 64 in both towers, as OpenAI's models have: open_clip's own loader derives the heads so.
OPENAI_HEADS = {
    **TINY,
    "vision_cfg": {**TINY["vision_cfg"], "head_width": 64},
    "text_cfg": {**TINY["text_cfg"], "width": 64, "heads": 1},
}


@pytest.fixture(scope="session")
def tiny_configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("configs")
    configs = {
        "ViT-tiny": TINY,
        "ViT-tiny-quickgelu": {**TINY, "quick_gelu": True},
        "ViT-tiny-heads64": OPENAI_HEADS,
    }
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
    return configs


def make_model(quick_gelu: bool = False, seed: int = 0, config: dict = TINY) -> open_clip.CLIP:
    torch.manual_seed(seed)
    model = open_clip.CLIP(**copy.deepcopy(config), quick_gelu=quick_gelu).eval()
    with torch.no_grad():  # the initial LayerNorms and biases are 1 and 0: too kind to show a mix-up
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def new_model(tiny_configs: dict[str, dict]) -> Callable[..., open_clip.CLIP]:
    return make_model


@pytest.fixture(scope="session")
def tiny_file(tiny_configs: dict[str, dict], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file({k: v.contiguous() for k, v in make_model().state_dict().items()}, path)
    return path


@pytest.fixture(scope="session")
def load_tiny(tiny_file: Path) -> Callable[..., ClipBackbone]:
    def load(precision: str = "fp32", model: str = "ViT-tiny") -> ClipBackbone:
        return load_backbone(f"{model}@{tiny_file}", precision=precision)

    return load


@pytest.fixture
def tiny(load_tiny: Callable[..., ClipBackbone]) -> ClipBackbone:
    return load_tiny()


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
