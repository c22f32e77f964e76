"""The store of results: one JSON line a finished row, appended and flushed to the disk. Needs no torch.

A row is filed under a key that is a hash of everything that decides its figures (arena, method, settings, phases,
seed, version of the package). An edited recipe has other keys, so rows never mix; a killed run leaves whole lines
and at most one torn one, which is dropped and done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridcascade.engine.atomic import make_folder
from hybridcascade.errors import CheckpointError

__all__ = ["ResultStore", "row_key"]

logger = logging.getLogger(__name__)


def row_key(content: Mapping[str, Any]) -> str:
    """Return the key of a row: 32 hex digits of the SHA-256 of its content in canonical JSON.

    Args:
        content: plain values (tuples count as lists); every number that decides the result must be in it.

    Raises:
        TypeError: a value that JSON has no word for.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class ResultStore:
    """Finished rows in a JSON-lines file that only grows.

    Args:
        path: the file; made with its folder at the first `add`. A torn last line is cut off here.

    Raises:
        CheckpointError: the file is no store of results.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the row filed under `key`, or None."""
        return self._rows.get(key)

    def add(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """Append a row; when this returns, the row is on the disk.

        Args:
            key: from `row_key`.
            row: plain values for JSON; a number that is not finite becomes null.

        Returns:
            The row as a later run reads it.

        Raises:
            ValueError: there is a row under this key already.
            OSError: it could not be written.
        """
        if key in self._rows:
            raise ValueError(f"{self.path} has a row under {key} already")
        line = json.dumps({"key": key, **_finite(row)}, ensure_ascii=False, allow_nan=False) + "\n"
        make_folder(self.path.parent)
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            data = line.encode()
            while data:  # a signal may cut a write short
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        self._rows[key] = json.loads(line)
        return self._rows[key]

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        parsed = [_parse(line) for line in lines]
        if lines and not any(parsed):
            raise CheckpointError(
                f"{self.path} is no store of results: expected a JSON object with a key on each line; "
                "nothing was changed. Name another file or folder"
            )
        if len(whole) < len(data):
            logger.warning(
                "%s: the last line is torn (a run was killed while it wrote); it is dropped and its row done again",
                self.path,
            )
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
                os.fsync(file.fileno())
        for number, row in enumerate(parsed, start=1):
            if row is None:
                logger.warning("%s: line %d is damaged; its row is done again", self.path, number)
            else:
                self._rows.setdefault(row["key"], row)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("key"), str) else None


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
