"""ArtEmis: one row an annotation; the votes of a painting are the counts of its annotations."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping

from hybridcascade.data.emotions import MIKELS8
from hybridcascade.data.messages import complaint, place
from hybridcascade.data.readers.base import (
    DataRow,
    Place,
    Reader,
    Reading,
    keep_present,
    known_class,
    register_reader,
    winner,
)
from hybridcascade.errors import DataError, ManifestError

__all__ = ["ARTEMIS"]

_FILE = "artemis_dataset_release_v0.csv"
_COLUMNS = ("art_style", "painting", "emotion")
_ELSE = "something else"
# As the data set is documented: positive ones, negative ones, then the ninth answer.
_CLASSES = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness", _ELSE)


def _count(at: Place) -> dict[tuple[str, str], Counter[str]]:
    """Annotations by painting; read row by row, for there are half a million of them."""
    name = at.where(_FILE)
    found: dict[tuple[str, str], Counter[str]] = {}
    emotions: dict[str, str] = {}
    try:
        with at.open(_FILE) as stream:
            sheet = csv.DictReader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
            lacking = [column for column in _COLUMNS if column not in (sheet.fieldnames or ())]
            if lacking:
                got = ", ".join(sheet.fieldnames or ()) or "none"
                wanted = f"the columns {', '.join(_COLUMNS)}"
                raise ManifestError(complaint(place(name, 1), wanted, got, "Copy the file again"))
            for number, row in enumerate(sheet, start=2):
                written = row["emotion"] or ""
                if written not in emotions:
                    emotions[written] = known_class(written, _CLASSES, place(name, number, "emotion"))
                key = (row["art_style"] or "", row["painting"] or "")
                found.setdefault(key, Counter())[emotions[written]] += 1
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ManifestError(complaint(name, "a CSV in UTF-8", str(error), "Copy the file again")) from error
    return found


def _read(at: Place, options: Mapping[str, str]) -> Reading:
    counts = _count(at)
    classes = _CLASSES if options["others"] == "keep" else MIKELS8.classes
    files = {key: f"{style}/{painting}.jpg" for key in counts for style, painting in (key,)}
    try:
        folder = at.folder_of(files.values(), ("wikiart/", ""))
    except DataError as error:
        wanted = "the paintings at wikiart/<art_style>/<painting>.jpg beside the table"
        raise DataError(complaint(at.name, wanted, "none of them", "Put WikiArt there, as wikiart/")) from error
    rows, without = [], 0
    for key, counter in counts.items():
        votes = tuple(float(counter[name]) for name in classes)
        if sum(votes) <= 0:
            without += 1
            continue
        facts = {"art_style": key[0], "annotations": str(counter.total())}
        rows.append(DataRow(folder + files[key], winner(votes), votes, None, None, facts))
    present, missing = keep_present(at, rows, _FILE)
    remarks = ["votes are counts of annotations"]
    if options["others"] == "drop":
        remarks.append("others=drop: 'something else' is no class")
    left_out = {"annotated with 'something else' alone": without} if without else {}
    return Reading(ARTEMIS.name, ARTEMIS.title, at.root, classes, present, missing, left_out, tuple(remarks))


ARTEMIS = register_reader(
    Reader(
        name="artemis",
        title="ArtEmis",
        files=f"{_FILE} and wikiart/<art_style>/<painting>.jpg",
        detect=lambda at: at.has(_FILE),
        read=_read,
        options={"others": ("keep", "drop")},
    )
)
