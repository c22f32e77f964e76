"""Splits made by a stated rule: a picture's part depends on its id alone, whatever else is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hybridcascade.data.shares import position_of
from hybridcascade.errors import SettingsError

__all__ = ["SplitRule", "parse_rule"]

_HOW = "hash:TRAIN or hash:TRAIN,VAL, such as hash:0.8 (the rest is test) or hash:0.7,0.1"


@dataclass(frozen=True)
class SplitRule:
    """`hash:TRAIN[,VAL]`: by the SHA-256 of the id, TRAIN of the pictures train, VAL validate, the rest test.

    Attributes:
        train: share, above 0 and below 1.
        val: share, 0 or above; train + val is below 1.
    """

    train: float
    val: float = 0.0

    def of(self, ids: Sequence[str]) -> list[str]:
        """Return the split of each id."""
        return [self._part(position_of(name)) for name in ids]

    def _part(self, position: float) -> str:
        if position < self.train:
            return "train"
        return "val" if position < self.train + self.val else "test"

    def __str__(self) -> str:
        return f"hash:{self.train:g}" + (f",{self.val:g}" if self.val else "")


def parse_rule(text: str) -> SplitRule:
    """Read a rule such as `hash:0.8` or `hash:0.7,0.1`.

    Raises:
        SettingsError: another form, or shares that are not above 0 and together below 1.
    """
    kind, colon, rest = text.partition(":")
    try:
        shares = [float(part) for part in rest.split(",")]
    except ValueError:
        shares = []
    fits = kind == "hash" and colon and 1 <= len(shares) <= 2 and all(0 < share < 1 for share in shares)
    if not fits or not sum(shares) < 1:
        raise SettingsError(f"expected a split as {_HOW}; got {text!r}")
    return SplitRule(*shares)
