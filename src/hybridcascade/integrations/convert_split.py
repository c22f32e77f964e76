"""CoOp's `split_zhou_*.json` as a manifest of ours: paths, class names and splits, row by row. Needs no torch."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridcascade.data.messages import complaint
from hybridcascade.data.readers.coop import SplitNames, parse_split, split_entries
from hybridcascade.engine.atomic import write_text
from hybridcascade.errors import ManifestError

__all__ = ["ConvertedSplit", "convert_split"]


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
    names = SplitNames(str(file))
    rows: list[tuple[str, str, str]] = []
    lost: list[str] = []
    seen: dict[str, str] = {}
    for split, number, written, label, name in split_entries(str(file), content):
        where = f"{file}, {split!r}, entry {number}"
        names.add(label, name, where)
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
    return ConvertedSplit(tuple(rows), names.in_order())


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return parse_split(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        found = error.strerror or str(error)
        raise ManifestError(complaint(str(path), "a split file", found, "Check the path")) from error
    except UnicodeDecodeError as error:
        raise ManifestError(complaint(str(path), "valid JSON", str(error), "Copy the file again")) from error


def _below(base: Path, written: str, home: Path, where: str) -> str:
    place = Path(os.path.normpath((base / written).resolve()))
    try:
        return place.relative_to(home).as_posix()
    except ValueError as error:
        remedy = "Write the manifest into a folder above the pictures (--out), or move the pictures"
        raise ManifestError(complaint(where, f"a path below {home}", repr(str(place)), remedy)) from error
