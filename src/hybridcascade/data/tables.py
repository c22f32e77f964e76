"""Reading a table - CSV, TSV, Parquet or JSON lines - with the row numbers that its user sees.

CSV is read by the standard library instead of pandas, because a message must name the row as a
spreadsheet shows it (blank lines counted, the header being row 1) and because no cell may be
guessed into another type before it is checked.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import IO, Any

from hybridcascade.data.messages import complaint, place, shown
from hybridcascade.errors import ManifestError

__all__ = ["TABLE_ENDINGS", "Row", "Table", "read_table"]

TABLE_ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
"""Endings of the files that can be manifests."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number as the user sees it, and its cells by column (absent cells are None)."""

    number: int
    cells: dict[str, object]


@dataclass(frozen=True)
class Table:
    """A table as it was written.

    Attributes:
        name: of the file, for messages.
        columns: headers in their order.
        rows: without blank ones.
        unit: what a row is called: `"row"`, or `"line"` for JSON lines.
        decimal_comma: numbers may be written `0,5` (files with `;` between the cells).
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    unit: str = "row"
    decimal_comma: bool = False

    def where(self, row: Row | int | None = None, column: str | None = None) -> str:
        """Name a place in this table for a message."""
        number = row.number if isinstance(row, Row) else row
        return place(self.name, number, column, self.unit)


def read_table(stream: IO[bytes], name: str) -> Table:
    """Read a table.

    Args:
        stream: its bytes.
        name: of the file; the ending says the format.

    Raises:
        ManifestError: another format, not UTF-8, damaged, a header twice, or a row that does not fit.
    """
    ending = name[name.rfind(".") :].lower()
    if ending not in TABLE_ENDINGS:
        raise ManifestError(
            complaint(name, f"one of {', '.join(TABLE_ENDINGS)}", shown(ending), "Rename or convert it")
        )
    if ending == ".parquet":
        return _read_parquet(stream, name)
    try:
        text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        remedy = "Save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        raise ManifestError(complaint(name, "UTF-8 text", str(error), remedy)) from error
    return _read_json_lines(text, name) if ending == ".jsonl" else _read_csv(text, name, tab=ending == ".tsv")


def _read_csv(text: str, name: str, tab: bool) -> Table:
    delimiter = "\t" if tab else _delimiter(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[Row] = []
    try:
        for number, cells in enumerate(reader, start=1):
            if not any(cell.strip() for cell in cells):
                continue
            if not columns:
                columns = _headers(cells, name, number)
                continue
            rows.append(Row(number, _fit(cells, columns, name, number)))
    except csv.Error as error:
        where = place(name, reader.line_num, unit="line")
        raise ManifestError(complaint(where, "a CSV row", str(error), "Check the quotes")) from error
    return Table(name, columns, tuple(rows), decimal_comma=delimiter == ";")


def _delimiter(text: str) -> str:
    """Return the one of `,` `;` tab that cuts the header into most cells: spreadsheets differ by country."""
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max((",", ";", "\t"), key=lambda mark: len(next(csv.reader([header], delimiter=mark))))


def _headers(cells: list[str], name: str, number: int) -> tuple[str, ...]:
    headers = [cell.strip() for cell in cells]
    while headers and not headers[-1]:
        headers.pop()
    for header in headers:
        if header and headers.count(header) > 1:
            where = place(name, number)
            raise ManifestError(complaint(where, "each column once", f"{header!r} twice", "Rename or remove one"))
    return tuple(headers)


def _fit(cells: list[str], columns: tuple[str, ...], name: str, number: int) -> dict[str, object]:
    if any(cell.strip() for cell in cells[len(columns) :]):
        found = f"{len(cells)}"
        remedy = "A cell that contains the delimiter must stand in quotes"
        raise ManifestError(complaint(place(name, number), f"{len(columns)} cells as in the header", found, remedy))
    return {column: cell.strip() for column, cell in zip(columns, cells, strict=False) if column}


def _read_json_lines(text: str, name: str) -> Table:
    columns: dict[str, None] = {}
    rows: list[Row] = []
    # Not splitlines(): JSON strings may hold U+2028, which that would break at.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = place(name, number, unit="line")
        try:
            cells = json.loads(line)
        except json.JSONDecodeError as error:
            message = complaint(where, "one JSON object", f"{error.msg} at character {error.colno}", "Correct the line")
            raise ManifestError(message) from error
        if not isinstance(cells, dict):
            raise ManifestError(complaint(where, "one JSON object", shown(cells), 'Write {"path": "a.jpg"}'))
        columns.update(dict.fromkeys(cells))
        rows.append(Row(number, cells))
    return Table(name, tuple(columns), tuple(rows), unit="line")


def _read_parquet(stream: IO[bytes], name: str) -> Table:
    # Imported here: a table of this kind is the only use, and the import takes a tenth of a second.
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        # Through a buffer, so that a stream out of a zip works too.
        file: Any = ParquetFile(io.BytesIO(stream.read()))
        # Picture bytes or nested lists in other columns are never needed here.
        flat = [field.name for field in file.schema_arrow if _is_plain(field.type)]
        columns = file.read(columns=flat)
    except (ArrowException, OSError) as error:
        remedy = "The file is damaged or of another format; write it anew"
        raise ManifestError(complaint(name, "a Parquet file", " ".join(str(error).split()), remedy)) from error
    names = tuple(str(column) for column in columns.column_names)
    # Numbered as a spreadsheet would show the same table: the header is row 1.
    rows = tuple(Row(number, cells) for number, cells in enumerate(columns.to_pylist(), start=2))
    return Table(name, names, rows)


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    return not (types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))
