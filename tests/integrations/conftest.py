"""A configuration node without yacs, and a tiny tower to build methods on."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.compose import build_method
from hybridcascade.data.texts import LabeledText
from hybridcascade.encoded import EncodedTexts
from hybridcascade.integrations.keys import extend_cfg, read_method


class Node(dict):
    """What our code needs of a yacs CfgNode: a mapping with attributes."""

    def __getattr__(self, name):
        return self[name]

    def __setattr__(self, name, value):
        self[name] = value


@pytest.fixture
def cfg() -> Node:
    made = Node(OPTIM=Node(LR=5e-4))
    extend_cfg(made)
    return made


@pytest.fixture
def build(cfg):
    """Build the method that a trainer would build by `cfg`, on a random tower of 12 blocks."""

    def build_one(trainer: str):
        torch.manual_seed(0)
        backbone = ClipBackbone.from_description(
            {
                "format": 1, "name": "tiny", "embed_dim": 24,
                "vision_cfg": {"layers": 12, "width": 32, "head_width": 16, "patch_size": 4, "image_size": 16},
                "quick_gelu": True, "precision": "fp32", "logit_scale": 20.0, "mean": [0.5] * 3, "std": [0.5] * 3,
                "interpolation": "bicubic", "resize_mode": "shortest", "weights_hash": "0" * 64, "tokenizer": "none",
            }
        )  # fmt: skip
        features = functional.normalize(torch.randn(3, 24), dim=-1)
        texts = EncodedTexts(tuple(LabeledText(f"text {row}", row) for row in range(3)), features)
        choice = read_method(trainer, cfg, 12)
        return build_method(choice.method, backbone, texts, 3, 0, choice.settings)

    return build_one
