"""FER+: `fer2013new.csv` with ten votes a face, beside the faces as its own script writes them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import PurePosixPath

from hybridcascade.data.emotions import FERPLUS8
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

__all__ = ["FERPLUS"]

_FILE = "fer2013new.csv"
_USAGE = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_OTHERS = ("unknown", "NF")


def _read(at: Place, _options: Mapping[str, str]) -> Reading:
    name = at.where(_FILE)
    sheet = csv.reader(io.StringIO(text_of(at, _FILE), newline=""))
    header = [cell.strip() for cell in next(sheet, [])]
    if header[:2] != ["Usage", "Image name"] or header[-2:] != list(_OTHERS):
        wanted = "the columns Usage, Image name, the emotions, unknown, NF"
        raise ManifestError(complaint(place(name, 1), wanted, shown(header), "Copy the file again"))
    classes = tuple(known_class(cell, FERPLUS8.classes, place(name, 1)) for cell in header[2:-2])
    folders = {PurePosixPath(file).name: file for file in at.pictures()}
    left_out = {"no face (NF)": 0, "no vote for an emotion": 0}
    rows, unsure = [], 0
    for number, cells in enumerate(sheet, start=2):
        if not any(cell.strip() for cell in cells):
            continue
        usage, file, votes = _row(cells, len(header), place(name, number))
        if not file:
            left_out["no face (NF)"] += 1
        elif sum(votes[:-2]) <= 0:
            left_out["no vote for an emotion"] += 1
        else:
            unsure += max(votes[-2:]) >= max(votes[:-2])
            facts = {"votes_unknown": f"{votes[-2]:g}", "votes_nf": f"{votes[-1]:g}"}
            rows.append(DataRow(folders.get(file, file), winner(votes[:-2]), votes[:-2], _USAGE[usage], None, facts))
    present, missing = keep_present(at, rows, _FILE)
    remarks = [
        "Training is train, PublicTest val, PrivateTest test",
        f"{unsure} faces have as many votes for unknown or no face as for any emotion; they are kept",
    ]
    gone = {why: count for why, count in left_out.items() if count}
    return Reading(FERPLUS.name, FERPLUS.title, at.root, classes, present, missing, gone, tuple(remarks), "official")


def _row(cells: list[str], width: int, where: str) -> tuple[str, str, tuple[float, ...]]:
    usage, file = (cell.strip() for cell in [*cells, "", ""][:2])
    try:
        votes = tuple(float(cell) for cell in cells[2:])
    except ValueError:
        votes = ()
    if len(cells) != width or usage not in _USAGE or not votes or min(votes) < 0:
        wanted = f"one of {', '.join(_USAGE)}, a file name and {width - 2} votes"
        raise ManifestError(complaint(where, wanted, shown(cells), "Correct the row"))
    return usage, file, votes


FERPLUS = register_reader(
    Reader(
        name="ferplus",
        title="FER+",
        files=f"{_FILE} and the faces as .png (FER2013Train, FER2013Valid, FER2013Test)",
        detect=lambda at: at.has(_FILE),
        read=_read,
        official_split=True,
    )
)
