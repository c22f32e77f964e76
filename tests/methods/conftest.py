"""A tiny random CLIP and random pictures and texts: every method runs on them in a moment."""

import pytest
import torch
from torch.nn import functional

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
