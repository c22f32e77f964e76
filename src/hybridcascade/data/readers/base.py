"""What a reader of a published data set is, and the registry of them.

A reader turns the files of one layout into rows: path, label, votes, split, and whatever else the files say.
It never guesses: a class order comes from the files or from the documentation of the data set, and a split is
the official one or none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO

from hybridcascade.data.classes import class_key
from hybridcascade.data.messages import complaint, shown
from hybridcascade.data.trees import Tree, is_picture
from hybridcascade.errors import DataError, ManifestError, SettingsError, UnknownNameError, did_you_mean

__all__ = [
    "READERS",
    "DataRow",
    "Place",
    "Reader",
    "Reading",
    "keep_present",
    "known_class",
    "parse_format",
    "register_reader",
    "text_of",
    "winner",
]

ALIASES: Mapping[str, str] = {"content": "contentment", "sad": "sadness", "happy": "happiness", "surprised": "surprise"}
"""Short spellings in data sets and the class of our emotion spaces that each means."""

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")


@dataclass(frozen=True, slots=True)
class DataRow:
    """What the files say of one picture.

    Attributes:
        path: below the root of the data set, with `/`; the sample id.
        label: row of the classes, or None (not labelled, or a tie of votes).
        votes: one number >= 0 a class with a positive sum, or None.
        split: official one, `train`, `val` or `test`, or None.
        keyword: what the picture was searched with, where the data set says it: not a label.
        facts: anything else, as text.
    """

    path: str
    label: int | None = None
    votes: tuple[float, ...] | None = None
    split: str | None = None
    keyword: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """A data set as read.

    Attributes:
        format: name of the reader.
        title: of the data set.
        root: folder of the data set below the tree, empty or ending in `/`.
        classes: what labels and votes count in, in the order of the files.
        rows: pictures that exist.
        missing: paths that the files list and that do not exist.
        left_out: why rows were left out -> how many.
        remarks: what a user should know of these data.
        split: where the split comes from: `official`, a rule such as `hash:0.8`, or None.
        placeholders: pictures that stand in for removed ones.
    """

    format: str
    title: str
    root: str
    classes: tuple[str, ...]
    rows: tuple[DataRow, ...]
    missing: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    split: str | None = None
    placeholders: tuple[str, ...] = ()


class Place:
    """The files of a folder or zip, seen from the root of the data set (the one folder that a zip often has).

    Args:
        tree: the folder or zip.
        only: name of the list to read, where the user points at it.
        files: what `tree.files()` said, where that is known.
    """

    def __init__(self, tree: Tree, only: str | None = None, files: Sequence[str] | None = None) -> None:
        self.tree = tree
        self.name = tree.name
        self.only = only
        listed = tree.files() if files is None else files
        self.root = "" if only else _shared_folder(listed)
        self.files = tuple(name[len(self.root) :] for name in listed)
        self._known = frozenset(self.files)

    def has(self, name: str) -> bool:
        """Tell whether a file lies at this path below the root."""
        return name in self._known

    def open(self, name: str) -> IO[bytes]:
        """Open a file below the root; raises OSError."""
        return self.tree.open(self.root + name)

    def where(self, name: str) -> str:
        """Name a file for a message."""
        return f"{self.tree.name}/{self.root}{name}"

    def named(self, pattern: str) -> list[str]:
        """Return the files directly in the root whose names match a pattern of `fnmatch`, sorted."""
        return sorted(n for n in self.files if "/" not in n and PurePosixPath(n).match(pattern))

    def pictures(self) -> list[str]:
        """Return the pictures below the root, sorted."""
        return [name for name in self.files if is_picture(name)]

    def folder_of(self, names: Iterable[str], wanted: Sequence[str] = ("",)) -> str:
        """Return the folder (empty or ending in `/`) that names are relative to.

        Args:
            names: paths as a list of the data set writes them.
            wanted: folders to try first, as the data set is documented.

        Raises:
            DataError: none of the first names lies anywhere, or in two folders.
        """
        tried = [name for name, _ in zip(names, range(200), strict=False)]
        for folder in wanted:
            if any(self.has(folder + name) for name in tried):
                return folder
        ends = {f"/{name}": name for name in tried}
        found = {file[: -len(ends[end])] for file in self.files for end in _ends(file) if end in ends}
        if len(found) != 1:
            got = f"it in {', '.join(sorted(found))}" if found else f"none of them, first {tried[0]!r}" if tried else ""
            remedy = "Unpack the pictures beside the list, once"
            raise DataError(complaint(self.name, "the listed pictures in one folder", got or "an empty list", remedy))
        return found.pop()


@dataclass(frozen=True)
class Reader:
    """A layout.

    Attributes:
        name: as written after `--format`.
        title: of the data set.
        files: what it is recognised by, in words.
        detect: tells whether a place has this layout.
        read: reads it; the mapping has a value for each of `options`.
        options: name -> valid values, the first being the default; empty for free text.
        official_split: the data set comes with one.
    """

    name: str
    title: str
    files: str
    detect: Callable[[Place], bool]
    read: Callable[[Place, Mapping[str, str]], Reading]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    official_split: bool = False


READERS: dict[str, Reader] = {}


def register_reader(reader: Reader) -> Reader:
    """Add a reader to the registry.

    Raises:
        ValueError: the name is taken, reserved or not in snake_case, or an option has no values.
    """
    if not _NAME.match(reader.name) or reader.name in ("auto", "none"):
        raise ValueError(f"name of a reader must be snake_case and neither auto nor none, got {reader.name!r}")
    if reader.name in READERS:
        raise ValueError(f"reader {reader.name!r} is already registered")
    if any(not values for values in reader.options.values()):
        raise ValueError(f"reader {reader.name!r}: each option needs its valid values")
    READERS[reader.name] = reader
    return reader


def parse_format(text: str) -> tuple[str, dict[str, str]]:
    """Read `NAME` or `NAME@key=value,key=value`; nothing is looked up.

    Raises:
        SettingsError: an option without `=`.
    """
    name, at, rest = text.partition("@")
    options: dict[str, str] = {}
    for part in rest.split(",") if at else ():
        key, equals, value = part.partition("=")
        if not equals or not key.strip():
            raise SettingsError(f"--format expects NAME or NAME@key=value,key=value, got {text!r}")
        options[key.strip()] = value.strip()
    return name.strip(), options


def checked_options(reader: Reader, given: Mapping[str, str]) -> dict[str, str]:
    """Return a value for each option of a reader.

    Raises:
        UnknownNameError: no such option, or no such value.
    """
    for key, value in given.items():
        if key not in reader.options:
            raise UnknownNameError(f"option of format {reader.name}", key, reader.options or ("none",))
        if value not in reader.options[key]:
            raise UnknownNameError(f"value of {key} (format {reader.name})", value, reader.options[key])
    return {key: given.get(key, values[0]) for key, values in reader.options.items()}


def text_of(place: Place, name: str) -> str:
    """Return a text file without byte-order mark.

    Raises:
        ManifestError: unreadable or not UTF-8.
    """
    try:
        with place.open(name) as stream:
            return stream.read().decode("utf-8-sig")
    except OSError as error:
        found = error.strerror or str(error)
        raise ManifestError(complaint(place.where(name), "a readable file", found, "Check the file")) from error
    except UnicodeDecodeError as error:
        raise ManifestError(complaint(place.where(name), "UTF-8 text", str(error), "Save it as UTF-8")) from error


def known_class(written: str, classes: Sequence[str], where: str) -> str:
    """Return the class that a header or folder means; case, quotes, brackets and short forms do not count.

    Raises:
        ManifestError: it means none of `classes`.
    """
    key = class_key(written.strip(" \t'\"[]"))
    key = ALIASES.get(key, key) if key not in {class_key(name) for name in classes} else key
    for name in classes:
        if class_key(name) == key:
            return name
    found = f"{shown(written)}.{did_you_mean(key, classes)}"
    remedy = "The order of the classes is not guessed: correct the name"
    raise ManifestError(complaint(where, f"one of {', '.join(classes)}", found, remedy))


def winner(votes: Sequence[float]) -> int | None:
    """Return the place of the largest vote, None on a tie.

    >>> winner([1, 3, 0]), winner([2, 2, 0])
    (1, None)
    """
    best = max(votes)
    return None if sum(vote == best for vote in votes) > 1 else list(votes).index(best)


def keep_present(place: Place, rows: Iterable[DataRow], what: str) -> tuple[tuple[DataRow, ...], tuple[str, ...]]:
    """Divide rows into those whose picture exists and the paths of the others.

    Raises:
        ManifestError: a picture is listed twice.
        DataError: no picture exists.
    """
    rows = tuple(rows)
    counts = Counter(row.path for row in rows)
    if counts and (twice := counts.most_common(1)[0])[1] > 1:
        remedy = "Remove one of the two"
        raise ManifestError(complaint(f"{place.name}, {what}", "each picture once", f"{twice[0]!r} twice", remedy))
    kept = tuple(row for row in rows if place.has(row.path))
    if not kept:
        found = f"none of {len(rows)}" + (f", first {rows[0].path!r}" if rows else "")
        remedy = "Unpack the pictures where the layout of the data set has them"
        raise DataError(complaint(f"{place.name}, {what}", "the listed pictures", found, remedy))
    return kept, tuple(row.path for row in rows if not place.has(row.path))


def _shared_folder(files: Sequence[str]) -> str:
    """Folder that all files lie in, with `/`, or an empty string; folders of pictures alone are layout, not a shell."""
    if not files or all(is_picture(name) for name in files):
        return ""
    parts = [name.split("/")[:-1] for name in files]
    shared: list[str] = []
    while all(len(p) > len(shared) for p in parts) and len({p[len(shared)] for p in parts}) == 1:
        shared.append(parts[0][len(shared)])
    return "".join(f"{part}/" for part in shared)


def _ends(file: str) -> Iterable[str]:
    """All ends of a path that begin with `/`."""
    return (file[i:] for i, mark in enumerate(file) if mark == "/")
