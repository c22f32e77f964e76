"""Files that are whole or not there: written beside their place, flushed to the disk, renamed.

A reader sees the old file or the new one, never a part. When writing fails (a full disk, a killed
process) the old file stays. Needs no torch, so that light commands can use it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from hybridcascade.errors import OutputPlaceError

__all__ = ["make_folder", "open_replacing", "remove_leftovers", "replacing", "write_bytes", "write_json", "write_text"]

_SUFFIX = ".part"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_RENAME_TRIES = 20  # Windows refuses to replace a file that a reader has open; readers are done soon
_RENAME_WAIT = 0.05  # seconds


def make_folder(path: str | Path) -> None:
    """Make a folder and its parents, where they are missing.

    Raises:
        OutputPlaceError: it cannot be made; the message says why and what to do.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise OutputPlaceError(
            f"expected a folder at {str(path)!r}, or a place to make one, found: {error.strerror or error}. Name a "
            "folder where you may write"
        ) from error


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to, and put it in the place of `path` when the block ends well.

    For writers that want a path (data frames, plots). The temporary file is in the same folder, because
    only there is a rename atomic, and keeps the ending, because writers choose their format by it.

    Args:
        path: the file to write or replace; its folder is made when missing. A link is followed.

    Yields:
        The path of the temporary file, which does not exist yet.

    Raises:
        OutputPlaceError: nothing can be written at this place.
        OSError: writing failed; for a full disk the message says so and names `path`.
            The file that was at `path` is unchanged and the temporary file is removed.
    """
    target = Path(os.path.realpath(path))
    make_folder(target.parent)
    beside = target.with_name(f".{target.stem}.{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}{target.suffix}")
    try:
        yield beside
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        _rename(beside, target)
    except OSError as error:
        if error.errno in _FULL:
            text = f"{os.strerror(error.errno)}: could not save; what was there before is unchanged"
            raise OSError(error.errno, text, str(path)) from error
        if beside in map(Path, filter(None, (error.filename, error.filename2))):
            raise OutputPlaceError(
                f"expected a file that can be written at {str(path)!r}, found: {error.strerror}. Name a file in a "
                "folder where you may write"
            ) from error
        raise
    finally:
        with suppress(OSError):  # what failed before is what to tell
            beside.unlink(missing_ok=True)
    _sync_folder(target.parent)


@contextmanager
def open_replacing(path: str | Path) -> Iterator[BinaryIO]:
    """As `replacing`, but give an open binary file.

    Args:
        path: the file to write or replace.

    Yields:
        The file to write into.

    Raises:
        OSError: writing failed; see `replacing`.
    """
    with replacing(path) as beside, beside.open("xb") as file:
        yield file


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all.

    Args:
        path: the file to write or replace.
        data: its new content.

    Raises:
        OSError: writing failed; the old file is unchanged.
    """
    with open_replacing(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 whole or not at all.

    Args:
        path: the file to write or replace.
        text: its new content.

    Raises:
        OSError: writing failed; the old file is unchanged.
    """
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all.

    Args:
        path: the file to write or replace.
        value: what `json.dumps` takes; nothing is written when it refuses.

    Raises:
        TypeError: `value` holds something JSON has no word for.
        OSError: writing failed; the old file is unchanged.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Remove temporary files that killed writers left in `folder`.

    Args:
        folder: where to look (not below); may be missing. No writer may be at work in it.

    Returns:
        The removed files.
    """
    left = [p for p in Path(folder).glob(f".*{_SUFFIX}*") if p.is_file()]
    for path in left:
        path.unlink(missing_ok=True)
    return left


def _rename(beside: Path, target: Path) -> None:
    for attempt in range(_RENAME_TRIES):
        try:
            os.replace(beside, target)
        except PermissionError:
            if os.name != "nt" or attempt == _RENAME_TRIES - 1:
                raise
            time.sleep(_RENAME_WAIT)
        else:
            return


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut, where the system lets a folder be opened."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems cannot
            raise
    finally:
        os.close(handle)
