"""All readers: finding the one that fits a place, and reading with it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from hybridcascade.data.archives import ZipTree
from hybridcascade.data.messages import complaint
from hybridcascade.data.readers import art, artemis, coop, emoset, emotion6, ferplus, fi, ldl  # noqa: F401  (register)
from hybridcascade.data.readers.base import READERS, Place, Reader, Reading, checked_options, parse_format
from hybridcascade.data.readers.splits import parse_rule
from hybridcascade.data.trees import FolderTree, Tree
from hybridcascade.errors import DataError, SettingsError, UnknownNameError

__all__ = ["READERS", "check_format", "detect_reader", "read_dataset", "read_place", "with_rule"]

log = logging.getLogger(__name__)

AUTO, NONE = "auto", "none"


def check_format(text: str) -> None:
    """Raise `SettingsError` when `--format` cannot be: no such reader, option or value."""
    name, options = parse_format(text)
    if name not in (AUTO, NONE, *READERS):
        raise UnknownNameError("format", name, (AUTO, NONE, *READERS))
    if name in (AUTO, NONE) and options:
        raise SettingsError(f"--format {name} has no options; name the reader they are for, got {text!r}")
    if name in READERS:
        checked_options(READERS[name], options)


def detect_reader(place: Place) -> Reader | None:
    """Return the reader that recognises the files of a place, None where none does.

    Raises:
        DataError: two do; one has to be named.
    """
    found = [reader for reader in READERS.values() if reader.detect(place)]
    if len(found) > 1:
        names = ", ".join(reader.name for reader in found)
        raise DataError(complaint(place.name, "one known layout", names, "Name the one that is meant with --format"))
    return found[0] if found else None


def read_place(place: Place, form: str = AUTO, make_split: str | None = None) -> Reading | None:
    """Read a place with a named reader, or the one that recognises it.

    Args:
        place: folder or zip.
        form: `auto`, `none`, or a reader with its options, `emotion6@classes=6`.
        make_split: rule for a data set without an official split, such as `hash:0.8`.

    Returns:
        The rows; None where nothing is recognised, or with `none`.

    Raises:
        SettingsError: no such format, option or rule.
        DataError: the files are not as the layout has them, or there is an official split already.
    """
    check_format(form)
    name, options = parse_format(form)
    if name == NONE:
        return None
    reader = detect_reader(place) if name == AUTO else READERS[name]
    if reader is None:
        return None
    reading = reader.read(place, checked_options(reader, options))
    log.info("%s: read as %s (%s)", place.name, reading.title, reader.name)
    return with_rule(reading, make_split)


def with_rule(reading: Reading, make_split: str | None) -> Reading:
    """Return a reading with a split made by a rule.

    Raises:
        SettingsError: no such rule.
        DataError: the data set has a split already.
    """
    if make_split is None:
        return reading
    rule = parse_rule(make_split)
    if reading.split is not None:
        remedy = "Leave --make_split out: figures on another split cannot be compared"
        raise DataError(complaint(reading.title, "data without a split", f"its split ({reading.split})", remedy))
    parts = rule.of([row.path for row in reading.rows])
    rows = tuple(replace(row, split=part) for row, part in zip(reading.rows, parts, strict=True))
    remark = f"no official split is used; made by {rule}: SHA-256 of the picture's path"
    return replace(reading, rows=rows, split=str(rule), remarks=(*reading.remarks, remark))


def read_dataset(path: str | Path, form: str = AUTO, make_split: str | None = None) -> Reading | None:
    """Read a folder, a zip or a `split_zhou_*.json`; arguments and errors as in `read_place`."""
    place = Path(path)
    tree: Tree
    if place.suffix.lower() == ".json" and place.is_file():
        # Whoever names one file means it, whatever else lies beside it.
        form = "split_zhou" if form == AUTO else form
        return read_place(Place(FolderTree(place.parent), only=place.name), form, make_split)
    if place.is_file():
        tree = ZipTree(place)
    elif place.is_dir():
        tree = FolderTree(place)
    else:
        raise DataError(complaint(str(path), "a folder, a zip or a split file", "nothing", "Check the path"))
    return read_place(Place(tree), form, make_split)
