"""Stable parts of a data set: which part a picture is in depends on its id alone, not on the other pictures."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hybridcascade.data.messages import complaint
from hybridcascade.errors import DataError

if TYPE_CHECKING:  # the readers, which use `position_of`, need no torch
    from hybridcascade.data.pictures import PictureSource

__all__ = ["position_of", "take_share"]


def position_of(sample_id: str) -> float:
    """Return a picture's fixed place in 0..1 (below 1), spread evenly over ids (SHA-256 of the id)."""
    return int.from_bytes(hashlib.sha256(sample_id.encode()).digest()[:6]) / 2**48


def take_share(source: PictureSource, start: float, end: float) -> PictureSource:
    """Return the pictures whose place is at least `start` and below `end`, in their order.

    Shares that do not overlap never hold the same picture, whatever is added or removed later.

    Args:
        source: N pictures.
        start: 0..1.
        end: 0..1, above `start`.

    Raises:
        DataError: `start` and `end` are not 0 <= start < end <= 1, or no picture lies between them.
    """
    if not 0.0 <= start < end <= 1.0:
        raise DataError(
            complaint(f"a share of {source.name}", "0 <= start < end <= 1", f"{start}, {end}", "Correct the share")
        )
    rows = [row for row, name in enumerate(source.ids) if start <= position_of(name) < end]
    if not rows:
        found = f"none of {len(source)}"
        raise DataError(
            complaint(f"{source.name}, share {start}..{end}", "at least one picture", found, "Widen the share")
        )
    return source.take(rows)
