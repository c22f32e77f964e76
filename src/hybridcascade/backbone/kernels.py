"""Attention and MLP of a frozen block on the CPU, with backward passes written by hand.

They compute what autograd would, in fewer passes over memory. Where a block's matrices are frozen, its
products take half of a training step and the rest goes into copies: slices and `unbind` that autograd
undoes with zero-filled tensors of full size, scalings, transposes. Here tokens are put in order once,
scalings ride on the products, and gradients are written in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

__all__ = ["frozen_quick_mlp", "packed_attention"]

_QUICK = 1.702  # the constant of QuickGELU, x * sigmoid(1.702 x)


def packed_attention(packed: Tensor, heads: int, gated: Sequence[tuple[int, Tensor]] = ()) -> Tensor:
    """Attention from packed queries, keys and values.

    Args:
        packed: `[B, T, 3 D]`, as the input projection gives it, tokens in the order CLS, prompts, patches.
        heads: number of heads.
        gated: number of tokens and gate `[heads]` of each group of gated prompts, in token order. CLS and
            patches then see each other in a softmax of their own, plus gate times what they read from a
            group in another; prompts see all tokens.

    Returns:
        `[B, T, D]`.
    """
    counts = tuple(count for count, _ in gated)
    out: Tensor = _PackedAttention.apply(packed, heads, counts, *(gate for _, gate in gated))
    return out


def frozen_quick_mlp(tokens: Tensor, fc: torch.nn.Linear, proj: torch.nn.Linear) -> Tensor:
    """`proj(QuickGELU(fc(tokens)))` of frozen layers.

    Args:
        tokens: `[..., D]`.
        fc: D to hidden width; gets no gradient.
        proj: hidden width to D; gets no gradient.
    """
    out: Tensor = _FrozenQuickMlp.apply(tokens, fc.weight, fc.bias, proj.weight, proj.bias)
    return out


class _FrozenQuickMlp(torch.autograd.Function):
    """QuickGELU is `silu(1.702 x) / 1.702`: the factors ride on the products, and in the gradient they cancel."""

    @staticmethod
    def forward(
        ctx: Any, tokens: Tensor, fc_weight: Tensor, fc_bias: Tensor, proj_weight: Tensor, proj_bias: Tensor
    ) -> Tensor:
        rows = tokens.reshape(-1, tokens.shape[-1])
        scaled = torch.addmm(fc_bias * _QUICK, rows, fc_weight.t(), alpha=_QUICK)
        ctx.save_for_backward(scaled, fc_weight, proj_weight)
        out = torch.addmm(proj_bias, F.silu(scaled), proj_weight.t(), alpha=1 / _QUICK)
        return out.view(*tokens.shape[:-1], out.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scaled, fc_weight, proj_weight = ctx.saved_tensors
        (gradient,) = gradients
        hidden = torch.mm(gradient.reshape(-1, gradient.shape[-1]), proj_weight)
        # silu(1.702 x) / 1.702 has the derivative of silu at 1.702 x
        torch.ops.aten.silu_backward.grad_input(hidden, scaled, grad_input=hidden)
        tokens = torch.mm(hidden, fc_weight)
        return tokens.view(*gradient.shape[:-1], tokens.shape[-1]), None, None, None, None


class _PackedAttention(torch.autograd.Function):
    """Inside, prompts come last: CLS and patches, and each group of prompts, are then slices."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, heads: int, counts: tuple[int, ...], *gates: Tensor) -> Tensor:
        batch, length, triple = packed.shape
        width = triple // (3 * heads)
        moved = sum(counts)
        ordered = packed.new_empty(3, batch, heads, length, width)
        source = packed.view(batch, length, 3, heads, width).permute(2, 0, 3, 1, 4)
        for to, of in _order(length, moved):
            ordered[:, :, :, to] = source[:, :, :, of]
        query, key, value = ordered.view(3, batch * heads, length, width)
        scores = torch.baddbmm(query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=width**-0.5)
        shares, raw = _shares(scores, batch, counts, gates)
        ctx.save_for_backward(query, key, value, shares, *raw, *gates)
        ctx.heads, ctx.counts = heads, counts
        mixed = torch.bmm(shares, value).view(batch, heads, length, width).transpose(1, 2)
        out = packed.new_empty(batch, length, heads, width)
        for to, of in _order(length, moved):
            out[:, of] = mixed[:, to]
        return out.view(batch, length, heads * width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, shares, *rest = ctx.saved_tensors
        heads, counts = ctx.heads, ctx.counts
        raw, gates = rest[: len(counts)], rest[len(counts) :]
        (gradient,) = gradients
        batch, length, _ = gradient.shape
        width, moved = query.shape[-1], sum(counts)
        source = gradient.view(batch, length, heads, width).transpose(1, 2)
        mixed = torch.empty_like(query).view(batch, heads, length, width)
        for to, of in _order(length, moved):
            mixed[:, :, to] = source[:, :, of]
        mixed = mixed.view_as(query)
        found = query.new_empty(3, *query.shape)
        torch.bmm(shares.transpose(1, 2), mixed, out=found[2])
        scores, gate_gradients = _shares_backward(
            torch.bmm(mixed, value.transpose(1, 2)), shares, batch, counts, raw, gates
        )
        blank = query.new_empty(1, 1, 1)
        torch.baddbmm(blank, scores, key, beta=0, alpha=width**-0.5, out=found[0])
        torch.baddbmm(blank, scores.transpose(1, 2), query, beta=0, alpha=width**-0.5, out=found[1])
        packed = gradient.new_empty(batch, length, 3, heads, width)
        target = packed.permute(2, 0, 3, 1, 4)
        for to, of in _order(length, moved):
            target[:, :, :, of] = found.view(3, batch, heads, length, width)[:, :, :, to]
        return packed.view(batch, length, 3 * heads * width), None, None, *gate_gradients


def _order(length: int, moved: int) -> list[tuple[slice, slice]]:
    """Slices of (CLS, patches, prompts) and of (CLS, prompts, patches) that hold the same tokens."""
    if not moved:
        return [(slice(None), slice(None))]
    own = length - moved
    return [
        (slice(0, 1), slice(0, 1)),
        (slice(1, own), slice(1 + moved, length)),
        (slice(own, length), slice(1, 1 + moved)),
    ]


def _parts(own: int, counts: Sequence[int]) -> list[slice]:
    """Columns of each group of prompts, behind those of CLS and patches."""
    starts = [own + sum(counts[:i]) for i in range(len(counts))]
    return [slice(start, start + count) for start, count in zip(starts, counts, strict=True)]


def _by_head(gate: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    return gate.to(dtype).repeat(batch).view(-1, 1, 1)


def _shares(scores: Tensor, batch: int, counts: Sequence[int], gates: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """What each token takes from each, `[B heads, T, T]`; and each group's softmax before its gate."""
    if not counts:
        return scores.softmax(dim=-1), []
    own = scores.shape[-1] - sum(counts)
    shares = torch.empty_like(scores)
    shares[:, own:] = scores[:, own:].softmax(dim=-1)
    shares[:, :own, :own] = scores[:, :own, :own].softmax(dim=-1)
    raw = []
    for part, gate in zip(_parts(own, counts), gates, strict=True):
        raw.append(scores[:, :own, part].softmax(dim=-1))
        shares[:, :own, part] = raw[-1] * _by_head(gate, batch, scores.dtype)
    return shares, raw


def _shares_backward(
    gradient: Tensor,
    shares: Tensor,
    batch: int,
    counts: Sequence[int],
    raw: Sequence[Tensor],
    gates: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Gradients of the scores and of each gate, from that of the shares."""
    if not counts:
        return _softmax_backward(gradient, shares), []
    own = shares.shape[-1] - sum(counts)
    scores = torch.empty_like(shares)
    scores[:, own:] = _softmax_backward(gradient[:, own:], shares[:, own:])
    scores[:, :own, :own] = _softmax_backward(gradient[:, :own, :own], shares[:, :own, :own])
    gate_gradients = []
    for part, probabilities, gate in zip(_parts(own, counts), raw, gates, strict=True):
        read = gradient[:, :own, part]
        product = (read * probabilities).view(batch, len(gate), -1)
        gate_gradients.append(product.sum(dim=(0, 2), dtype=gate.dtype))
        scores[:, :own, part] = _softmax_backward(read * _by_head(gate, batch, read.dtype), probabilities)
    return scores, gate_gradients


def _softmax_backward(gradient: Tensor, probabilities: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten._softmax_backward_data(gradient, probabilities, -1, probabilities.dtype)
    return result
