"""EmoSet-118K: `info.json`, `train.json`, `val.json`, `test.json`, pictures and annotations.

The class numbers are those of `info.json` (amusement 0, awe 1, ... not alphabetical). Entries of the split files
have four fields in the documentation (emotion, id, picture, annotation) and three in the released files (emotion,
picture, annotation): both are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hybridcascade.data.messages import complaint, shown
from hybridcascade.data.readers.base import DataRow, Place, Reader, Reading, keep_present, register_reader, text_of
from hybridcascade.errors import ManifestError, did_you_mean

__all__ = ["EMOSET"]

_INFO = "info.json"
_SPLITS = ("train", "val", "test")


def _json(at: Place, name: str) -> Any:
    try:
        return json.loads(text_of(at, name))
    except ValueError as error:
        raise ManifestError(complaint(at.where(name), "valid JSON", str(error), "Copy the file again")) from error


def _numbers(at: Place) -> dict[str, int]:
    """Class -> number, from the first of the forms that `info.json` may have it in."""
    info = _json(at, _INFO)
    for keys in (("emotion", "label2idx"), ("emotion",), ("label2idx",), ()):
        found = info
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        if isinstance(found, dict) and _is_numbering(list(found.values())):
            return found
    wanted = "the number of each emotion, 0 upwards, under 'emotion' and 'label2idx'"
    got = ", ".join(map(repr, info)) if isinstance(info, dict) else type(info).__name__
    remedy = "The order of the classes is not guessed: copy info.json of the data set"
    raise ManifestError(complaint(at.where(_INFO), wanted, got, remedy))


def _is_numbering(values: list[Any]) -> bool:
    return len(values) > 1 and all(type(v) is int for v in values) and sorted(values) == list(range(len(values)))


def _entry(entry: Any, numbers: Mapping[str, int], where: str) -> tuple[str, str, str]:
    """Return emotion, picture, annotation of an entry with three or four fields."""
    fits = isinstance(entry, list) and len(entry) in (3, 4) and all(isinstance(e, str) for e in (entry[0], *entry[-2:]))
    if not fits:
        wanted = "[emotion, picture, annotation] or [emotion, id, picture, annotation]"
        raise ManifestError(complaint(where, wanted, shown(entry), "Correct the file"))
    if entry[0] not in numbers:
        found = f"{entry[0]!r}.{did_you_mean(entry[0], numbers)}"
        raise ManifestError(complaint(where, f"an emotion of {_INFO}", found, "Correct the entry"))
    return entry[0], entry[-2], entry[-1]


def _attributes(at: Place, name: str) -> dict[str, str]:
    """Return the attributes of an annotation as text, lists with `; ` between."""
    if not at.has(name):
        return {}
    found = _json(at, name)
    if not isinstance(found, dict):
        raise ManifestError(complaint(at.where(name), "an object", shown(found), "Copy the file again"))
    pairs = ((key, "; ".join(map(str, v)) if isinstance(v, list) else str(v)) for key, v in found.items())
    return {key: value for key, value in pairs if key not in ("image_id", "emotion")}


def _read(at: Place, options: Mapping[str, str]) -> Reading:
    numbers = _numbers(at)
    rows: list[DataRow] = []
    without = 0
    for split in _SPLITS:
        file = f"{split}.json"
        if not at.has(file):
            continue
        entries = _json(at, file)
        if not isinstance(entries, list):
            raise ManifestError(complaint(at.where(file), "a list of entries", shown(entries), "Copy the file again"))
        for count, entry in enumerate(entries, start=1):
            emotion, picture, note = _entry(entry, numbers, f"{at.where(file)}, entry {count}")
            facts = {"annotation": note}
            if options["attributes"] == "read":
                found = _attributes(at, note)
                without += not found
                facts |= found
            rows.append(DataRow(picture, numbers[emotion], None, split, None, facts))
    present, missing = keep_present(at, rows, "the split files")
    remarks = ["class numbers as in info.json"]
    if options["attributes"] == "read":
        remarks.append(f"attributes were read; {without} pictures have no annotation")
    return Reading(
        EMOSET.name, EMOSET.title, at.root, tuple(sorted(numbers, key=numbers.__getitem__)), present, missing, {},
        tuple(remarks), "official",
    )  # fmt: skip


EMOSET = register_reader(
    Reader(
        name="emoset",
        title="EmoSet-118K",
        files="info.json, {train,val,test}.json and image/<class>/",
        detect=lambda at: at.has(_INFO) and any(at.has(f"{split}.json") for split in _SPLITS),
        read=_read,
        options={"attributes": ("names", "read")},
        official_split=True,
    )
)
