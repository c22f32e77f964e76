"""Reading pictures out of a zip without unpacking it.

Nothing is ever written, so an entry named `../x` could do no harm here; such an archive is refused
all the same, because it was made to harm whoever unpacks it, or is damaged.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from hybridcascade.data.messages import complaint, shown
from hybridcascade.data.trees import Tree, is_hidden, relative_name
from hybridcascade.errors import DataError

__all__ = ["MAX_ENTRY_BYTES", "ZipTree"]

MAX_ENTRY_BYTES = 1 << 30
"""Largest entry that is read, in bytes after decompression: a zip bomb is refused by its directory."""

_ENCRYPTED = 0x1


class ZipTree(Tree):
    """The files of a zip archive.

    Reading is safe with threads, with forked and with spawned workers: each process opens the archive
    for itself, because processes that share one file position read each other's bytes.

    Args:
        path: the archive.
        name: for messages; the path when None.

    Raises:
        DataError: not a zip, damaged, an entry that leaves the archive, or two entries of one name.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or str(path)
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        self._entries = self._read_directory()

    def files(self) -> list[str]:
        """Return the names of all files that are not hidden, sorted."""
        return sorted(name for name in self._entries if not is_hidden(name))

    def has(self, name: str) -> bool:
        """Tell whether a file of that name exists."""
        return name in self._entries

    def open(self, name: str) -> IO[bytes]:
        """Read a file into memory and return it as a stream.

        Raises:
            OSError: encrypted, damaged, too large, or compressed in a way Python cannot undo.
        """
        entry = self._entries[name]
        if entry.flag_bits & _ENCRYPTED:
            raise OSError("the archive entry is encrypted")
        if entry.file_size > MAX_ENTRY_BYTES:
            raise OSError(f"the archive entry has {entry.file_size:,} bytes, more than {MAX_ENTRY_BYTES:,}")
        try:
            return io.BytesIO(self._zip().read(entry))
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError) as error:
            raise OSError(f"damaged archive entry: {error}") from error

    def stamp(self, name: str) -> str:
        """Return size in bytes and CRC-32 of the content, from the directory of the archive."""
        entry = self._entries[name]
        return f"{entry.file_size}-{entry.CRC:08x}"

    def _zip(self) -> zipfile.ZipFile:
        if self._handle is None or self._handle[0] != os.getpid():
            self._handle = (os.getpid(), zipfile.ZipFile(self.path))
        return self._handle[1]

    def _read_directory(self) -> dict[str, zipfile.ZipInfo]:
        try:
            listed = self._zip().infolist()
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
            remedy = "The archive is damaged or incomplete; copy or download it again"
            raise DataError(complaint(self.name, "a zip archive", str(error) or "none", remedy)) from error
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in listed:
            name = relative_name(entry.filename)
            if name is None:
                remedy = "Do not unpack it; make the archive anew from the pictures"
                raise DataError(complaint(self.name, "names inside the archive", shown(entry.filename), remedy))
            if entry.is_dir():
                continue
            if name in entries:
                raise DataError(complaint(self.name, "each name once", f"{name!r} twice", "Make the archive anew"))
            entries[name] = entry
        return entries

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}
