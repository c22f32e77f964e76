"""The texts of the classes, chosen and encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hybridcascade.backbone.clip import ClipBackbone
from hybridcascade.backbone.text_bank import TextBank
from hybridcascade.data.texts import LabeledText, build_texts, read_descriptions, read_templates
from hybridcascade.types import TextBatch

__all__ = ["EncodedTexts", "choose_texts", "encode_texts"]


@dataclass(frozen=True)
class EncodedTexts:
    """Texts and their vectors.

    Attributes:
        texts: T texts with their classes.
        features: unit vectors, float32 `[T, E]`.
        truncated: how many texts were longer than the text tower reads.
    """

    texts: tuple[LabeledText, ...]
    features: Tensor
    truncated: int = 0

    @property
    def kinds(self) -> Tensor:
        """Kind of each text, int64 `[T]`: 0 for class names in templates, 1 for descriptions."""
        return torch.tensor([int(t.kind == "description") for t in self.texts], dtype=torch.int64)

    @property
    def batch(self) -> TextBatch:
        """The texts as the text phase takes them."""
        return TextBatch(self.features, torch.tensor([t.label for t in self.texts], dtype=torch.int64))


def choose_texts(
    classes: Sequence[str], method: str, mode: str = "auto",
    templates: str | Sequence[str] | None = None, descriptions: str | Mapping[str, Sequence[str]] | None = None,
) -> tuple[LabeledText, ...]:  # fmt: skip
    """Build the texts of the classes.

    Args:
        classes: K names.
        method: registry key; under `auto`, `zero_shot` reads no descriptions.
        mode: auto, names, templates or descriptions.
        templates: name of a template set, a text file with one a line, or the sentences.
        descriptions: LaFTer's JSON file, the name of a set in the package (mikels8), or the content.

    Raises:
        TextError: the file is missing or wrong, or lacks a class.
    """
    if mode == "auto":
        mode = "descriptions" if descriptions and method != "zero_shot" else "templates"
    if isinstance(templates, str):
        templates = read_templates(templates)
    if isinstance(descriptions, str):
        descriptions = read_descriptions(descriptions, classes) if mode == "descriptions" else None
    return tuple(build_texts(classes, mode, templates, descriptions))


def encode_texts(backbone: ClipBackbone, texts: Sequence[LabeledText], cache: Path | None) -> EncodedTexts:
    """Encode texts to unit vectors, or take them from the cache folder."""
    bank = TextBank(backbone, cache)
    features = bank.encode([t.text for t in texts])
    return EncodedTexts(tuple(texts), features.float().cpu(), bank.truncated)
