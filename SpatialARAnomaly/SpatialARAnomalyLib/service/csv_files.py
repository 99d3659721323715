"""CSV that is safe in a spreadsheet."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.errors import InputError

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Beginnings of a text that a spreadsheet may take for a formula."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV; a column that a row lacks stays empty.

    A text that a spreadsheet would run as a formula gets an apostrophe before it.

    Raises:
        InputError: A cell is something else than text, a number, true, false or None.
        OSError: The disk is full, or the folder not writable.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([cell(column) for column in columns])
        for row in rows:
            writer.writerow([cell(row.get(column)) for column in columns])


def cell(value: Any) -> str | int | float:
    """Return a value as it is written into a table; raises `InputError` as `write_table` does."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, str):
        raise InputError(
            "table-cell",
            f"A cell must be text, a number, true, false or nothing; found {type(value).__name__}.",
        )
    if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value
