"""The findings of a result as the rows of a Qt table."""

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.QtHelpers import chosenRow, prepareTable, tableItem
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import ACCEPTED, REJECTED, Row

RANK, STATUS, VOLUME, PEAK, P_VALUE, RIGHT, ANTERIOR, SUPERIOR, COMMENT = range(9)


def _heads() -> list[tuple[str, str]]:
    """Title and meaning of every column."""
    return [
        (_("#"), _("Rank by peak NLL")),
        (_("✓✗"), _("Your review: ✓ accepted, ✗ rejected")),
        (_("ml"), _("Volume in milliliters")),
        (_("Peak"), _("Highest NLL, nats per channel")),
        (_("p"), _("How likely a place in a normal scan reaches the peak")),
        (_("R"), _("Position of the sagittal slice through the peak, mm to the right")),
        (_("A"), _("Position of the coronal slice through the peak, mm to the front")),
        (_("S"), _("Position of the axial slice through the peak, mm upward")),
        (_("Comment"), _("Double-click to write")),
    ]


class FindingsView:
    """Shows rows; tells which is chosen and what comment was written."""

    def __init__(
        self,
        table: "qt.QTableWidget",
        onChosen: Callable[[int], None],
        onComment: Callable[[int, str], None],
    ) -> None:
        self._table = table
        self._onChosen = onChosen
        self._onComment = onComment
        prepareTable(table, _heads(), stretched=COMMENT)
        table.sortByColumn(RANK, qt.Qt.AscendingOrder)
        table.itemSelectionChanged.connect(self._selectionChanged)
        table.itemChanged.connect(self._itemChanged)

    def cleanup(self) -> None:
        """Let go of the table."""
        self._table.itemSelectionChanged.disconnect(self._selectionChanged)
        self._table.itemChanged.disconnect(self._itemChanged)

    def show(self, rows: Sequence[Row], places: Sequence[tuple[float, float, float]]) -> None:
        """Show rows, with the place in the scene of each; the chosen rank stays chosen."""
        table, chosen = self._table, self.chosen()
        blocked = table.blockSignals(True)
        # Sorting while cells are set would move rows away under us.
        table.setSortingEnabled(False)
        table.setRowCount(len(rows))
        for index, (row, place) in enumerate(zip(rows, places, strict=True)):
            self._set(index, RANK, int(row["rank"]))
            self._set(index, STATUS, {ACCEPTED: "✓", REJECTED: "✗"}.get(row["status"], ""))
            self._set(index, VOLUME, round(row["volume_ml"], 2))
            self._set(index, PEAK, round(row["peak_nll"], 3))
            self._set(index, P_VALUE, float(f"{row['p_value']:.1e}"))
            for column, position in zip((RIGHT, ANTERIOR, SUPERIOR), place, strict=True):
                self._set(index, column, round(position, 1))
            self._set(index, COMMENT, row["comment"], editable=True)
        table.setSortingEnabled(True)
        if chosen is not None:
            self._select(chosen)
        table.blockSignals(blocked)

    def _set(self, row: int, column: int, value: object, editable: bool = False) -> None:
        self._table.setItem(row, column, tableItem(value, editable=editable))

    def _rankAt(self, row: int) -> int | None:
        item = self._table.item(row, RANK) if row >= 0 else None
        return int(item.text()) if item is not None else None

    def _rowOf(self, rank: int) -> int:
        for row in range(self._table.property("rowCount")):
            if self._rankAt(row) == rank:
                return row
        return -1

    def chosen(self) -> int | None:
        """The rank of the chosen finding."""
        return self._rankAt(chosenRow(self._table))

    def choose(self, rank: int) -> None:
        """Choose a finding, as a click on it does."""
        self._select(rank)

    def _select(self, rank: int) -> None:
        row = self._rowOf(rank)
        if row >= 0:
            self._table.selectRow(row)
            self._table.scrollToItem(self._table.item(row, RANK))

    def step(self, by: int) -> None:
        """Choose the next (1) or previous (-1) finding as the table is sorted."""
        count = self._table.property("rowCount")
        if not count:
            return
        chosen = chosenRow(self._table)
        row = chosen + by if chosen >= 0 else (0 if by > 0 else count - 1)
        self._table.selectRow(min(max(row, 0), count - 1))

    def _selectionChanged(self, *_unused: object) -> None:
        rank = self.chosen()
        if rank is not None:
            self._onChosen(rank)

    def _itemChanged(self, item: "qt.QTableWidgetItem") -> None:
        if item.column() == COMMENT:
            rank = self._rankAt(item.row())
            if rank is not None:
                self._onComment(rank, item.text())
