"""One shape for every complaint about data: where, what was expected, what was found, what to do."""

from __future__ import annotations

__all__ = ["complaint", "place", "shown"]

_LONGEST = 80


def place(file: str, row: int | None = None, column: str | None = None, unit: str = "row") -> str:
    """Name a place in a file, such as `votes.csv, row 7, column 'prob_awe'`.

    Args:
        file: the file as the user would recognise it.
        row: 1-based as a spreadsheet shows it (the header is row 1), or the line of a JSON-lines file.
        column: header of the column.
        unit: `"row"` for tables, `"line"` for JSON lines.
    """
    parts = [file]
    if row is not None:
        parts.append(f"{unit} {row}")
    if column is not None:
        parts.append(f"column {column!r}")
    return ", ".join(parts)


def complaint(where: str, expected: str, found: str, remedy: str) -> str:
    """Return `WHERE: expected E, found F. REMEDY.` as one line."""
    return f"{where}: expected {expected}, found {found}. {remedy.rstrip('.')}."


def shown(value: object) -> str:
    """Return a value as it should stand in a message: quoted, and cut when long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
