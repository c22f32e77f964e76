"""Checking a manifest: every row points at a picture inside the root, every label and vote makes sense.

Columns: `path` (relative to the manifest), and where wanted `label`, `split`, `zip` (an archive beside
the manifest that holds the picture) and one number a class in columns named `<class>`,
`prob_<class>` or `votes_<class>`. Other columns are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hybridcascade.data.messages import complaint, shown
from hybridcascade.data.tables import Row, Table
from hybridcascade.data.trees import relative_name
from hybridcascade.errors import ManifestError, did_you_mean

__all__ = ["Entry", "Manifest", "parse_manifest"]

_RESERVED = frozenset({"path", "label", "split", "zip"})
_PREFIXES = ("votes_", "prob_")


@dataclass(frozen=True, slots=True)
class Entry:
    """One checked row.

    Attributes:
        row: where it stands.
        id: sample id: the path with `/`, led by the archive's name where the manifest has several.
        path: name of the picture below the root or in its archive.
        zip: name of the archive below the root, or None.
        label: row of the class list, or None.
        votes: K numbers >= 0 with a positive sum, or None.
        split: as written, or None.
    """

    row: Row
    id: str
    path: str
    zip: str | None
    label: int | None
    votes: tuple[float, ...] | None
    split: str | None


@dataclass(frozen=True)
class Manifest:
    """A checked manifest: its rows, and the classes that labels and votes count in (None without both)."""

    table: Table
    entries: tuple[Entry, ...]
    classes: tuple[str, ...] | None


def parse_manifest(table: Table, classes: Sequence[str] | None = None, allow_outside: bool = False) -> Manifest:
    """Check a table and turn it into entries.

    Args:
        table: as read by `read_table`.
        classes: the class names. None takes them from the `votes_` or `prob_` columns in their order,
            or else from the labels, sorted.
        allow_outside: let paths leave the root.

    Raises:
        ManifestError: no row, a missing column, a path that leaves the root, an id twice, a class that
            is not in `classes`, or votes that are not numbers >= 0 with a positive sum.
    """
    if "path" not in table.columns:
        near = did_you_mean("path", table.columns)
        found = f"columns {', '.join(table.columns)}" if table.columns else "no column"
        remedy = "Rename the column that holds the picture files to 'path'"
        raise ManifestError(complaint(table.where(1), "a column 'path'", f"{found}.{near}", remedy))
    if not table.rows:
        raise ManifestError(complaint(table.name, "a row for each picture", "the header only", "Add rows"))
    columns = _class_columns(table, classes)
    if classes is None:
        classes = tuple(columns) or _labels_found(table)
    known = {name: index for index, name in enumerate(classes or ())}
    archives = {_text(row.cells.get("zip")) for row in table.rows}
    entries: list[Entry] = []
    seen: dict[str, Row] = {}
    for row in table.rows:
        path, archive = _place(table, row, allow_outside)
        name = f"{archive}/{path}" if archive and len(archives) > 1 else path
        if (first := seen.setdefault(name, row)) is not row:
            found = f"{name!r}, already in {table.unit} {first.number}"
            message = complaint(table.where(row, "path"), "each picture once", found, "Remove one of the two")
            raise ManifestError(message)
        label, votes = _label(table, row, known), _votes(table, row, columns)
        entries.append(Entry(row, name, path, archive, label, votes, _text(row.cells.get("split"))))
    return Manifest(table, tuple(entries), tuple(classes) if classes else None)


def _class_columns(table: Table, classes: Sequence[str] | None) -> dict[str, str]:
    """Return class -> column. One style is used: `votes_`, else `prob_`, else bare names."""
    for prefix in _PREFIXES:
        present = {c.removeprefix(prefix): c for c in table.columns if c.startswith(prefix) and c != prefix}
        if not present:
            continue
        if classes is None:
            return present
        for name, column in present.items():
            if name not in classes:
                # Leaving it out would silently move its votes to the other classes.
                expected = f"class columns for {', '.join(classes)} only"
                found = f"a column for {name!r}.{did_you_mean(name, classes)}"
                remedy = "Add the class, or remove the column"
                raise ManifestError(complaint(table.where(1, column), expected, found, remedy))
        return {name: _required(table, name, prefix + name) for name in classes}
    bare = [name for name in classes or () if name in table.columns and name not in _RESERVED]
    return {name: _required(table, name, name) for name in classes or ()} if bare else {}


def _required(table: Table, name: str, column: str) -> str:
    if column not in table.columns:
        near = did_you_mean(column, table.columns)
        remedy = "Add the column (0 where nobody chose the class)"
        message = complaint(table.where(1), f"a column {column!r} for class {name!r}", f"none.{near}", remedy)
        raise ManifestError(message)
    return column


def _labels_found(table: Table) -> tuple[str, ...]:
    return tuple(sorted({label for row in table.rows if (label := _text(row.cells.get("label"))) is not None}))


def _text(cell: object) -> str | None:
    """Return a cell as text, None for an empty one (also as pandas and Parquet have it, NaN)."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    return str(cell).strip() or None


def _place(table: Table, row: Row, allow_outside: bool) -> tuple[str, str | None]:
    written = _text(row.cells.get("path"))
    if written is None:
        message = complaint(table.where(row, "path"), "a file name", "an empty cell", "Fill it or remove the row")
        raise ManifestError(message)
    archive = _text(row.cells.get("zip"))
    # Inside an archive there is no outside that could be allowed.
    path = _inside(table, row, "path", written, allow_outside and archive is None)
    return path, None if archive is None else _inside(table, row, "zip", archive, allow_outside)


def _inside(table: Table, row: Row, column: str, written: str, allow_outside: bool) -> str:
    name = relative_name(written)
    if name is None and allow_outside:
        return written.replace("\\", "/")
    if name is None:
        expected = "a path below the folder of the manifest"
        remedy = "Move the file below it, or allow paths outside"
        raise ManifestError(complaint(table.where(row, column), expected, shown(written), remedy))
    return name


def _label(table: Table, row: Row, known: dict[str, int]) -> int | None:
    label = _text(row.cells.get("label"))
    if label is None:
        return None
    if label not in known:
        found = f"{shown(label)}.{did_you_mean(label, known)}"
        remedy = "Correct the cell, or add the class to the list"
        expected = f"one of the classes {', '.join(known)}"
        raise ManifestError(complaint(table.where(row, "label"), expected, found, remedy))
    return known[label]


def _votes(table: Table, row: Row, columns: dict[str, str]) -> tuple[float, ...] | None:
    """Return the votes of a row, None when all its vote cells are empty (nobody voted)."""
    cells = {column: row.cells.get(column) for column in columns.values()}
    if all(cell is None or cell == "" for cell in cells.values()):
        return None
    votes = tuple(_number(table, row, column, cell) for column, cell in cells.items())
    if sum(votes) <= 0.0:
        where = f"{table.where(row)}, columns {', '.join(map(repr, cells))}"
        remedy = "Enter the votes, or leave all of these cells empty"
        raise ManifestError(complaint(where, "at least one vote above 0", "zeros only", remedy))
    return votes


def _number(table: Table, row: Row, column: str, cell: object) -> float:
    where, expected = table.where(row, column), "a number >= 0"
    if cell is None or cell == "":
        remedy = "Write 0 where nobody chose the class"
        raise ManifestError(complaint(where, expected, "an empty cell beside filled ones", remedy))
    text = str(cell).replace(",", ".") if table.decimal_comma else str(cell)
    try:
        value = float(text)
    except ValueError as error:
        raise ManifestError(complaint(where, expected, shown(cell), "Correct the cell")) from error
    if not 0.0 <= value < math.inf:  # written so that NaN fails too
        raise ManifestError(complaint(where, expected, shown(cell), "Correct the cell"))
    return value
