"""Tables of scans (CSV), as spreadsheets and scripts write them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable_error

SUFFIX = ".csv"

MAX_BYTES = 16 << 20
"""Largest table that is read."""

_DELIMITERS = ",;\t"
"""Spreadsheets of many countries separate cells by semicolons."""


class TableProblem(Exception):  # noqa: N818 - the caller makes it an error with its own code
    """Problem with a table, as the end of a sentence."""


def read_scan_table(
    path: Path, required: Sequence[str], optional: Sequence[str], report: Reporter
) -> list[dict[str, str]]:
    """Return the rows of a table as the texts of their required and optional columns.

    The first required column must be filled in every row.

    The text may be UTF-8 (with or without a byte order mark), UTF-16 with one, or else
    Windows-1252, which is reported as a notice, as are other columns, which are ignored. Empty
    rows are skipped.

    Raises:
        InputError: The file is missing or cannot be opened.
        TableProblem: It is not such a table.
    """
    try:
        text = _decode(path, report)
        if "\0" in text:  # no name of a file has one
            raise TableProblem("it is not a text of comma-separated values")
        lines = list(
            csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
        )
        if lines and lines[0][:1] and lines[0][0].casefold().startswith("sep="):
            del lines[0]  # a line for Excel
    except FileNotFoundError:
        raise InputError("input-missing", f"{path.name!r} does not exist.") from None
    except OSError as os_error:
        raise unreadable_error(os_error) from None
    except (UnicodeDecodeError, csv.Error):
        raise TableProblem("it is not a text of comma-separated values") from None
    header, *rows = [[cell.strip() for cell in line] for line in lines] or [[]]
    columns = [name.casefold() for name in header]
    known = [name for name in columns if name in (*required, *optional)]
    if not {*required} <= {*known} or len({*known}) < len(known):
        raise TableProblem(f"its first line is {', '.join(header)[:80]!r}")
    ignored = [name for name in header if name and name.casefold() not in known]
    if ignored:
        report.notice("columns-ignored", f"Columns of {path.name!r} not used: {', '.join(ignored)}")
    found = []
    for number, row in enumerate(rows, start=2):
        if not any(row):
            continue
        if len(row) < len(columns) or any(row[len(columns) :]):
            raise TableProblem(f"row {number} has another number of cells")
        if not row[columns.index(required[0])]:
            raise TableProblem(f"row {number} names no {required[0]}")
        cells = dict.fromkeys(optional, "") | dict(zip(columns, row, strict=False))
        found.append({name: cells[name] for name in (*required, *optional)})
    return found


def whole_number(row: dict[str, str], column: str) -> int | None:
    """Return a cell as a number from 1, None if it is empty; raises `TableProblem`."""
    text = row[column]
    if text and not (text.isascii() and text.isdecimal() and int(text[:9]) > 0):
        raise TableProblem(f"its column {column} holds {text[:40]!r}, which is no number from 1")
    return int(text[:9]) if text else None


def _decode(path: Path, report: Reporter) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise TableProblem(f"it has more than {MAX_BYTES >> 20} MB")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252")
        report.notice("table-encoding", f"{path.name!r} is not UTF-8: it was read as Windows-1252.")
        return text


def _delimiter(text: str) -> str:
    """Return the separator that is most frequent in the first line; the first one, if none is."""
    first = text.lstrip().partition("\n")[0]
    if first.casefold().startswith("sep=") and first[4:5] in _DELIMITERS:
        return first[4]
    return max(_DELIMITERS, key=first.count)
