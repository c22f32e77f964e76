"""What a language model is asked for descriptions, and how its answers are read. Needs no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridcascade.data.classes import spoken
from hybridcascade.data.texts import TEMPLATE_SETS, default_templates
from hybridcascade.errors import SettingsError

__all__ = ["PROMPTS", "SYSTEM", "Prompt", "find_prompt", "read_answer"]

SYSTEM = (
    "You write captions of photographs and works of art for an image-text model. "
    "Each caption is one plain English sentence of 8 to 25 words that says what is visible. "
    "Answer with the captions alone, one a line, without numbers, quotes or remarks."
)
"""Said to the model before every prompt."""

_EVOKED = (
    "Write {count} different captions of pictures that evoke {class} in the person who looks at them. "
    "This time the captions are about {facet}. "
    "Describe what is to be seen, not the feeling, and do not use the words: {others}."
)
_OBJECTS = (
    "Write {count} different captions of pictures that show {class}, so that somebody could tell it from other things. "
    "This time the captions are about {facet}. Do not use the words: {others}."
)
_EVOKED_FACETS = (
    "places and landscapes", "people and what they do", "light, weather and time of day", "objects seen close up",
    "animals and plants", "colours and composition", "paintings, drawings and sculpture", "moments of daily life",
)  # fmt: skip
_OBJECT_FACETS = (
    "its shape and parts", "its colours and surface", "the places where it is found", "a close view of it",
    "a view from far away or from above", "what is usually around it", "drawings and other pictures of it",
    "unusual light, weather or kinds of it",
)  # fmt: skip
_AVOID = "\nDo not repeat any of these:\n{avoid}"
_MOST_AVOIDED = 60  # sentences; more would cost more than the repetitions they prevent
_FIELDS = ("count", "class", "facet", "others")
_NEEDED = ("count", "class")
_FEWEST_WORDS = 3


@dataclass(frozen=True)
class Prompt:
    """A kind of prompt.

    Attributes:
        name: as stored in the file.
        text: with `{count}` and `{class}`, and where wanted `{facet}` and `{others}`.
        facets: what the calls for one class are about, in turn.
    """

    name: str
    text: str
    facets: tuple[str, ...]

    def fill(self, name: str, count: int, call: int, classes: Sequence[str], known: Sequence[str] = ()) -> str:
        """Return the prompt of one call.

        Args:
            name: class.
            count: sentences wanted.
            call: number of this call among those for the class, from 0; it chooses the facet.
            classes: all classes; the others are named as words to avoid.
            known: sentences of the class so far; named once each facet has had its turn.
        """
        others = ", ".join(spoken(other) for other in classes if other != name)
        values = {"count": str(count), "class": spoken(name), "facet": self.facets[call % len(self.facets)]}
        text = re.sub(r"\{(\w+)\}", lambda found: (values | {"others": others})[found[1]], self.text)
        repeated = known[-_MOST_AVOIDED:] if call >= len(self.facets) else ()
        return text + (_AVOID.format(avoid="\n".join(repeated)) if repeated else "")


PROMPTS: dict[str, Prompt] = {
    "evoked_emotion": Prompt("evoked_emotion", _EVOKED, _EVOKED_FACETS),
    "general": Prompt("general", _OBJECTS, _OBJECT_FACETS),
}
"""Prompts by name: what evokes an emotion, and what a thing looks like."""


def find_prompt(name: str, classes: Sequence[str]) -> Prompt:
    """Return a prompt.

    Args:
        name: of `PROMPTS`; `auto` for the one that fits the classes; or a text file with `{count}` and `{class}`.
        classes: all classes.

    Raises:
        SettingsError: no such prompt or file, or a file without its places.
    """
    if name == "auto":
        emotional = default_templates(classes) == TEMPLATE_SETS["evoked_emotion"]
        return PROMPTS["evoked_emotion" if emotional else "general"]
    if name in PROMPTS:
        return PROMPTS[name]
    try:
        text = Path(name).read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(("auto", *PROMPTS))
        raise SettingsError(f"prompt {name!r}: expected one of {known}, or a text file; {error}") from error
    found = re.findall(r"\{(\w+)\}", text)
    if wrong := [f"{{{word}}}" for word in found if word not in _FIELDS]:
        places = ", ".join(f"{{{word}}}" for word in _FIELDS)
        raise SettingsError(f"prompt {name}: expected the places {places}, found {', '.join(wrong)}")
    if missing := [f"{{{word}}}" for word in _NEEDED if word not in found]:
        raise SettingsError(f"prompt {name}: expected {' and '.join(missing)} in the text, found none. Add them")
    return Prompt("own", text, _EVOKED_FACETS)


def read_answer(text: str) -> list[str]:
    r"""Return the sentences in an answer: a JSON list, or one a line, whatever stands before and around them.

    >>> read_answer("Here are two:\n1. A dark wood at night.\n2) **An empty house.**")
    ['A dark wood at night.', 'An empty house.']
    """
    text = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)  # what some models say to themselves first
    listed = _json_list(text)
    lines = text.splitlines() if listed is None else listed
    cleaned = [_clean(line) for line in lines]
    return [line for line in cleaned if len(line.split()) >= _FEWEST_WORDS and not line.endswith(":")]


def _json_list(text: str) -> list[str] | None:
    start, end = text.find("["), text.rfind("]")
    if start < 0 or end < start:
        return None
    try:
        found: Any = json.loads(text[start : end + 1])
    except ValueError:
        return None
    return [item for item in found if isinstance(item, str)]


def _clean(line: str) -> str:
    line = re.sub(r"^\s*(?:[-*•–—]\s+|\(?\d{1,3}[.):]\s*)", "", line)
    return " ".join(line.replace("**", "").replace("`", "").split()).strip('"“”, ').strip()
