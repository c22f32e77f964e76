"""Where pictures lie: a folder, or (in `archives`) a zip. Both answer the same four questions.

A name inside a tree is a relative path with `/` on every system; it is the sample id.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import IO

from hybridcascade.data.messages import complaint
from hybridcascade.errors import DataError

__all__ = ["PICTURE_ENDINGS", "FolderTree", "Tree", "endings", "is_hidden", "is_picture", "relative_name"]

PICTURE_ENDINGS = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".bmp",
        ".dib",
        ".gif",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".jp2",
    }
)
"""Endings (lower case) of the files that count as pictures when a folder or zip is listed."""

_CLUTTER = frozenset({"__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "@eadir"})


def is_picture(name: str) -> bool:
    """Tell by the ending whether a file is meant as a picture."""
    return os.path.splitext(name)[1].lower() in PICTURE_ENDINGS


def is_hidden(name: str) -> bool:
    """Tell whether any part of a relative path is hidden (`.x`) or what systems leave behind (`Thumbs.db`)."""
    return any(part.startswith(".") or part.lower() in _CLUTTER for part in name.split("/"))


def relative_name(written: str) -> str | None:
    r"""Return a path as the relative name it stands for, or None when it leaves its root.

    Args:
        written: with `/` or `\`, as people on Windows write manifests.

    >>> relative_name("a\\b.jpg"), relative_name("./a/../b.jpg"), relative_name("../b.jpg")
    ('a/b.jpg', 'b.jpg', None)
    """
    text = written.replace("\\", "/")
    if text.startswith("/") or "\0" in text or PureWindowsPath(text).drive:
        return None
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            if not parts:
                return None
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts) or None


class Tree(ABC):
    """A place that holds pictures and perhaps a manifest.

    Attributes:
        name: as the user knows it, for messages.
    """

    name: str

    @abstractmethod
    def files(self) -> list[str]:
        """Return the names of all files that are not hidden, sorted."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Tell whether a file of that name exists."""

    @abstractmethod
    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading; the stream can seek.

        Raises:
            OSError: it cannot be read.
        """

    @abstractmethod
    def stamp(self, name: str) -> str:
        """Return what tells one state of a file from another without reading it."""

    def modified(self, name: str) -> str:
        """Return when a file was last written, where `stamp` does not see its content; empty where it does."""
        return ""

    def contains(self, name: str) -> bool:
        """Tell whether a name really lies inside this tree (a link may lead out of a folder)."""
        return True


class FolderTree(Tree):
    """Files below a folder. Links inside it are followed when it is listed: whoever made them meant them.

    Args:
        root: the folder.
        name: for messages; the folder's path when None.
    """

    def __init__(self, root: Path, name: str | None = None) -> None:
        self.root = root
        self.name = name or str(root)
        self._inside: dict[str, bool] = {}

    def files(self) -> list[str]:
        """Return the names of all files that are not hidden, sorted."""
        found: list[str] = []
        above: dict[str, frozenset[str]] = {}
        for folder, below, names in os.walk(self.root, followlinks=True, onerror=_refuse):
            # A link back to a folder on the way here would go round for ever.
            real = os.path.realpath(folder)
            way = above.get(os.path.dirname(folder), frozenset())
            if real in way:
                below.clear()
                continue
            above[folder] = way | {real}
            prefix = Path(folder).relative_to(self.root).as_posix()
            start = "" if prefix == "." else f"{prefix}/"
            below[:] = sorted(part for part in below if not is_hidden(part))
            found.extend(start + file for file in names if not is_hidden(file))
        return sorted(found)

    def has(self, name: str) -> bool:
        """Tell whether a file of that name exists."""
        return (self.root / name).is_file()

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading."""
        return (self.root / name).open("rb")

    def stamp(self, name: str) -> str:
        """Return the size in bytes: it survives copying, unlike a date."""
        try:
            return str((self.root / name).stat().st_size)
        except OSError:
            return "missing"

    def modified(self, name: str) -> str:
        """Return the date of a file in nanoseconds."""
        try:
            return str((self.root / name).stat().st_mtime_ns)
        except OSError:
            return "missing"

    def contains(self, name: str) -> bool:
        """Tell whether a name, links resolved, lies inside the folder."""
        path = self.root / name
        folder = str(path.parent)
        if folder not in self._inside:
            self._inside[folder] = self._resolves_inside(path.parent)
        if path.is_symlink():
            return self._resolves_inside(path)
        return self._inside[folder]

    def _resolves_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.root.resolve())


def _refuse(error: OSError) -> None:
    found = error.strerror or str(error)
    message = complaint(str(error.filename), "a folder that can be listed", found, "Check its permissions")
    raise DataError(message) from error


def endings(names: Iterable[str]) -> str:
    """Count the endings of files, for a message: `3 .heic, 1 .txt`, or `no file`."""
    counts: dict[str, int] = {}
    for name in names:
        ending = os.path.splitext(name)[1].lower() or "without ending"
        counts[ending] = counts.get(ending, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    return ", ".join(f"{count} {ending}" for ending, count in ranked) or "no file"
