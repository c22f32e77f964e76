"""The text tower of a CLIP model: texts to vectors, with a count of the texts that did not fit.

Texts are sorted by length and encoded in batches that are only as wide as their longest text: under a
causal mask nothing after the end-of-text token can reach it, so the padding that open_clip carries along
(most of 77 tokens for a short prompt) changes no result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor, nn

__all__ = ["TextFeatures", "TextTower", "tokenizer_id"]


@dataclass(frozen=True)
class TextFeatures:
    """Encoded texts.

    Attributes:
        features: float32 `[T, E]`, not normalised.
        truncated: how many of the texts were longer than the tower's context and lost their end.
    """

    features: Tensor
    truncated: int


def tokenizer_id(tokenizer: Any) -> str:
    """Name what a tokenizer does to a text, for cache keys: kind, vocabulary and context length."""
    inner = getattr(tokenizer, "tokenizer", None)
    parts = (
        type(tokenizer).__name__,
        str(getattr(inner, "name_or_path", "")),
        str(getattr(tokenizer, "vocab_size", getattr(inner, "vocab_size", ""))),
        str(getattr(tokenizer, "context_length", "")),
        str(getattr(getattr(tokenizer, "clean_fn", None), "__name__", "")),
    )
    return "/".join(parts)


class TextTower:
    """Text half of an open_clip model, without its picture half.

    Not an `nn.Module` on purpose: as a child of the backbone its weights would travel into every
    checkpoint, though no prediction needs them.

    Args:
        model: open_clip `CLIP` or `CustomTextCLIP`; its `visual` may be gone.
        tokenizer: open_clip tokenizer of the model.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        # CLIP holds the parts of its text tower itself, CustomTextCLIP holds the tower as `text`.
        self._tower: Any = getattr(model, "text", model)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], device: torch.device, batch_size: int = 256) -> TextFeatures:
        """Encode texts.

        Args:
            texts: T texts.
            device: where to compute; the result is there too.
            batch_size: texts encoded at once.
        """
        if not texts:
            return TextFeatures(torch.zeros(0, self._width(), device=device), 0)
        self.model.to(device)
        tokens: Tensor = self.tokenizer(list(texts))
        lengths = self._lengths(tokens)
        order = torch.argsort(lengths, stable=True)
        parts = []
        for start in range(0, len(texts), batch_size):
            rows = order[start : start + batch_size]
            batch = tokens[rows]
            parts.append(self._encode(batch.to(device), int(lengths[rows].max())).float())
        features = torch.empty_like(torch.cat(parts))
        features[order.to(device)] = torch.cat(parts)
        return TextFeatures(features, self._truncated(texts, tokens))

    def _width(self) -> int:
        projection = getattr(self._tower, "text_projection", None)
        if isinstance(projection, nn.Linear):
            return projection.out_features
        return int(projection.shape[1]) if isinstance(projection, Tensor) else 0

    def _croppable(self) -> bool:
        """Whether the feature is read at the end-of-text token under a causal mask."""
        pool = getattr(self._tower, "text_pool_type", getattr(self._tower, "pool_type", None))
        causal = getattr(self._tower, "attn_mask", None) is not None
        return pool == "argmax" and causal and getattr(self._tower, "cls_emb", None) is None

    def _lengths(self, tokens: Tensor) -> Tensor:
        """Tokens up to and with end-of-text (the highest id), `[T]`; the full width where that is not the rule."""
        if self._croppable():
            return tokens.argmax(dim=-1) + 1
        return torch.full((tokens.shape[0],), tokens.shape[1])

    def _encode(self, tokens: Tensor, length: int) -> Tensor:
        if length == tokens.shape[1] or not self._croppable():
            full: Tensor = self.model.encode_text(tokens)  # type: ignore[operator]
            return full
        tower, tokens = self._tower, tokens[:, :length]
        dtype = tower.transformer.get_cast_dtype()
        x = tower.token_embedding(tokens).to(dtype) + tower.positional_embedding[:length].to(dtype)
        x = tower.transformer(x, attn_mask=tower.attn_mask[:length, :length])
        x = tower.ln_final(x)[torch.arange(len(tokens), device=tokens.device), tokens.argmax(dim=-1)]
        projection = tower.text_projection
        if projection is not None:
            x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
        features: Tensor = x
        return features

    def _truncated(self, texts: Sequence[str], tokens: Tensor) -> int:
        context = tokens.shape[1]
        # Only a text that fills the last place can have lost its end: the others need no second look.
        full = [text for text, row in zip(texts, tokens, strict=True) if row[-1] != 0 or not self._croppable()]
        if isinstance(self.tokenizer, SimpleTokenizer):
            return sum(len(self.tokenizer.encode(text)) + 2 > context for text in full)
        inner = getattr(self.tokenizer, "tokenizer", None)
        if inner is None:
            return 0
        cleaned = [self.tokenizer.clean_fn(text) for text in full]
        return sum(len(inner(text, truncation=False)["input_ids"]) > context for text in cleaned)
