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

from hybridcascade.errors import BackboneError

__all__ = ["attend", "layer_norm", "run_block"]

_QUICK = 1.702  # the constant of QuickGELU, x * sigmoid(1.702 x)


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


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention without mask.

    Args:
        query: `[B, heads, Q, d]`.
        key: `[B, heads, K, d]`.
        value: `[B, heads, K, d]`.

    Returns:
        `[B, heads, Q, d]`.
    """
    tracked = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if tracked and query.device.type == "cpu" and query.dtype != torch.float32:
        # The backward pass of torch's fused CPU kernel takes twice as long in bf16 as plain products.
        scores: Tensor = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return scores.softmax(dim=-1) @ value
    return F.scaled_dot_product_attention(query, key, value)


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
    if type(block) is not ResidualAttentionBlock or getattr(block.attn, "in_proj_bias", None) is None:
        if gated:
            raise BackboneError(
                f"neutral prompts need open_clip's plain attention block, this tower has {type(block).__name__}; "
                "use prompts with init='uniform'"
            )
        plain: Tensor = block(tokens)
        return plain
    tokens = tokens + block.ls_1(_attention(block.attn, layer_norm(block.ln_1, tokens), gated))
    hidden = _activate(block.mlp.gelu, block.mlp.c_fc(layer_norm(block.ln_2, tokens)))
    out: Tensor = tokens + block.ls_2(block.mlp.c_proj(hidden))
    return out


def _attention(attn: Any, tokens: Tensor, gated: Sequence[tuple[int, Tensor]]) -> Tensor:
    batch, length, width = tokens.shape
    packed = F.linear(tokens, attn.in_proj_weight, attn.in_proj_bias)
    query, key, value = packed.view(batch, length, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = _gated(query, key, value, gated) if gated else attend(query, key, value)
    projected: Tensor = attn.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
    return projected


def _gated(query: Tensor, key: Tensor, value: Tensor, gated: Sequence[tuple[int, Tensor]]) -> Tensor:
    """CLS and patches see each other as if no prompt were there, plus gate times what they read from prompts."""
    end = 1 + sum(count for count, _ in gated)
    own_query, own_key, own_value = (torch.cat([t[:, :, :1], t[:, :, end:]], dim=2) for t in (query, key, value))
    own = attend(own_query, own_key, own_value)
    start = 1
    for count, gate in gated:
        part = slice(start, start + count)
        read = attend(own_query, key[:, :, part], value[:, :, part])
        own = own + gate.to(read.dtype).view(1, -1, 1, 1) * read
        start += count
    prompts = attend(query[:, :, 1:end], key, value)
    return torch.cat([own[:, :, :1], prompts, own[:, :, 1:]], dim=2)


def _activate(module: nn.Module, hidden: Tensor) -> Tensor:
    if type(module) is QuickGELU:
        # The same function as one fused SiLU: half the passes over memory, one saved tensor, not three.
        return F.silu(hidden * _QUICK) * (1 / _QUICK)
    activated: Tensor = module(hidden)
    return activated
