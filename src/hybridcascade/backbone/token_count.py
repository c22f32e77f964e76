"""How long texts are for CLIP's text tower, without loading a model."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from open_clip.tokenizer import SimpleTokenizer

__all__ = ["CONTEXT", "token_counts"]

CONTEXT = 77
"""Tokens that OpenAI's CLIP models, and most after them, read of a text; what is longer loses its end."""


def token_counts(texts: Sequence[str]) -> list[int]:
    """Return the tokens of each text by CLIP's own vocabulary, those of start and end included.

    >>> token_counts(["a photo of a cat"])
    [7]
    """
    tokenizer = _tokenizer()
    return [len(tokenizer.encode(text)) + 2 for text in texts]


@functools.cache
def _tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()
