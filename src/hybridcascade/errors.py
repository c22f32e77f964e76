"""The error tree: every message says what was expected, what was found, where, and what to do.

All errors that a user can cause derive from `HybridCascadeError`, so one `except` catches them; each
also derives from the built-in a Python user would expect (`ValueError`, `OSError`), so code that knows
nothing of this package catches them too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BackboneError",
    "CheckpointError",
    "ClassListError",
    "DataError",
    "HybridCascadeError",
    "ManifestError",
    "OutputExistsError",
    "OutputPlaceError",
    "PictureError",
    "SettingsError",
    "TextError",
    "UnknownNameError",
    "did_you_mean",
]


class HybridCascadeError(Exception):
    """Root of every error this package raises on purpose."""


class SettingsError(HybridCascadeError, ValueError):
    """A setting, or a combination of settings, that cannot work (exit code 2)."""


class UnknownNameError(SettingsError):
    """A name that is in no list: a method, backbone, schedule, view or key.

    Attributes:
        name: what was written.
        valid: the names that exist.
    """

    def __init__(self, kind: str, name: str, valid: Iterable[str], hint: str = "") -> None:
        self.name = name
        self.valid = tuple(valid)
        near = did_you_mean(name, self.valid)
        message = f"unknown {kind} {name!r}.{near} Valid: {', '.join(self.valid)}."
        super().__init__(f"{message} {hint}".rstrip())


class DataError(HybridCascadeError, ValueError):
    """The data as a whole cannot be used (no picture, wrong kind of source)."""


class ManifestError(DataError):
    """A row or column of a manifest is wrong; the message names file, row and column."""


class PictureError(DataError):
    """One picture cannot be decoded, or is refused."""


class ClassListError(DataError):
    """The class list is empty, repeats itself, or does not fit the data."""


class TextError(DataError):
    """The texts (descriptions, templates) cannot be used with the classes."""


class BackboneError(HybridCascadeError, RuntimeError):
    """The CLIP weights cannot be loaded, or would give silently wrong numbers."""


class CheckpointError(HybridCascadeError, RuntimeError):
    """A saved model or checkpoint is missing, damaged, or of another kind."""


class OutputExistsError(HybridCascadeError, OSError):
    """The output already exists; nothing was overwritten."""


class OutputPlaceError(HybridCascadeError, OSError):
    """The place of the output cannot be written."""


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `" Did you mean 'x'?"` for the nearest valid name, or `""` when none is near.

    Args:
        name: what was written.
        valid: the names that exist.
    """
    near = difflib.get_close_matches(name.lower(), [v.lower() for v in valid], n=1, cutoff=0.5)
    originals = {v.lower(): v for v in valid}
    return f" Did you mean {originals[near[0]]!r}?" if near else ""
