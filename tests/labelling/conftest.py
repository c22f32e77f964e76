"""A toy world: clusters on the sphere, texts that miss their clusters, pictures and texts that lie apart."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional

SCENES = {
    "balanced": [60] * 8,
    "two of eight": [240, 240, 0, 0, 0, 0, 0, 0],
    "ten to one": [150, 108, 78, 56, 40, 29, 21, 15],
}


@dataclass(frozen=True)
class Toy:
    """Unit features `[N, E]`, unit texts `[K, E]`, zero-shot logits `[N, K]`, true classes `[N]`."""

    features: Tensor
    texts: Tensor
    logits: Tensor
    truth: Tensor
    scale: float = 20.0

    def accuracy(self, labels, weights=None):
        """Share of right first maxima in percent, among the pictures with a weight."""
        used = torch.ones(len(labels), dtype=torch.bool) if weights is None else weights > 0
        return 100 * (labels.argmax(dim=1) == self.truth)[used].double().mean().item()


def make_toy(counts, seed, dims=32, text_error=0.6, gap=1.0):
    draw = torch.Generator().manual_seed(seed)

    def noise(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64) / dims**0.5

    def unit(x):
        return functional.normalize(x, dim=1)

    centres = unit(noise(len(counts), dims))
    texts = unit(centres + text_error * noise(len(counts), dims) + gap * unit(noise(1, dims)))
    truth = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    truth = truth[torch.randperm(len(truth), generator=draw)]
    features = unit(centres[truth] + noise(len(truth), dims) + gap * unit(noise(1, dims)))
    return Toy(features.float(), texts.float(), (Toy.scale * features @ texts.T).float(), truth)


@pytest.fixture
def toy():
    return make_toy


@pytest.fixture(params=list(SCENES))
def scene(request):
    """Name and five draws of a scene."""
    return request.param, [make_toy(SCENES[request.param], seed) for seed in range(5)]


@pytest.fixture
def small():
    """A few pictures, for the naive loops."""
    return make_toy([7, 5, 3, 0], 0, dims=6)
