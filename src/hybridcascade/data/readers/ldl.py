"""Flickr_LDL and Twitter_LDL: votes in a `ground_truth.txt` with blanks between, splits in a `*_config.mat`.

The order of the classes is that of the header, whatever it is. Without `ground_truth.txt` the `.mat` alone does
not say the order: then it must be said, with `@order=...`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

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
from hybridcascade.data.readers.mat import MatVotes, read_mat
from hybridcascade.errors import DataError, ManifestError, SettingsError

__all__ = ["FLICKR_LDL", "TWITTER_LDL"]

_TRUTH = "ground_truth.txt"
_COUNT = len(MIKELS8.classes)
_LOOKED_AT = 50  # pictures: one of them alone may have lost or gained a vote
_VOTERS = {"flickr_ldl": 11, "twitter_ldl": 8}
_ORDERS: Mapping[str, tuple[str, ...]] = {
    "positive_first": MIKELS8.classes,
    "alphabetical": tuple(sorted(MIKELS8.classes)),
}


class _Votes(NamedTuple):
    classes: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


def _header(line: str) -> list[str]:
    return line.split()


def _table(at: Place) -> _Votes:
    name = at.where(_TRUTH)
    lines = text_of(at, _TRUTH).splitlines()
    header = _header(lines[0] if lines else "")
    if len(header) != 1 + _COUNT:
        wanted = f"a header: images-name and the {_COUNT} emotions, with blanks between"
        raise ManifestError(complaint(place(name, 1), wanted, shown(lines[0] if lines else ""), "Copy the file again"))
    classes = tuple(known_class(cell, MIKELS8.classes, place(name, 1)) for cell in header[1:])
    if len(set(classes)) < _COUNT:
        raise ManifestError(complaint(place(name, 1), "each emotion once", shown(header[1:]), "Correct the header"))
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        cells = line.rsplit(maxsplit=_COUNT)  # a file name may hold blanks
        votes = _numbers(cells[1:]) if len(cells) == 1 + _COUNT else None
        if votes is None:
            wanted = f"a file name and {_COUNT} votes of 0 or above, one of them above 0"
            raise ManifestError(complaint(place(name, number), wanted, shown(line), "Correct the line"))
        rows.append((cells[0].strip(), votes))
    return _Votes(classes, tuple(rows))


def _numbers(cells: list[str]) -> tuple[float, ...] | None:
    try:
        votes = tuple(float(cell) for cell in cells)
    except ValueError:
        return None
    return votes if all(0 <= vote < 1e6 for vote in votes) and sum(votes) > 0 else None


def _is_ldl(at: Place, voters: int) -> bool:
    """The header names the eight emotions, and most of the first pictures have the votes of this data set."""
    if not at.has(_TRUTH):
        return False
    with at.open(_TRUTH) as stream:
        header, *lines = (stream.readline(4096).decode("utf-8-sig", errors="replace") for _ in range(1 + _LOOKED_AT))
    if "\t" in header.strip() or not _header(header)[:1] or _header(header)[0].lower() != "images-name":
        return False
    read = [_numbers(line.split()[-_COUNT:]) for line in lines if line.strip()]
    return 2 * sum(votes is not None and sum(votes) == voters for votes in read) > len(read)


def _mat(at: Place) -> tuple[str, MatVotes] | None:
    names = at.named("*_config.mat")
    if len(names) > 1:
        raise DataError(complaint(at.name, "one *_config.mat", ", ".join(names), "Keep the one of this data set"))
    if not names:
        return None
    with at.open(names[0]) as stream:
        return names[0], read_mat(stream, at.where(names[0]), _COUNT)


def _splits(mat: MatVotes, fold: int, where: str) -> dict[str, str]:
    if not mat.folds:
        raise DataError(complaint(where, "train_ind and test_ind", "neither", "Leave out split=official"))
    if not 1 <= fold <= len(mat.folds):
        raise SettingsError(f"{where} has the folds 1 to {len(mat.folds)}; got fold={fold}")
    train, test = mat.folds[fold - 1]
    return {mat.names[i]: "train" for i in train} | {mat.names[i]: "test" for i in test}


def _read(at: Place, options: Mapping[str, str], reader: Reader) -> Reading:
    remarks = []
    wants_mat = options["split"] == "official" or not at.has(_TRUTH)
    found = _mat(at) if wants_mat else None
    if wants_mat and found is None:
        wanted = f"{_TRUTH} with the votes" if not at.has(_TRUTH) else "a *_config.mat with the official folds"
        raise DataError(complaint(at.name, wanted, "none", "Load it, or leave out split=official"))
    if at.has(_TRUTH):
        votes = _table(at)
        remarks.append("order of the classes as in the header of ground_truth.txt")
    else:
        assert found is not None
        if options["order"] == "header":
            remedy = f"Put {_TRUTH} there, or say the order: --format {reader.name}@order={'|'.join(_ORDERS)}"
            raise DataError(complaint(at.where(found[0]), "the order of the classes", "votes without names", remedy))
        votes = _Votes(_ORDERS[options["order"]], tuple(zip(found[1].names, found[1].votes, strict=True)))
        remarks.append(f"order of the classes as said: {options['order']}")
    splits: dict[str, str] = {}
    if options["split"] == "official" and found is not None:
        splits = _splits(found[1], int(options["fold"]), at.where(found[0]))
        remarks.append(f"split: fold {options['fold']} of {found[0]}")
    if found is not None and found[1].transposed:
        remarks.append(f"the votes in {found[0]} stand with a class a row and were turned")
    sums = sorted({sum(row) for _, row in votes.rows})
    remarks.append("votes a picture: " + (f"{sums[0]:g}" if len(sums) == 1 else f"{sums[0]:g} to {sums[-1]:g}"))
    folder = at.folder_of((name for name, _ in votes.rows), ("images/", ""))
    rows = [DataRow(folder + name, winner(row), row, splits.get(name)) for name, row in votes.rows]
    present, missing = keep_present(at, rows, _TRUTH)
    source = f"official, fold {options['fold']}" if splits else None
    return Reading(reader.name, reader.title, at.root, votes.classes, present, missing, {}, tuple(remarks), source)


def _reader(name: str, title: str) -> Reader:
    made = Reader(
        name=name,
        title=title,
        files=f"ground_truth.txt (images-name and eight emotions, {_VOTERS[name]} votes a picture), images/",
        detect=lambda at: _is_ldl(at, _VOTERS[name]),
        read=lambda at, options: _read(at, options, made),
        options={
            "split": ("none", "official"),
            "fold": ("1", "2", "3", "4", "5"),
            "order": ("header", *_ORDERS),
        },
    )
    return register_reader(made)


FLICKR_LDL = _reader("flickr_ldl", "Flickr_LDL")
TWITTER_LDL = _reader("twitter_ldl", "Twitter_LDL")
