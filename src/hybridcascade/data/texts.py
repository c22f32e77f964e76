"""From class names to the texts that stand for them.

Three modes, as in LaFTer's ablation: `names` (the bare names), `templates` (each name in each
template) and `descriptions` (the templates and a language model's sentences about each class).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple

from hybridcascade.data.classes import class_key, spoken
from hybridcascade.data.messages import complaint, place, shown
from hybridcascade.errors import TextError, UnknownNameError, did_you_mean

__all__ = [
    "DESCRIPTION_SETS",
    "META_KEY",
    "TEMPLATE_SETS",
    "TEXT_MODES",
    "LabeledText",
    "TextMode",
    "build_texts",
    "default_templates",
    "description_file",
    "read_descriptions",
    "read_templates",
]

log = logging.getLogger(__name__)

TextMode = Literal["names", "templates", "descriptions"]
TEXT_MODES: tuple[str, ...] = ("names", "templates", "descriptions")

TEMPLATE_SETS: dict[str, tuple[str, ...]] = {
    "general": (
        "a photo of {}.",
        "a picture of {}.",
        "an image of {}.",
        "a photo showing {}.",
        "a close-up photo of {}.",
        "a bright photo of {}.",
        "a dark photo of {}.",
    ),
    # The emotion that a picture evokes in its viewer. Nothing about faces: that is another task.
    "evoked_emotion": (
        "a photo that evokes {}.",
        "a picture that makes people feel {}.",
        "an image with an atmosphere of {}.",
        "a scene that fills the viewer with {}.",
        "a photo that seems to express some feelings like {}.",
        "a work of art that conveys {}.",
    ),
}
"""Named template sets; `{}` is the place of the class name."""

DESCRIPTION_SETS: dict[str, str] = {
    "mikels8": "Mikels' eight emotions, 40 captions a class of what evokes them",
    "ekman6_neutral": "Ekman's six emotions and neutral, 40 captions a class of what evokes them",
}
"""Descriptions in the package, by name: each is `texts/NAME.json` beside this module."""

META_KEY = "_meta"
"""Key of a description file that is no class: where the sentences come from."""

_EMOTIONS = frozenset(
    {
        "amusement",
        "awe",
        "contentment",
        "excitement",
        "anger",
        "disgust",
        "fear",
        "sadness",
        "joy",
        "surprise",
        "happiness",
        "neutral",
        "calm",
        "calmness",
        "boredom",
        "anxiety",
        "trust",
        "anticipation",
        "love",
        "contempt",
    }
)


class LabeledText(NamedTuple):
    """A text and the row of its class in the class list."""

    text: str
    label: int
    kind: str = "template"
    """`template` (class names in sentences, or alone) or `description`."""


def default_templates(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the template set that fits: `evoked_emotion` when every class is an emotion, else `general`."""
    emotional = all(class_key(name) in _EMOTIONS for name in classes)
    return TEMPLATE_SETS["evoked_emotion" if emotional else "general"]


def build_texts(
    classes: Sequence[str],
    mode: str = "templates",
    templates: Sequence[str] | str | None = None,
    descriptions: Mapping[str, Sequence[str]] | None = None,
) -> list[LabeledText]:
    """Build the texts of all classes, class by class.

    Args:
        classes: K class names; underscores become spaces in the texts.
        mode: `names`, `templates`, or `descriptions` (templates and descriptions).
        templates: sentences with one `{}` each, or the name of a set of `TEMPLATE_SETS`; None picks
            the set by `default_templates`. Not used by `names`.
        descriptions: class -> sentences, needed by `descriptions`; see `read_descriptions`.

    Returns:
        Texts with labels 0..K-1; every class has at least one.

    Raises:
        UnknownNameError: no such mode or template set.
        TextError: a template without its `{}`, or a class without a description.

    >>> build_texts(["polar_bear", "fox"], "names")
    [LabeledText(text='polar bear', label=0, kind='template'), LabeledText(text='fox', label=1, kind='template')]
    """
    if mode not in TEXT_MODES:
        raise UnknownNameError("text mode", mode, TEXT_MODES)
    if mode == "names":
        return [LabeledText(spoken(name), label) for label, name in enumerate(classes)]
    sentences = _template_set(classes, templates)
    written = _described(classes, descriptions) if mode == "descriptions" else {}
    return [
        row
        for label, name in enumerate(classes)
        for row in (
            *(LabeledText(t.replace("{}", spoken(name)), label) for t in sentences),
            *(LabeledText(text, label, "description") for text in written.get(name, ())),
        )
    ]


def _template_set(classes: Sequence[str], templates: Sequence[str] | str | None) -> tuple[str, ...]:
    if templates is None:
        return default_templates(classes)
    if isinstance(templates, str):
        if templates not in TEMPLATE_SETS:
            hint = "To give your own templates, pass a list."
            raise UnknownNameError("template set", templates, TEMPLATE_SETS, hint)
        return TEMPLATE_SETS[templates]
    if not templates:
        raise TextError("templates: expected at least one, found none. Leave them out to get the default set.")
    for number, template in enumerate(templates, start=1):
        if not isinstance(template, str) or template.count("{}") != 1:
            remedy = "Put {} once where the class name belongs"
            where = place("templates", number, unit="entry")
            raise TextError(complaint(where, "one {} in the sentence", shown(template), remedy))
    return tuple(templates)


def _described(classes: Sequence[str], descriptions: Mapping[str, Sequence[str]] | None) -> Mapping[str, Sequence[str]]:
    if descriptions is None:
        raise TextError(
            "text mode 'descriptions': expected descriptions, found none. "
            "Give a JSON file {class: [sentence, ...]}, or use mode 'templates'."
        )
    for name in classes:
        if not descriptions.get(name):
            raise TextError(_no_description("descriptions", name, descriptions))
    return descriptions


def read_templates(name: str) -> tuple[str, ...] | list[str]:
    """Return the sentences of a template set, or of a UTF-8 text file with one a line.

    Raises:
        TextError: neither a set nor a file that can be read.
    """
    if name in TEMPLATE_SETS:
        return TEMPLATE_SETS[name]
    try:
        lines = Path(name).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        sets = ", ".join(TEMPLATE_SETS)
        raise TextError(f"templates {name!r}: expected a text file or one of {sets}; {error}") from error
    return [line.strip() for line in lines if line.strip()]


def description_file(name: str | PathLike[str]) -> Path:
    """Return the file of descriptions that is meant: a set of the package by its name, or a path.

    A file that is called like a set is meant by a path with a folder, such as `./mikels8`.
    """
    if isinstance(name, str) and name in DESCRIPTION_SETS:
        return Path(__file__).with_name("texts") / f"{name}.json"
    return Path(name)


def read_descriptions(path: str | PathLike[str], classes: Sequence[str]) -> dict[str, list[str]]:
    """Read LaFTer's description format, `{class: [sentence, ...]}`, as it is.

    A key matches its class exactly, or else when only case, underscores or blanks differ (LaFTer's
    own files mix `polar_bear` and `polar bear`). Classes of the file that are not asked for are
    logged and left out; a key `_meta` that holds an object is a note on the file and passed over.

    Args:
        path: UTF-8 JSON file, or the name of a set of `DESCRIPTION_SETS`.
        classes: the class names to find.

    Returns:
        The sentences of every class, keyed by the names in `classes`, in their order.

    Raises:
        TextError: no such file, not this format, a class twice, or a class without a sentence (the
            message names it and the nearest key).
    """
    file = str(path)
    loaded = _load_json(description_file(path))
    found: dict[str, list[str]] = {}
    by_key = {class_key(key): key for key in loaded}
    used: set[str] = set()
    for name in classes:
        key = name if name in loaded else by_key.get(class_key(name))
        if key is None or not loaded[key]:
            raise TextError(_no_description(file, name, loaded))
        used.add(key)
        found[name] = loaded[key]
    if extra := [key for key in loaded if key not in used]:
        log.info("%s: %d classes that were not asked for are left out, first %r", file, len(extra), extra[0])
    return found


def _no_description(file: str, name: str, present: Mapping[str, object]) -> str:
    near = did_you_mean(name, [key for key in present if present[key]])
    keys = ", ".join(list(present)[:8]) + (", ..." if len(present) > 8 else "")
    remedy = f'Add {name!r}: ["a sentence"] or drop the class'
    return complaint(file, f"sentences for class {name!r}", f"none (it has {keys or 'no class'}).{near}", remedy)


def _load_json(path: Path) -> dict[str, list[str]]:
    file = str(path)
    try:
        loaded = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Pairs)
    except OSError as error:
        found = error.strerror or str(error)
        remedy = f"Check the path, or name a set: {', '.join(DESCRIPTION_SETS)}"
        raise TextError(complaint(file, "a description file", found, remedy)) from error
    except UnicodeDecodeError as error:
        raise TextError(complaint(file, "UTF-8 text", str(error), "Save the file as UTF-8")) from error
    except json.JSONDecodeError as error:
        where = place(file, error.lineno, unit="line")
        raise TextError(complaint(where, "valid JSON", error.msg, "Correct the file")) from error
    if not isinstance(loaded, _Pairs):
        raise TextError(complaint(file, "{class: [sentence, ...]}", type(loaded).__name__, "Correct the file"))
    result: dict[str, list[str]] = {}
    for key, sentences in loaded:
        if key == META_KEY and isinstance(sentences, _Pairs):
            continue
        if key in result:
            raise TextError(complaint(file, "each class once", f"{key!r} twice", "Join the two lists"))
        if not isinstance(sentences, list) or not all(isinstance(s, str) and s.strip() for s in sentences):
            where = f"{file}, class {key!r}"
            raise TextError(complaint(where, "a list of sentences", shown(sentences), "Correct the file"))
        result[key] = [sentence.strip() for sentence in sentences]
    return result


class _Pairs(list[tuple[str, object]]):
    """A JSON object as its pairs, so that a key written twice is seen instead of lost."""
