"""Reading the list of classes from wherever the user has it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from hybridcascade.data.messages import complaint, place, shown
from hybridcascade.errors import ClassListError

__all__ = ["class_key", "read_classes", "spoken"]

_ENDINGS = (".txt", ".json", ".yaml", ".yml")


def spoken(name: str) -> str:
    """Return a class name as it stands in a sentence: underscores are spaces.

    >>> spoken("polar_bear")
    'polar bear'
    """
    return " ".join(name.replace("_", " ").split())


def class_key(name: str) -> str:
    """Return what two spellings of one class share: case, underscores and repeated blanks do not count."""
    return spoken(name).casefold()


def read_classes(value: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Read a list of classes; its order is the order of every class axis K.

    Args:
        value: the names themselves; or one string with commas, `"awe,fear"`; or a file: `.txt` with a
            name a line, `.json` or `.yaml` with a list (or a mapping whose key `classes` holds it).

    Returns:
        At least two names, in the given order, without surrounding blanks.

    Raises:
        ClassListError: the file is missing or malformed, the list is empty or has one class only, or
            two names differ in nothing but case, underscores or blanks.

    >>> read_classes("awe, fear")
    ('awe', 'fear')
    """
    if isinstance(value, Path) or (isinstance(value, str) and _means_file(value)):
        return _checked(_from_file(Path(value)), str(value))
    if isinstance(value, str):
        return _checked(value.split(","), f"classes {value!r}")
    return _checked(list(value), "classes")


def _means_file(value: str) -> bool:
    return value.lower().endswith(_ENDINGS) or ("," not in value and Path(value).is_file())


def _from_file(path: Path) -> list[object]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        found = error.strerror or str(error)
        remedy = "Check the path, or give the names: awe,fear,..."
        raise ClassListError(complaint(str(path), "a file with class names", found, remedy)) from error
    except UnicodeDecodeError as error:
        message = complaint(str(path), "UTF-8 text", str(error), "Save the file as UTF-8")
        raise ClassListError(message) from error
    ending = path.suffix.lower()
    if ending not in {".json", ".yaml", ".yml"}:
        return [line for line in text.splitlines() if line.strip()]
    try:
        # JSON with its own parser: its messages name line and column of JSON, not of YAML.
        loaded = json.loads(text) if ending == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        found = " ".join(str(error).split())
        raise ClassListError(complaint(str(path), f"valid {ending[1:].upper()}", found, "Correct the file")) from error
    if isinstance(loaded, dict) and "classes" in loaded:
        loaded = loaded["classes"]
    if not isinstance(loaded, list):
        raise ClassListError(complaint(str(path), "a list of names", type(loaded).__name__, 'Write ["awe", "fear"]'))
    return loaded


def _checked(names: Sequence[object], where: str) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    result: list[str] = []
    for number, name in enumerate(names, start=1):
        if not isinstance(name, str) or not name.strip():
            # YAML reads no, off and 12 as other things than text.
            remedy = "Write the name in quotes, or leave the entry out"
            raise ClassListError(complaint(place(where, number, unit="entry"), "a name", shown(name), remedy))
        clean = name.strip()
        if (first := seen.setdefault(class_key(clean), number)) != number:
            found = f"{clean!r}, already entry {first} as {result[first - 1]!r}"
            raise ClassListError(complaint(place(where, number, unit="entry"), "a new name", found, "Name it once"))
        result.append(clean)
    if len(result) < 2:
        found = f"only {result[0]!r}" if result else "none"
        raise ClassListError(complaint(where, "at least two classes", found, "List every class, such as awe,fear"))
    return tuple(result)
