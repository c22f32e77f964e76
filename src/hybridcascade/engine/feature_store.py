"""Features of all training pictures, computed in one pass and kept: in memory, or in a file that is mapped into it.

A file is named by a hash of everything that decides its content (pictures, weights, precision, blocks, views,
preprocessing), so it can only save time and never change a result. It is a NumPy file with a footer of twelve
bytes, a mark and the CRC-32 of all before it: written beside its place and renamed, checked when it is opened,
and made anew when it is damaged.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybridcascade.engine.atomic import replacing
from hybridcascade.errors import DataError, SettingsError
from hybridcascade.types import ImageBatch

__all__ = ["IN_MEMORY_GB", "FeatureStore", "FeatureTable", "feature_key", "features_of"]

_log = logging.getLogger(__name__)

IN_MEMORY_GB = 2.0
"""Most that is kept in memory when there is no folder for a file, in 10**9 bytes."""

_GB = 10**9
_MARK = b"HCFEAT01"
_FOOTER = len(_MARK) + 4
_CHUNK = 1 << 24  # bytes read at once for a checksum
_STALE = 24 * 3600.0  # seconds after which a half-written file belongs to nobody

Fill = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives rows int64 `[B]` and their features `[B, V, F]`, batch by batch, every row once."""


def feature_key(parts: Mapping[str, Any]) -> str:
    """Return the name of the features that `parts` decide: SHA-256, hex.

    Args:
        parts: plain JSON values.
    """
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class FeatureStore:
    """Where features are kept, and how much of them.

    Attributes:
        folder: for the files; None keeps features in memory, when they are small.
        limit_gb: most that the features of one run may take, and all files of the folder together, in 10**9 bytes.
    """

    folder: Path | None = None
    limit_gb: float = 8.0

    def table(self, key: str, shape: tuple[int, int, int], dtype: torch.dtype, fill: Fill) -> FeatureTable:
        """Return the features of a key; nothing is computed before they are read.

        Args:
            key: of `feature_key`.
            shape: pictures N, views V, numbers a view F.
            dtype: float16 or float32.
            fill: computes them.

        Raises:
            SettingsError: they would be larger than allowed; the message says the size and what to do.
        """
        numbers = np.dtype(np.float16 if dtype == torch.float16 else np.float32)
        self._check_size(shape, numbers)
        return FeatureTable(self, key, shape, numbers, fill)

    def _check_size(self, shape: tuple[int, int, int], numbers: np.dtype[Any]) -> None:
        pictures, views, width = shape
        size = pictures * views * width * numbers.itemsize / _GB
        limit = self.limit_gb if self.folder is not None else min(self.limit_gb, IN_MEMORY_GB)
        if size <= limit:
            return
        what = f"{pictures} pictures x {views} views x {width} numbers x {numbers.itemsize} bytes = {size:.3g} GB"
        remedy = (
            "fewer views (--set teacher_views=1 --set predict_views=1), fewer blocks (--set plan=...), or --tune full"
        )
        if self.folder is None and size <= self.limit_gb:
            remedy = f"a folder for them (--feature_cache auto, or a path), {remedy}"
        else:
            remedy = f"a higher limit (--feature_gb {size * 1.1:.2g}), {remedy}"
        raise SettingsError(f"the stored features would take {what}, more than the {limit:g} GB allowed: take {remedy}")

    def path(self, key: str) -> Path | None:
        """Return the file of a key, whether it is there or not; None without a folder."""
        return None if self.folder is None else self.folder / f"{key}.npy"

    def make_room(self, size: int) -> None:
        """Remove the files used longest ago until `size` bytes more fit below the limit, and leftovers of killed runs.

        Args:
            size: bytes that will be written.

        Raises:
            SettingsError: the disk has no room for them.
        """
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".*.part.npy"):
            if _age(leftover) > _STALE:
                leftover.unlink(missing_ok=True)
        files = sorted((file for file in self.folder.glob("*.npy") if not file.name.startswith(".")), key=_age)
        while files and sum(_size(file) for file in files) + size > self.limit_gb * _GB:
            _remove(files.pop())
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise SettingsError(
                f"the stored features take {size / _GB:.3g} GB, and the disk of {self.folder} has {free / _GB:.3g} GB "
                "left: make room, or name a folder on another disk (--feature_cache FOLDER)"
            )


class FeatureTable:
    """Features of N pictures, made or opened when the first of them is read.

    Attributes:
        key: under which they are kept.
        shape: pictures N, views V, numbers a view F.
    """

    def __init__(
        self, store: FeatureStore, key: str, shape: tuple[int, int, int], numbers: np.dtype[Any], fill: Fill
    ) -> None:
        """See `FeatureStore.table`."""
        self.key, self.shape = key, shape
        self._store, self._numbers, self._fill = store, numbers, fill
        self._table: Tensor | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, index: Tensor) -> Tensor:
        """Return some pictures' features.

        Args:
            index: rows, int64 `[B]`.

        Returns:
            float32 `[B, V, F]`, on the CPU.
        """
        return self.table()[index].float()

    def table(self) -> Tensor:
        """Return all of them, `[N, V, F]`, in the dtype that they are stored in.

        Raises:
            DataError: features that are not finite, or rows missing.
            SettingsError: the disk has no room.
            OSError: writing failed; no half-written file is left.
        """
        if self._table is None:
            file = self._store.path(self.key)
            self._table = self._in_memory() if file is None else self._mapped(file)
        return self._table

    def _in_memory(self) -> Tensor:
        table = np.empty(self.shape, self._numbers)
        self._write(table)
        return torch.from_numpy(table)

    def _mapped(self, file: Path) -> Tensor:
        found = self._open(file)
        if found is None:
            self._store.make_room(int(np.prod(self.shape)) * self._numbers.itemsize)
            with replacing(file) as beside:
                table = np.lib.format.open_memmap(beside, mode="w+", dtype=self._numbers, shape=self.shape)
                self._write(table)
                table.flush()
                del table
                _seal(beside)
            found = self._open(file)
        if found is None:
            raise OSError(f"{file} was damaged while it was written: is the disk sound?")
        os.utime(file)  # used now: it is the last to go when room is needed
        return found

    def _write(self, table: NDArray[Any]) -> None:
        seen = np.zeros(self.shape[0], dtype=np.int64)
        for index, features in self._fill():
            with np.errstate(over="ignore"):  # told below
                place, values = index.cpu().numpy(), features.detach().cpu().numpy().astype(self._numbers)
            if not np.isfinite(values).all():
                raise DataError(
                    f"the tower gives features that are not finite in {self._numbers.name}, first in row "
                    f"{int(place[~np.isfinite(values).all(axis=(1, 2))][0])}; use --precision fp32"
                )
            table[place] = values
            seen[place] += 1
        if (seen != 1).any():
            row = int(np.flatnonzero(seen != 1)[0])
            raise DataError(f"expected features of every picture once, got row {row} {int(seen[row])} times")

    def _open(self, file: Path) -> Tensor | None:
        """Map a file, or say what is wrong with it and return None."""
        if not file.exists():
            return None
        wrong = _damage(file)
        if not wrong:
            # Copy on write: nothing reaches the file, and torch wants arrays that may be written to.
            table = np.lib.format.open_memmap(file, mode="c")
            if table.shape == self.shape and table.dtype == self._numbers:
                _log.info("features of %d pictures: from %s", len(self), file)
                return torch.from_numpy(table)
            wrong = f"it holds {table.dtype} {list(table.shape)}, expected {self._numbers} {list(self.shape)}"
        _log.warning("the stored features %s are damaged (%s); they are computed again", file, wrong)
        return None


def _seal(file: Path) -> None:
    with file.open("r+b") as stream:
        checksum = _checksum(stream, file.stat().st_size)
        stream.seek(0, os.SEEK_END)
        stream.write(_MARK + checksum.to_bytes(4, "little"))


def _damage(file: Path) -> str:
    """Return what is wrong with a sealed file; empty when nothing is."""
    with file.open("rb") as stream:
        length = file.stat().st_size - _FOOTER
        if length < 0:
            return f"{length + _FOOTER} bytes, too short"
        stream.seek(length)
        footer = stream.read(_FOOTER)
        if footer[: len(_MARK)] != _MARK:
            return "its end is missing"
        stream.seek(0)
        if _checksum(stream, length).to_bytes(4, "little") != footer[len(_MARK) :]:
            return "its checksum is another"
    return ""


def _checksum(stream: BinaryIO, length: int) -> int:
    value, left = 0, length
    while left > 0:
        part = stream.read(min(_CHUNK, left))
        if not part:
            break
        value, left = zlib.crc32(part, value), left - len(part)
    return value


def _age(file: Path) -> float:
    """Seconds since a file was used; a file that just went is the oldest."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return float("inf")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
        _log.info("removed the stored features %s: used longest ago", file)
    except PermissionError:  # Windows keeps a file that another process has mapped
        _log.info("kept the stored features %s: another process uses them", file)


def features_of(
    plain: Iterable[ImageBatch], compute: Callable[[Tensor], Tensor], device: torch.device
) -> Iterable[tuple[Tensor, Tensor]]:
    """Run `compute` over all pictures once, without gradients.

    Args:
        plain: all pictures in the plain view.
        compute: pictures `[B, 3, H, W]` to features `[B, V, F]`.
        device: where it computes.

    Yields:
        Rows and features of each batch.
    """
    for batch in plain:
        with torch.no_grad():
            features = compute(batch.images.to(device))
        yield batch.index, features
