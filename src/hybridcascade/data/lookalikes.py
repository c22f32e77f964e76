"""Finding pictures that are the same to the eye: a small perceptual hash, compared in chunks.

The hash is 128 bits: on a 9 x 9 grey thumbnail, whether each pixel is darker than its right neighbour (64 bits) and
than the one below (64 bits). Pictures whose hashes are near are compared once more by a small colour thumbnail, for
plain pictures share their hash with all others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["MOST_BITS", "MOST_DIFFERENCE", "Lookalike", "Mark", "find_lookalikes", "mark_picture"]

MOST_BITS = 8
"""Pictures are alike when at most so many of the 128 bits differ, ..."""

MOST_DIFFERENCE = 10.0
"""... and when their thumbnails differ by at most so much on average, of 255."""

_CHUNK = 512


class Mark(NamedTuple):
    """What a picture is recognised by: hash, uint64 `[2]`; thumbnail, uint8 `[8, 8, 3]`."""

    bits: NDArray[np.uint64]
    thumb: NDArray[np.uint8]


class Lookalike(NamedTuple):
    """Two rows, the first below the second, and how many bits of their hashes differ."""

    first: int
    second: int
    bits: int


def mark_picture(image: Image.Image) -> Mark:
    """Return hash and thumbnail of an RGB picture."""
    small = image.resize((9, 9), Image.Resampling.BOX)
    grey = np.asarray(small.convert("L"), dtype=np.int16)
    sides = (grey[:8, :8] < grey[:8, 1:], grey[:8, :8] < grey[1:, :8])
    bits = np.concatenate([np.packbits(side).view(np.uint64) for side in sides])
    return Mark(bits, np.asarray(image.resize((8, 8), Image.Resampling.BOX), dtype=np.uint8))


def find_lookalikes(marks: list[Mark | None], most_bits: int = MOST_BITS) -> list[Lookalike]:
    """Return the pairs of rows that look alike, in order.

    Memory grows with the number of pictures, time with its square: 100,000 pictures take about a minute.

    Args:
        marks: one a row; None for a picture that could not be read.
        most_bits: 0..128.
    """
    rows = [row for row, mark in enumerate(marks) if mark is not None]
    if len(rows) < 2:
        return []
    kept = [mark for mark in marks if mark is not None]
    bits = np.stack([mark.bits for mark in kept])
    thumbs = np.stack([mark.thumb for mark in kept]).reshape(len(kept), -1).astype(np.int16)
    found: list[Lookalike] = []
    for start in range(0, len(kept), _CHUNK):
        part = bits[start : start + _CHUNK]
        # Rows before this chunk have met it already.
        apart = sum(np.bitwise_count(part[:, None, i] ^ bits[None, start:, i]).astype(np.uint8) for i in (0, 1))
        for left, right in np.argwhere(np.triu(np.asarray(apart) <= most_bits, k=1)).tolist():
            a, b = start + left, start + right
            if np.abs(thumbs[a] - thumbs[b]).mean() <= MOST_DIFFERENCE:
                found.append(Lookalike(rows[a], rows[b], int(np.asarray(apart)[left, right])))
    return found
