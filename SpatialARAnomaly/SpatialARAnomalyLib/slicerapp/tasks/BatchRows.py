"""The table of a batch, read piece by piece while another process writes it."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from SpatialARAnomalyLib.service.batch.table import COLUMNS, STATUS_FILE, Row

PIECE_BYTES = 1 << 16
"""Bytes read in one step."""


class BatchRows:
    """Yields every row of the table once, in the order in which the scans ended."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATUS_FILE
        self._known: set[str] = set()
        self._at = 0
        self._file: tuple[int, int] | None = None

    def fresh(self) -> Iterator[list[Row]]:
        """Yield, piece by piece, the rows that were written since the last call.

        There are none where the table is missing or another.
        """
        try:
            with self.path.open("rb") as file:
                about = os.fstat(file.fileno())
                identity = about.st_ino, about.st_dev
                if identity != self._file or about.st_size < self._at:
                    self._file, self._at = identity, 0  # it was written again
                file.seek(self._at)
                while piece := file.read(PIECE_BYTES):
                    whole = piece[: piece.rfind(b"\n") + 1]
                    if not whole:
                        return  # a row is being written
                    self._at += len(whole)
                    file.seek(self._at)
                    yield self._rows(whole.decode("utf-8", "replace"))
        except (OSError, csv.Error):
            return

    def _rows(self, text: str) -> list[Row]:
        rows = []
        for cells in csv.reader(text.splitlines()):
            name = cells[0] if len(cells) == len(COLUMNS) else ""
            if name and tuple(cells) != COLUMNS and name not in self._known:
                self._known.add(name)
                rows.append(dict(zip(COLUMNS, cells, strict=True)))
        return rows
