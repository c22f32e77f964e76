"""A tiny random CLIP and random pictures and texts: every method runs on them in a moment."""

import pytest
import torch
from torch.nn import functional

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.types import ImageBatch, TargetBatch, TextBatch, UnlabeledBatch

CLASSES = 4
PICTURES = 12


class World:
    """Pictures in two views, targets and texts, in the shapes that methods get."""

    def __init__(self, embed_dim, size, seed=0):
        draw = torch.Generator().manual_seed(seed)
        self.plain = torch.randn(PICTURES, 3, size, size, generator=draw)
        self.strong = self.plain + 0.3 * torch.randn(self.plain.shape, generator=draw)
        self.targets = torch.randn(PICTURES, CLASSES, generator=draw).softmax(dim=1)
        labels = torch.arange(CLASSES).repeat_interleave(3)
        features = torch.randn(CLASSES, embed_dim, generator=draw)[labels]
        features = features + 0.5 * torch.randn(features.shape, generator=draw)
        self.texts = TextBatch(functional.normalize(features, dim=-1), labels)

    def ids(self, rows):
        return tuple(f"{row}.png" for row in rows)

    def unlabeled(self, rows):
        index = torch.tensor(rows)
        return UnlabeledBatch(index, self.ids(rows), self.plain[index], self.strong[index])

    def with_targets(self, rows):
        index = torch.tensor(rows)
        return TargetBatch(index, self.ids(rows), self.plain[index], self.strong[index], self.targets[index])

    def plain_batches(self, size=5, order=None):
        rows = list(range(PICTURES)) if order is None else order
        return [
            ImageBatch(torch.tensor(part), self.ids(part), self.plain[torch.tensor(part)])
            for part in (rows[start : start + size] for start in range(0, len(rows), size))
        ]

    def arguments(self):
        return {
            "text_features": self.texts.features,
            "text_labels": self.texts.labels,
            "class_count": CLASSES,
            "seed": 3,
        }


def tiny_backbone(depth, seed, precision="fp32"):
    """A random tower of 16 patches and 2 heads, with LayerNorms that are not the identity."""
    description = {
        "format": 1,
        "name": "tiny",
        "embed_dim": 24,
        "vision_cfg": {"layers": depth, "width": 32, "head_width": 16, "patch_size": 4, "image_size": 16},
        "quick_gelu": True,
        "precision": precision,
        "logit_scale": 20.0,
        "weights_hash": "0" * 64,
        "tokenizer": "none",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    backbone = ClipBackbone.from_description(description)
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in backbone.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw).to(parameter.dtype)
        start = 1.0 if name.endswith("weight") and parameter.dim() == 1 else 0.0
        spread = 0.2 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
        parameter.data.copy_(start + spread * noise)
    return backbone


@pytest.fixture
def backbone():
    return tiny_backbone(depth=3, seed=0)


@pytest.fixture
def world(backbone):
    return World(backbone.embed_dim, backbone.image_size)


@pytest.fixture
def make_deep_backbone():
    return lambda seed=0, precision="fp32": tiny_backbone(12, seed, precision)


@pytest.fixture
def deep_backbone(make_deep_backbone):
    return make_deep_backbone()


@pytest.fixture
def deep_world(deep_backbone):
    return World(deep_backbone.embed_dim, deep_backbone.image_size)
