"""Findings as CSV that a spreadsheet can open without running what a user typed."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..engine.errors import InputError

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins so may be taken for a formula."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows under the names of their columns; what a row lacks stays empty.

    A text that a spreadsheet would run gets an apostrophe before it. Raises
    `InputError` for a cell that is no text, number, truth value or None, and
    `OSError` where the disk is full or the folder not writable.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([_cell(column) for column in columns])
        for row in rows:
            writer.writerow([_cell(row.get(column)) for column in columns])


def _cell(value: Any) -> str | int | float:
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
