"""The table of a batch: one row for each scan that ended, in `status.csv`."""

import csv
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.files import replacing, unwritable
from SpatialARAnomalyLib.service.csv_files import cell, write_table

STATUS_FILE = "status.csv"

DONE, REFUSED, FAILED = "done", "refused", "failed"
STATES = (DONE, REFUSED, FAILED)
"""States of a scan: its results are there; it cannot be used; something broke."""

COLUMNS = (
    *("scan", "state", "code", "reason"),
    *("findings", "strongest", "case_p_value"),
    *("seconds", "notices", "fingerprint"),
)
"""Columns of the table: `scan` is the path within the input, `code` and `reason` are those of
the error, `strongest` is the strength of the first finding, `notices` holds codes, and
`fingerprint` stands for the scan's files, the model and the settings."""

Row = dict[str, Any]


class StatusTable:
    """Rows by scan, each at most once; a row is appended by one write.

    A row that was cut off by a full disk or a power cut is not counted.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATUS_FILE
        self.rows: dict[str, Row] = {row["scan"]: row for row in read_rows(self.path)}

    def rewrite(self, names: Iterable[str]) -> None:
        """Write the rows of these scans in their order, before them those of no scan here.

        Raises `OutputError`.
        """
        ordered = {cell(name): None for name in names}
        others = [row for name, row in self.rows.items() if name not in ordered]
        known = [self.rows[str(name)] for name in ordered if name in self.rows]
        try:
            with replacing(self.path) as partial:
                write_table(partial, COLUMNS, [*others, *known])
        except OSError as error:
            raise unwritable("The table of the scans cannot be written", error) from None

    def add(self, row: Row) -> None:
        """Append a row; raises `OutputError`."""
        line = io.StringIO(newline="")
        cells = [cell(row.get(column)) for column in COLUMNS]
        csv.writer(line).writerow(cells)
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
            try:
                os.write(descriptor, line.getvalue().encode("utf-8"))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise unwritable("The table of the scans cannot be written", error) from None
        self.rows[str(cells[0])] = row


def is_batch(folder: Path) -> bool:
    """Return whether a folder holds the table of a batch."""
    try:
        with (folder / STATUS_FILE).open(encoding="utf-8", newline="") as file:
            return tuple(next(csv.reader(file), ())) == COLUMNS
    except (OSError, UnicodeDecodeError, csv.Error):
        return False


def read_rows(path: Path) -> list[Row]:
    """Return the complete rows of a table; none where it is missing or another table."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = [line for line in file if line.endswith("\n")]
    except (OSError, UnicodeDecodeError):
        return []
    rows = list(csv.DictReader(lines))
    return [row for row in rows if None not in row.values() and tuple(row) == COLUMNS]
