"""The floor: FLOPs that our algorithm cannot do without, at the matmul rate that the machine reaches.

Only matrix products count (a multiplication and an addition are 2 FLOPs); everything else (LayerNorm,
softmax, activation, copies) is taken as free, and the rate is the best of several shapes, the model's
own among them. So the floor is lower than any program can reach, and `floor_share` = floor / time is
never flattered. Two savings are the algorithm's and lower the floor, whether the program uses them or not:

- frozen matrices need no gradient of their own: the backward pass of a linear layer is one product;
- of the last block only the CLS token is used: its keys and values need all tokens, the rest one.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch.nn import functional as F

__all__ = ["Geometry", "encode_flops", "matmul_rate", "train_step_flops"]


@dataclass(frozen=True)
class Geometry:
    """Sizes of a vision tower.

    Attributes:
        depth: blocks.
        width: D.
        embed_dim: E.
        patch: side of a patch in pixels.
        patches: P, number of patches of a picture.
        mlp: hidden width of the MLP.
    """

    depth: int
    width: int
    embed_dim: int
    patch: int
    patches: int
    mlp: int


def encode_flops(g: Geometry, pictures: int, prompts: int = 0, only_cls_last: bool = True) -> int:
    """FLOPs of one forward pass.

    Args:
        g: sizes of the tower.
        pictures: B.
        prompts: M, prompt tokens that enter before the first block.
        only_cls_last: count the last block's queries, output and MLP for CLS alone. False counts what a
            program does that runs all blocks alike (open_clip).
    """
    stem = 2 * g.patches * 3 * g.patch**2 * g.width
    return pictures * (stem + sum(_blocks(g, prompts, only_cls_last)) + 2 * g.width * g.embed_dim)


def train_step_flops(g: Geometry, pictures: int, prompts: int, live_teacher: bool, only_cls_last: bool = True) -> int:
    """FLOPs of one training step: student forward and backward, and a live teacher's forward.

    The backward pass of a product with a frozen matrix is one product; that of attention, where both
    sides have gradients, two for each. Heads, stage alignments and the optimiser are left out: they are
    below a thousandth of a step on ViT-B-32.

    Args:
        g: sizes of the tower.
        pictures: B.
        prompts: M, trained, as are all LayerNorms: gradients go down to `ln_pre` and no further.
        live_teacher: the teacher encodes the plain views without prompts in every step.
        only_cls_last: see `encode_flops`.
    """
    linear, attention = _blocks(g, prompts, only_cls_last)
    backward = pictures * (linear + 2 * attention + 2 * g.width * g.embed_dim)
    teacher = encode_flops(g, pictures, 0, only_cls_last) if live_teacher else 0
    return encode_flops(g, pictures, prompts, only_cls_last) + backward + teacher


def _blocks(g: Geometry, prompts: int, only_cls_last: bool) -> tuple[int, int]:
    """FLOPs of all blocks for one picture: with frozen matrices, and of the two products of attention."""
    tokens = 1 + prompts + g.patches
    rest = 2 * g.width * (2 * g.width + 2 * g.mlp)  # query, output, MLP of one token
    keys_values = 2 * tokens * g.width * 2 * g.width
    scores = 2 * 2 * tokens * g.width  # of one query, over all heads
    queries = (g.depth - 1) * tokens + (1 if only_cls_last else tokens)
    return g.depth * keys_values + queries * rest, queries * scores


def matmul_rate(dtype: torch.dtype, g: Geometry, rows: int, square: int = 4096, repeats: int = 7) -> float:
    """Best rate of a matrix product in FLOP/s: median time over `repeats`, best over shapes.

    Args:
        dtype: of both factors.
        g: gives the shapes of the model's own products.
        rows: B times tokens.
        square: side of a square product, tried beside the model's own.
        repeats: of each shape.
    """
    shapes = [(rows, g.width, g.mlp), (rows, g.mlp, g.width), (rows, g.width, 3 * g.width), (square, square, square)]
    return max(2 * m * k * n / _product_seconds(m, k, n, dtype, repeats) for m, k, n in shapes)


def _product_seconds(m: int, k: int, n: int, dtype: torch.dtype, repeats: int) -> float:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(m, k, generator=generator).to(dtype)
    right = torch.randn(n, k, generator=generator).to(dtype)
    times = []
    with torch.no_grad():
        F.linear(left, right)
        for _ in range(repeats):
            start = time.perf_counter()
            F.linear(left, right)
            times.append(time.perf_counter() - start)
    return statistics.median(times)
