"""CoOp's `split_zhou_*.json` as a manifest of ours: paths, class names and splits, row by row. Needs no torch."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridcascade.data.messages import complaint, shown
from hybridcascade.engine.atomic import write_text
from hybridcascade.errors import ManifestError

__all__ = ["ConvertedSplit", "convert_split"]

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ConvertedSplit:
    """A manifest made from a split file.

    Attributes:
        rows: path (below the manifest's folder), class name and split of each picture.
        classes: class names in the order of the split file's numbers.
    """

    rows: tuple[tuple[str, str, str], ...]
    classes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Pictures of each split."""
        return dict(Counter(split for _, _, split in self.rows))

    def text(self) -> str:
        """Return the manifest as CSV."""
        sheet = io.StringIO()
        writer = csv.writer(sheet, lineterminator="\n")
        writer.writerows([("path", "label", "split"), *self.rows])
        return sheet.getvalue()

    def save(self, manifest: str | Path, classes: str | Path | None = None) -> None:
        """Write the manifest, and where asked the class names, a name a line."""
        write_text(manifest, self.text())
        if classes is not None:
            write_text(classes, "".join(f"{name}\n" for name in self.classes))


def convert_split(file: str | Path, images: str | Path, manifest: str | Path) -> ConvertedSplit:
    """Convert `{"train": [[path, number, class name], ...], "val": ..., "test": ...}`.

    Class names are kept as they are, underscores included: the split file knows no others. A class is
    its name; its number only gives the order of `classes`.

    Args:
        file: the JSON file.
        images: folder that its paths are relative to (`images` beside it, for most of CoOp's data sets).
        manifest: where the manifest will be; the pictures must lie below its folder.

    Raises:
        ManifestError: the file is not of that kind, a picture is missing or twice there, a path leaves the
            folder, or a number and a class name do not belong together throughout.
    """
    content = _read(Path(file))
    base, home = Path(images), Path(manifest).resolve().parent
    if not base.is_dir():
        raise ManifestError(complaint(str(images), "the folder of the pictures", "nothing", "Name it with --images"))
    names: dict[int, str] = {}
    rows: list[tuple[str, str, str]] = []
    lost: list[str] = []
    seen: dict[str, str] = {}
    for split, number, written, label, name in _entries(str(file), content):
        where = f"{file}, {split!r}, entry {number}"
        if names.setdefault(label, name) != name:
            found = f"{name!r} for number {label}, which was {names[label]!r} before"
            raise ManifestError(complaint(where, "one class name for each number", found, "Correct the file"))
        if written in seen:
            found = f"{written!r}, already in {seen[written]!r}"
            raise ManifestError(complaint(where, "each picture once", found, "Remove one of the two"))
        seen[written] = split
        if not (base / written).is_file():
            lost.append(written)
        rows.append((_below(base, written, home, where), name, split))
    if lost:
        found = f"{len(lost)} of {len(rows)} missing, first {lost[0]!r}"
        raise ManifestError(
            complaint(str(base), "every picture of the split", found, "Check --images, or load the data")
        )
    _check_names(str(file), names)
    return ConvertedSplit(tuple(rows), tuple(names[number] for number in sorted(names)))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        found = error.strerror or str(error)
        raise ManifestError(complaint(str(path), "a split file", found, "Check the path")) from error
    except ValueError as error:
        raise ManifestError(complaint(str(path), "valid JSON", str(error), "Copy the file again")) from error
    if not isinstance(content, dict) or not content or not set(content) <= set(_SPLITS):
        found = f"the keys {', '.join(map(repr, content))}" if isinstance(content, dict) else type(content).__name__
        wanted = "the keys 'train', 'val', 'test' with lists of [path, number, class name]"
        raise ManifestError(complaint(str(path), wanted, found, "Give a split_zhou file"))
    return content


def _entries(file: str, content: Mapping[str, Any]) -> Iterator[tuple[str, int, str, int, str]]:
    for split, entries in content.items():
        for number, entry in enumerate(entries, start=1):
            fits = isinstance(entry, list) and len(entry) == 3
            if not fits or not isinstance(entry[0], str) or not isinstance(entry[2], str) or not _is_number(entry[1]):
                wanted = "[path, number, class name]"
                where = f"{file}, {split!r}, entry {number}"
                raise ManifestError(complaint(where, wanted, shown(entry), "Correct the file"))
            yield split, number, entry[0], int(entry[1]), entry[2]


def _is_number(value: object) -> bool:
    return type(value) is int or (isinstance(value, str) and value.isdigit())


def _below(base: Path, written: str, home: Path, where: str) -> str:
    place = Path(os.path.normpath((base / written).resolve()))
    try:
        return place.relative_to(home).as_posix()
    except ValueError as error:
        remedy = "Write the manifest into a folder above the pictures (--out), or move the pictures"
        raise ManifestError(complaint(where, f"a path below {home}", repr(str(place)), remedy)) from error


def _check_names(file: str, names: Mapping[int, str]) -> None:
    twice = [name for name, count in Counter(names.values()).items() if count > 1]
    if twice:
        numbers = sorted(number for number, name in names.items() if name == twice[0])
        found = f"{twice[0]!r} for the numbers {numbers}"
        remedy = "Here a class is its name: rename one of the two"
        raise ManifestError(complaint(file, "a class name of its own for each number", found, remedy))
