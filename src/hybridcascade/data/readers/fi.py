"""FI: eight folders of pictures, in which a removed picture was replaced by a placeholder, many times the same."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence

from hybridcascade.data.emotions import MIKELS8
from hybridcascade.data.layout import read_layout
from hybridcascade.data.readers.base import DataRow, Place, Reader, Reading, known_class, register_reader

__all__ = ["FI", "PLACEHOLDER_COPIES", "repeated_files"]

PLACEHOLDER_COPIES = 3
"""From so many files with the same bytes on, a picture counts as a placeholder."""

_FOLDERS = ("emotion_dataset", "fi")


def repeated_files(at: Place, names: Sequence[str], copies: int = PLACEHOLDER_COPIES) -> list[str]:
    """Return the files whose bytes occur in at least `copies` of them, sorted. Only files of one size are read."""
    by_size: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_size[at.tree.stamp(at.root + name)].append(name)
    found: list[str] = []
    for group in by_size.values():
        if len(group) < copies:
            continue
        by_content: dict[str, list[str]] = defaultdict(list)
        for name in group:
            with at.open(name) as stream:
                by_content[hashlib.sha256(stream.read()).hexdigest()].append(name)
        found += [name for same in by_content.values() if len(same) >= copies for name in same]
    return sorted(found)


def _class_folders(at: Place) -> set[str]:
    return {part.lower() for name in at.pictures() for part in (name.split("/")[-2:-1] or [""])}


def _is_fi(at: Place) -> bool:
    """Eight folders of Mikels' emotions below a folder that is called as the data set is."""
    above = [part.lower() for part in f"{at.name}/{at.root}".replace("\\", "/").split("/") if part]
    below = {name.split("/")[0].lower() for name in at.files if "/" in name}
    called = any(part in _FOLDERS for part in above[-2:]) or (len(below) == 1 and below <= set(_FOLDERS))
    return called and _class_folders(at) == set(MIKELS8.classes)


def _read(at: Place, _options: Mapping[str, str]) -> Reading:
    names = at.pictures()
    layout = read_layout(names)
    stand_ins = set(repeated_files(at, names))
    rows = [
        DataRow(name, MIKELS8.classes.index(known_class(name.split("/")[-2], MIKELS8.classes, name)), None, split)
        for name, split in zip(names, layout.splits, strict=True)
        if name not in stand_ins
    ]
    remarks = []
    if stand_ins:
        remarks.append(
            f"{len(stand_ins)} pictures are placeholders (the same bytes in {PLACEHOLDER_COPIES} files or more) and "
            "are left out"
        )
    has_split = all(row.split for row in rows)
    if has_split:
        remarks.append("the split is that of the folders; the data set was published without one")
    return Reading(
        FI.name, FI.title, at.root, MIKELS8.classes, tuple(rows), (),
        {"placeholder pictures": len(stand_ins)} if stand_ins else {}, tuple(remarks),
        "folders" if has_split else None, tuple(sorted(stand_ins)),
    )  # fmt: skip


FI = register_reader(
    Reader(
        name="fi",
        title="FI",
        files="emotion_dataset/<class>/ or FI/{train,val,test}/<class>/, Mikels' eight classes",
        detect=_is_fi,
        read=_read,
    )
)
