"""Emotion6 and EmotionROI: a tab-separated `ground_truth.txt` with valence, arousal and a distribution.

The folder of a picture is the keyword it was searched with. Votes and keyword are two different things: the
votes' winner is the label here, the keyword is kept beside it and becomes the label only where asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from hybridcascade.data.emotions import EKMAN6, EKMAN6_NEUTRAL
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

__all__ = ["EMOTION6", "EMOTIONROI"]

_TRUTH = "ground_truth.txt"
_IMAGES = "images/"
_SPLITS = {"train": "training_testing_split/training.txt", "test": "training_testing_split/testing.txt"}


class _Truth(NamedTuple):
    columns: tuple[str, ...]
    rows: tuple[tuple[str, float, float, tuple[float, ...]], ...]


def _first_line(at: Place) -> str:
    with at.open(_TRUTH) as stream:
        return stream.readline(4096).decode("utf-8-sig", errors="replace")


def _has_truth(at: Place) -> bool:
    """A tab-separated header with valence and arousal marks these files; Flickr_LDL has the same file name."""
    if not at.has(_TRUTH):
        return False
    cells = [_bare(cell) for cell in _first_line(at).rstrip("\r\n").split("\t")]
    return "valence" in cells and "arousal" in cells


def _bare(cell: str) -> str:
    return cell.strip(" []'\"").lower().removeprefix("prob.").strip()


def _truth(at: Place) -> _Truth:
    lines = text_of(at, _TRUTH).splitlines()
    name = at.where(_TRUTH)
    header = [_bare(cell) for cell in (lines[0] if lines else "").rstrip("\t").split("\t")]
    if header[1:3] != ["valence", "arousal"] or len(header) < 5:
        wanted = "a header: file name, valence, arousal and a column for each emotion, with tabs between"
        raise ManifestError(complaint(place(name, 1), wanted, shown("\t".join(header)), "Copy the file again"))
    columns = tuple(known_class(cell, EKMAN6_NEUTRAL.classes, place(name, 1)) for cell in header[3:])
    if len(set(columns)) < len(columns):
        raise ManifestError(complaint(place(name, 1), "each emotion once", shown(header[3:]), "Correct the header"))
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.rstrip("\r\n\t ").split("\t")
        if len(cells) != len(header):
            wanted = f"{len(header)} cells with tabs between, as in the header"
            raise ManifestError(complaint(place(name, number), wanted, str(len(cells)), "Copy the file again"))
        numbers = [_number(cell, name, number) for cell in cells[1:]]
        if min(numbers[2:]) < 0 or sum(numbers[2:]) <= 0:
            wanted = "shares of 0 or above, one of them above 0"
            raise ManifestError(complaint(place(name, number), wanted, shown(numbers[2:]), "Correct the row"))
        rows.append((cells[0].strip().replace("\\", "/"), numbers[0], numbers[1], tuple(numbers[2:])))
    return _Truth(columns, tuple(rows))


def _number(cell: str, name: str, number: int) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ManifestError(complaint(place(name, number), "a number", shown(cell), "Correct the row"))
    return value


def _rows(truth: _Truth, options: Mapping[str, str]) -> tuple[tuple[str, ...], list[DataRow], int]:
    """Classes, rows, and how many had votes for classes that are left out alone."""
    keyword_only = options["label"] == "keyword"
    six = options["classes"] == "6" or keyword_only
    classes = tuple(name for name in truth.columns if not six or name in EKMAN6.classes)
    kept = [truth.columns.index(name) for name in classes]
    rows, bare = [], 0
    for name, valence, arousal, shares in truth.rows:
        votes = tuple(shares[i] for i in kept)
        keyword = name.split("/")[0].lower()
        facts = {"valence": f"{valence:g}", "arousal": f"{arousal:g}"}
        if keyword_only:
            label = classes.index(known_class(keyword, classes, f"{_TRUTH}, {name}"))
            rows.append(DataRow(_IMAGES + name, label, None, None, keyword, facts))
        elif sum(votes) <= 0:
            bare += 1
        else:
            rows.append(DataRow(_IMAGES + name, winner(votes), votes, None, keyword, facts))
    return classes, rows, bare


def _reading(at: Place, options: Mapping[str, str], reader: Reader, splits: Mapping[str, str]) -> Reading:
    classes, rows, bare = _rows(_truth(at), options)
    if splits:
        rows = [DataRow(row.path, row.label, row.votes, splits.get(row.path), row.keyword, row.facts) for row in rows]
    present, missing = keep_present(at, rows, _TRUTH)
    remarks = ["the folder is the keyword of the search, not a label; the label is the emotion with most votes"]
    if options["label"] == "keyword":
        remarks = ["label=keyword: the labels are the keywords of the search; the votes are not read"]
    elif options["classes"] == "6":
        remarks.append("classes=6: neutral is left out, the other shares count in proportion")
    left_out = {"votes for neutral alone": bare} if bare else {}
    source = "official" if splits else None
    return Reading(reader.name, reader.title, at.root, classes, present, missing, left_out, tuple(remarks), source)


def _read_emotion6(at: Place, options: Mapping[str, str]) -> Reading:
    return _reading(at, options, EMOTION6, {})


def _read_emotionroi(at: Place, options: Mapping[str, str]) -> Reading:
    splits: dict[str, str] = {}
    for split, file in _SPLITS.items():
        for number, line in enumerate(text_of(at, file).splitlines(), start=1):
            if not (name := line.strip().replace("\\", "/").removeprefix(_IMAGES)):
                continue
            if splits.setdefault(_IMAGES + name, split) != split:
                found = f"{name!r} in both"
                where = place(at.where(file), number, unit="line")
                raise ManifestError(complaint(where, "each picture in one split", found, "Remove one of the two"))
    return _reading(at, options, EMOTIONROI, splits)


_OPTIONS = {"classes": ("7", "6"), "label": ("votes", "keyword")}

EMOTION6 = register_reader(
    Reader(
        name="emotion6",
        title="Emotion6",
        files="ground_truth.txt with tabs (file, valence, arousal, emotions) and images/<keyword>/",
        detect=lambda at: _has_truth(at) and not any(map(at.has, _SPLITS.values())),
        read=_read_emotion6,
        options=_OPTIONS,
    )
)
EMOTIONROI = register_reader(
    Reader(
        name="emotionroi",
        title="EmotionROI",
        files="as emotion6, and training_testing_split/training.txt and testing.txt",
        detect=lambda at: _has_truth(at) and all(map(at.has, _SPLITS.values())),
        read=_read_emotionroi,
        options=_OPTIONS,
        official_split=True,
    )
)
