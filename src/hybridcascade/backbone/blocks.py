"""One transformer block of open_clip, run on its own weights by faster kernels.

open_clip's `ResidualAttentionBlock.forward` is what `encode_image` uses and what results are checked
against. Under gradients it is slow: `nn.MultiheadAttention` leaves its fused path and copies, and
`LayerNormFp32` writes the tokens out twice. The functions here compute the same mathematics from the
same parameters; only the rounding of intermediate results differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from hybridcascade.backbone.kernels import frozen_quick_mlp, packed_attention
from hybridcascade.errors import BackboneError

__all__ = ["is_plain_block", "layer_norm", "run_block", "run_block_for_cls"]


def layer_norm(module: nn.Module, tokens: Tensor) -> Tensor:
    """Apply a LayerNorm with fp32 parameters to tokens in the compute dtype.

    Args:
        module: open_clip's `LayerNorm` or `LayerNormFp32` (statistics in fp32 either way), or Identity.
        tokens: `[..., D]`.
    """
    if isinstance(module, nn.LayerNorm) and tokens.device.type == "cpu":
        # The CPU kernel takes low-precision input with fp32 parameters: one pass instead of three.
        return F.layer_norm(tokens, module.normalized_shape, module.weight, module.bias, module.eps)
    normed: Tensor = module(tokens)
    return normed


def run_block(block: Any, tokens: Tensor, gated: Sequence[tuple[int, Tensor]] = ()) -> Tensor:
    """Run one block on `[CLS, prompts, patches]`.

    Args:
        block: a block of open_clip's `Transformer`.
        tokens: `[B, 1 + M + P, D]`, prompts (if any) between CLS and patches.
        gated: for each group of gated prompts, in token order, their number and their gate `[heads]`
            (fp32). Empty: all tokens attend to all tokens, as in any prompted transformer.

    Returns:
        Tokens after the block, `[B, 1 + M + P, D]`.

    Raises:
        BackboneError: gated prompts in a block with attention of its own kind.
    """
    if not is_plain_block(block):
        if gated:
            raise BackboneError(
                f"neutral prompts need open_clip's plain attention block, this tower has {type(block).__name__}; "
                "use prompts with init='uniform'"
            )
        plain: Tensor = block(tokens)
        return plain
    tokens = tokens + block.ls_1(_attention(block.attn, layer_norm(block.ln_1, tokens), gated))
    out: Tensor = tokens + block.ls_2(_mlp(block.mlp, layer_norm(block.ln_2, tokens)))
    return out


def run_block_for_cls(block: Any, tokens: Tensor, gated: Sequence[tuple[int, Tensor]] = ()) -> Tensor:
    """Run one block as `run_block` does, for CLS alone: the other tokens are read but not computed.

    Args:
        block: a block for which `is_plain_block` holds.
        tokens: `[B, 1 + M + P, D]`.
        gated: see `run_block`.

    Returns:
        CLS after the block, `[B, 1, D]`.
    """
    attn, (batch, length, width) = block.attn, tokens.shape
    normed = layer_norm(block.ln_1, tokens)
    query = F.linear(normed[:, :1], attn.in_proj_weight[:width], attn.in_proj_bias[:width])
    packed = F.linear(normed, attn.in_proj_weight[width:], attn.in_proj_bias[width:])
    key, value = packed.view(batch, length, 2, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    query = query.view(batch, 1, attn.num_heads, -1).transpose(1, 2)
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    mixed = (_cls_shares(scores, gated) @ value).transpose(1, 2).reshape(batch, 1, width)
    cls = tokens[:, :1] + block.ls_1(attn.out_proj(mixed))
    out: Tensor = cls + block.ls_2(_mlp(block.mlp, layer_norm(block.ln_2, cls)))
    return out


def is_plain_block(block: Any) -> bool:
    """Whether a block is open_clip's plain one, which the functions here can run."""
    return type(block) is ResidualAttentionBlock and getattr(block.attn, "in_proj_bias", None) is not None


def _attention(attn: Any, tokens: Tensor, gated: Sequence[tuple[int, Tensor]]) -> Tensor:
    batch, length, width = tokens.shape
    packed = F.linear(tokens, attn.in_proj_weight, attn.in_proj_bias)
    if _tracked(packed) and packed.device.type == "cpu":
        mixed = packed_attention(packed, attn.num_heads, gated)
    else:
        query, key, value = packed.view(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        parts = _gated(query, key, value, gated) if gated else F.scaled_dot_product_attention(query, key, value)
        mixed = parts.transpose(1, 2).reshape(batch, length, width)
    projected: Tensor = attn.out_proj(mixed)
    return projected


def _tracked(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _cls_shares(scores: Tensor, gated: Sequence[tuple[int, Tensor]]) -> Tensor:
    """What CLS takes from each token, from its scores `[B, heads, 1, T]`; see `_gated`."""
    if not gated:
        return scores.softmax(dim=-1)
    counts = [count for count, _ in gated]
    cls, *prompts, patches = torch.split(scores, [1, *counts, scores.shape[-1] - 1 - sum(counts)], dim=-1)
    own = torch.cat([cls, patches], dim=-1).softmax(dim=-1)
    read = [
        gate.to(scores.dtype).view(1, -1, 1, 1) * part.softmax(dim=-1)
        for part, (_, gate) in zip(prompts, gated, strict=True)
    ]
    return torch.cat([own[..., :1], *read, own[..., 1:]], dim=-1)


def _gated(query: Tensor, key: Tensor, value: Tensor, gated: Sequence[tuple[int, Tensor]]) -> Tensor:
    """CLS and patches see each other as if no prompt were there, plus gate times what they read from prompts."""
    end = 1 + sum(count for count, _ in gated)
    own_query, own_key, own_value = (torch.cat([t[:, :, :1], t[:, :, end:]], dim=2) for t in (query, key, value))
    own = F.scaled_dot_product_attention(own_query, own_key, own_value)
    start = 1
    for count, gate in gated:
        part = slice(start, start + count)
        read = F.scaled_dot_product_attention(own_query, key[:, :, part], value[:, :, part])
        own = own + gate.to(read.dtype).view(1, -1, 1, 1) * read
        start += count
    prompts = F.scaled_dot_product_attention(query[:, :, 1:end], key, value)
    return torch.cat([own[:, :, :1], prompts, own[:, :, 1:]], dim=2)


def _mlp(mlp: Any, tokens: Tensor) -> Tensor:
    if type(mlp.gelu) is QuickGELU:
        layers = (mlp.c_fc, mlp.c_proj)
        frozen = not any(parameter.requires_grad for layer in layers for parameter in layer.parameters())
        if frozen and all(type(layer) is nn.Linear and layer.bias is not None for layer in layers):
            return frozen_quick_mlp(tokens, *layers)
    out: Tensor = mlp(tokens)
    return out
