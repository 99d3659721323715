"""Models as the rows of a Qt table."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import qt
from slicer.i18n import tr as _

from .Tables import chosenRow, prepareTable, tableItem

NAME, STATE, MODALITY, PLANE, FOV, NORMALS, DATE, SIZE, ENCODER = range(9)

MAX_NAME_PX = 200
"""A longer name is cut in the table; pointing at it shows all."""


def _heads() -> list[tuple[str, str]]:
    """Title and meaning of every column."""
    return [
        (_("Name"), _("The model's name")),
        (_("State"), _("Whether it can be used; Verify also looks at its weights")),
        (_("Modality"), _("Of the scans it learned from")),
        (_("Plane"), _("Of the slices it looks at")),
        (_("FOV"), _("Field of view in millimeters")),
        (_("Normals"), _("Normal scans it was trained and calibrated on")),
        (_("Date"), _("When it was trained")),
        (_("MB"), _("Size on disk in megabytes, without the encoder")),
        (_("Encoder"), _("What it needs to embed slices")),
    ]


@dataclass(frozen=True, kw_only=True)
class ShownModel:
    """What the table shows of a model."""

    key: str
    """Tells it from the others."""
    cells: tuple[object, ...]
    """Texts and numbers, by column."""
    tips: dict[int, str]
    """Tooltips of cells, by column."""


class ModelsView:
    """Shows models; tells which is chosen and which was double-clicked."""

    def __init__(
        self, table: "qt.QTableWidget", onChosen: Callable[[], None], onUsed: Callable[[], None]
    ) -> None:
        self._table = table
        self._onChosen = onChosen
        self._onUsed = onUsed
        prepareTable(table, _heads())
        table.horizontalHeader().setStretchLastSection(True)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.sortByColumn(NAME, qt.Qt.AscendingOrder)
        table.itemSelectionChanged.connect(self._chosenChanged)
        table.cellDoubleClicked.connect(self._doubleClicked)

    def cleanup(self) -> None:
        """Let go of the table."""
        self._table.itemSelectionChanged.disconnect(self._chosenChanged)
        self._table.cellDoubleClicked.disconnect(self._doubleClicked)

    def show(self, models: Sequence[ShownModel], chosen: str | None) -> None:
        """Show models and choose one of them, if it is there."""
        table = self._table
        blocked = table.blockSignals(True)
        # Sorting while cells are set would move rows away under us.
        table.setSortingEnabled(False)
        table.setRowCount(len(models))
        for index, model in enumerate(models):
            for column, value in enumerate(model.cells):
                table.setItem(index, column, tableItem(value, model.tips.get(column, "")))
            table.item(index, NAME).setData(qt.Qt.UserRole, model.key)
        table.setSortingEnabled(True)
        # Once: a header that does so by itself measures all rows after every cell.
        table.resizeColumnsToContents()
        if table.columnWidth(NAME) > MAX_NAME_PX:
            table.setColumnWidth(NAME, MAX_NAME_PX)
        table.clearSelection()
        for index in range(len(models)):
            if self._keyAt(index) == chosen:
                table.selectRow(index)
        table.blockSignals(blocked)
        self._onChosen()

    def _keyAt(self, row: int) -> str | None:
        item = self._table.item(row, NAME) if row >= 0 else None
        return str(item.data(qt.Qt.UserRole)) if item is not None else None

    def chosen(self) -> str | None:
        """The key of the chosen model."""
        return self._keyAt(chosenRow(self._table))

    def _chosenChanged(self, *_unused: object) -> None:
        self._onChosen()

    def _doubleClicked(self, *_unused: object) -> None:
        self._onUsed()
