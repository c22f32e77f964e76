"""`split_zhou_*.json` of CoOp and Dassl: `{"train": [[path, number, class name], ...], "val": ..., "test": ...}`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from hybridcascade.data.messages import complaint, shown
from hybridcascade.data.readers.base import DataRow, Place, Reader, Reading, keep_present, register_reader, text_of
from hybridcascade.errors import DataError, ManifestError

__all__ = ["COOP", "SplitNames", "parse_split", "split_entries"]

_SPLITS = ("train", "val", "test")


def parse_split(text: str, file: str) -> Mapping[str, Any]:
    """Return the content of a split file.

    Raises:
        ManifestError: not JSON, or other keys.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ManifestError(complaint(file, "valid JSON", str(error), "Copy the file again")) from error
    if not isinstance(content, dict) or not content or not set(content) <= set(_SPLITS):
        found = f"the keys {', '.join(map(repr, content))}" if isinstance(content, dict) else type(content).__name__
        wanted = "the keys 'train', 'val', 'test' with lists of [path, number, class name]"
        raise ManifestError(complaint(file, wanted, found, "Give a split_zhou file"))
    return content


def split_entries(file: str, content: Mapping[str, Any]) -> Iterator[tuple[str, int, str, int, str]]:
    """Yield split, position (from 1), path, number and class name of each entry.

    Raises:
        ManifestError: an entry of another form.
    """
    for split, entries in content.items():
        for number, entry in enumerate(entries, start=1):
            fits = isinstance(entry, list) and len(entry) == 3
            if not fits or not isinstance(entry[0], str) or not isinstance(entry[2], str) or not _is_number(entry[1]):
                wanted = "[path, number, class name]"
                where = f"{file}, {split!r}, entry {number}"
                raise ManifestError(complaint(where, wanted, shown(entry), "Correct the file"))
            yield split, number, entry[0], int(entry[1]), entry[2]


class SplitNames:
    """Class names by number; a number and a name belong together throughout."""

    def __init__(self, file: str) -> None:
        self.file = file
        self._names: dict[int, str] = {}

    def add(self, number: int, name: str, where: str) -> None:
        """Take note of a pair; raises ManifestError when the number had another name."""
        if self._names.setdefault(number, name) != name:
            found = f"{name!r} for number {number}, which was {self._names[number]!r} before"
            raise ManifestError(complaint(where, "one class name for each number", found, "Correct the file"))

    def in_order(self) -> tuple[str, ...]:
        """Return the names by number; raises ManifestError when two numbers share one."""
        twice = [name for name, count in Counter(self._names.values()).items() if count > 1]
        if twice:
            numbers = sorted(number for number, name in self._names.items() if name == twice[0])
            found = f"{twice[0]!r} for the numbers {numbers}"
            remedy = "Here a class is its name: rename one of the two"
            raise ManifestError(complaint(self.file, "a class name of its own for each number", found, remedy))
        return tuple(self._names[number] for number in sorted(self._names))


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, str) and value.isdigit())


def _split_file(at: Place) -> str | None:
    found = [at.only] if at.only else at.named("split_zhou_*.json")
    if len(found) > 1:
        raise DataError(complaint(at.name, "one split_zhou file", ", ".join(found), "Name the one to use"))
    return found[0] if found else None


def _read(at: Place, _options: Mapping[str, str]) -> Reading:
    file = _split_file(at)
    if file is None:
        raise DataError(complaint(at.name, "a split_zhou_*.json", "none", "Name the file"))
    where = at.where(file)
    entries = list(split_entries(where, parse_split(text_of(at, file), where)))
    names = SplitNames(where)
    for split, number, _, label, name in entries:
        names.add(label, name, f"{where}, {split!r}, entry {number}")
    classes = names.in_order()
    index = {name: row for row, name in enumerate(classes)}
    folder = at.folder_of((entry[2] for entry in entries), ("images/", ""))
    rows = [DataRow(folder + path, index[name], None, split) for split, _, path, _, name in entries]
    present, missing = keep_present(at, rows, file)
    remarks = (f"split and classes as in {file}",)
    return Reading(COOP.name, COOP.title, at.root, classes, present, missing, {}, remarks, "official")


COOP = register_reader(
    Reader(
        name="split_zhou",
        title="split file of CoOp and Dassl",
        files="split_zhou_*.json, pictures in images/ or the folder that holds them",
        detect=lambda at: _split_file(at) is not None,
        read=_read,
        official_split=True,
    )
)
