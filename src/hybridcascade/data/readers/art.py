"""Abstract and ArtPhoto (Machajdik and Hanbury): votes in a quoted CSV, and labels in file names."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from hybridcascade.data.emotions import MIKELS8
from hybridcascade.data.messages import complaint, place, shown
from hybridcascade.data.readers.base import (
    DataRow,
    Place,
    Reader,
    Reading,
    keep_present,
    known_class,
    register_reader,
    text_of,
    winner,
)
from hybridcascade.errors import ManifestError

__all__ = ["ABSTRACT", "ARTPHOTO"]

_VOTES = "ABSTRACT_groundTruth.csv"
_FLAT = re.compile(r"^([a-z]+)_\d+\.\w+$", re.IGNORECASE)


def _bare(cell: str) -> str:
    return cell.strip().strip("'\"").strip()


def _votes_file(at: Place) -> str | None:
    found = [name for name in at.files if name.rpartition("/")[2].lower() == _VOTES.lower()]
    return found[0] if len(found) == 1 else None


def _read_abstract(at: Place, options: Mapping[str, str]) -> Reading:
    file = _votes_file(at)
    if file is None:
        raise ManifestError(complaint(at.name, f"one {_VOTES}", "none or several", "Check the folder"))
    name = at.where(file)
    lines = [cells for cells in csv.reader(io.StringIO(text_of(at, file), newline=""), quotechar="'") if any(cells)]
    header = [_bare(cell) for cell in (lines[0] if lines else [])]
    while header and not header[-1]:
        header.pop()
    if len(header) != 1 + len(MIKELS8.classes) or header[0]:
        wanted = "a header: an empty cell and the eight emotions, in single quotes"
        raise ManifestError(complaint(place(name, 1), wanted, shown(header), "Copy the file again"))
    classes = tuple(known_class(cell, MIKELS8.classes, place(name, 1)) for cell in header[1:])
    folder = file.rpartition("/")[0]
    rows: list[DataRow] = []
    ties = 0
    for number, cells in enumerate(lines[1:], start=2):
        votes = _numbers(cells[1 : len(header)])
        if votes is None or len(votes) != len(classes):
            wanted = "a file name in single quotes and eight votes, one of them above 0"
            raise ManifestError(complaint(place(name, number), wanted, shown(cells), "Correct the row"))
        label = winner(votes)
        ties += label is None
        if label is None and options["ties"] == "drop":
            continue
        rows.append(DataRow(f"{folder}/{_bare(cells[0])}".lstrip("/"), label, votes))
    present, missing = keep_present(at, rows, _VOTES)
    dropped = options["ties"] == "drop" and ties
    remarks = (f"{ties} pictures are ties" + (" and left out" if dropped else ": they have votes and no label"),)
    left_out = {"ties": ties} if dropped else {}
    return Reading(ABSTRACT.name, ABSTRACT.title, at.root, classes, present, missing, left_out, remarks)


def _numbers(cells: list[str]) -> tuple[float, ...] | None:
    try:
        votes = tuple(float(_bare(cell)) for cell in cells)
    except ValueError:
        return None
    return votes if all(0 <= vote < 1e6 for vote in votes) and sum(votes) > 0 else None


def _flat_class(name: str) -> str | None:
    found = _FLAT.match(PurePosixPath(name).name)
    return found[1].lower() if found else None


def _is_artphoto(at: Place) -> bool:
    """Pictures of one folder, each called after one of the eight emotions, with sad for sadness."""
    names = at.pictures()
    known = {*MIKELS8.classes, "sad"} - {"sadness"}
    found = {_flat_class(name) for name in names}
    return len(found) > 1 and found <= known and "sad" in found and len({n.rpartition("/")[0] for n in names}) == 1


def _read_artphoto(at: Place, _options: Mapping[str, str]) -> Reading:
    rows = []
    for name in at.pictures():
        written = _flat_class(name)
        label = known_class(written or name, MIKELS8.classes, f"{at.name}, {name}")
        rows.append(DataRow(name, MIKELS8.classes.index(label)))
    present, missing = keep_present(at, rows, "the pictures")
    remarks = ("labels are those of the uploaders, from the file names; sad is sadness",)
    return Reading(ARTPHOTO.name, ARTPHOTO.title, at.root, MIKELS8.classes, present, missing, {}, remarks)


ABSTRACT = register_reader(
    Reader(
        name="abstract",
        title="Abstract",
        files="ABSTRACT_groundTruth.csv, pictures beside it",
        detect=lambda at: _votes_file(at) is not None,
        read=_read_abstract,
        options={"ties": ("keep", "drop")},
    )
)
ARTPHOTO = register_reader(
    Reader(
        name="artphoto",
        title="ArtPhoto",
        files="one folder of <emotion>_<number>.jpg, sad for sadness",
        detect=_is_artphoto,
        read=_read_artphoto,
    )
)
