"""Published data sets as picture sources: from the rows of a reader to samples and pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from hybridcascade.data.images import MAX_PIXELS
from hybridcascade.data.messages import complaint
from hybridcascade.data.pictures import PictureSource, Sample, StoredPicture
from hybridcascade.data.readers.base import Place, Reading
from hybridcascade.data.readers.catalogue import AUTO, read_place
from hybridcascade.data.readers.splits import parse_rule
from hybridcascade.errors import ClassListError, DataError, did_you_mean

__all__ = ["open_published", "published_source", "split_by_rule"]

log = logging.getLogger(__name__)


def open_published(
    place: Place, form: str = AUTO, classes: Sequence[str] | None = None, max_pixels: int = MAX_PIXELS
) -> PictureSource | None:
    """Open a place with the reader that is named or that recognises it; None where none does.

    Args:
        place: folder or zip.
        form: `auto`, or a reader with its options.
        classes: what labels must be; None takes those of the data set.
        max_pixels: pictures with more pixels are refused when they are opened.

    Raises:
        SettingsError: no such reader.
        DataError: the files are not as the layout has them.
        ClassListError: a class of the data set is none of `classes`.
    """
    reading = read_place(place, form)
    return None if reading is None else published_source(place, reading, classes, max_pixels)


def published_source(
    place: Place, reading: Reading, classes: Sequence[str] | None = None, max_pixels: int = MAX_PIXELS
) -> PictureSource:
    """Turn a reading into a source; ids are the paths below the root of the data set.

    Raises:
        ClassListError: a class of the data set is none of `classes`.
    """
    for name in reading.classes if classes is not None else ():
        if name not in (classes or ()):
            found = f"{name!r} in {reading.title}.{did_you_mean(name, classes or ())}"
            remedy = "Use the classes of the data set, or rename them in a manifest"
            expected = f"only the classes {', '.join(classes or ())}"
            raise ClassListError(complaint(place.name, expected, found, remedy))
    if reading.missing:
        listed = len(reading.rows) + len(reading.missing)
        first = reading.missing[0]
        log.warning(
            "%s: %d of %d listed pictures are not there, first %s", place.name, len(reading.missing), listed, first
        )
    for why, count in reading.left_out.items():
        log.warning("%s: %d left out: %s", place.name, count, why)
    samples = [Sample(row.path, row.label, row.votes, row.split) for row in reading.rows]
    pictures = [StoredPicture(place.tree, reading.root + row.path, max_pixels) for row in reading.rows]
    return PictureSource(samples, pictures, reading.classes, place.name)


def split_by_rule(source: PictureSource, rule: str) -> PictureSource:
    """Return a source whose pictures are divided by a stated rule, such as `hash:0.8`.

    Raises:
        SettingsError: no such rule.
        DataError: a picture has a split already.
    """
    parts = parse_rule(rule).of(source.ids)
    if present := sorted({sample.split for sample in source.samples if sample.split is not None}):
        remedy = "Leave --make_split out: figures on another split cannot be compared"
        raise DataError(complaint(source.name, "data without a split", f"the splits {', '.join(present)}", remedy))
    divided = source.take(range(len(source)))
    divided.samples = tuple(replace(s, split=part) for s, part in zip(source.samples, parts, strict=True))
    return divided
