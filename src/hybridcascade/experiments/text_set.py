"""A set of texts that a comparison gives to its rows. Needs no torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridcascade.data.texts import (
    DESCRIPTION_SETS,
    TEMPLATE_SETS,
    LabeledText,
    build_texts,
    description_file,
    read_descriptions,
    read_templates,
)
from hybridcascade.errors import TextError

__all__ = ["TextSet"]


@dataclass(frozen=True)
class TextSet:
    """The class names alone, the names in templates, or templates and descriptions.

    Attributes:
        templates: name of a template set, or a text file; None for the names alone.
        descriptions: name of a set in the package, or a JSON file; None for none.
    """

    templates: str | None = None
    descriptions: str | None = None

    @property
    def label(self) -> str:
        """Name in tables."""
        named = [_short(self.descriptions, DESCRIPTION_SETS)] if self.descriptions else []
        return " + ".join(named + ([_short(self.templates, TEMPLATE_SETS)] if self.templates else [])) or "names"

    def key(self) -> str:
        """Return the label with a hash of the texts: another content is another row.

        Raises:
            TextError: a file cannot be read.
        """
        content: list[object] = [list(read_templates(self.templates))] if self.templates else []
        if self.descriptions:
            file = description_file(self.descriptions)
            try:
                content.append(file.read_text(encoding="utf-8-sig"))
            except (OSError, UnicodeDecodeError) as error:
                sets = ", ".join(DESCRIPTION_SETS)
                raise TextError(
                    f"descriptions {str(file)!r}: expected a JSON file or one of {sets}; {error}"
                ) from error
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
        return f"{self.label} {digest}"

    def build(self, classes: Sequence[str]) -> tuple[LabeledText, ...]:
        """Return the texts of the classes.

        Raises:
            TextError: a file is wrong, or lacks a class.
        """
        if self.templates is None:
            return tuple(build_texts(classes, "names"))
        templates = read_templates(self.templates)
        if self.descriptions is None:
            return tuple(build_texts(classes, "templates", templates))
        described = read_descriptions(self.descriptions, classes)
        return tuple(build_texts(classes, "descriptions", templates, described))


def _short(name: str, known: dict[str, str] | dict[str, tuple[str, ...]]) -> str:
    return name if name in known else Path(name).stem
