"""What the tables of the panel have in common."""

from collections.abc import Sequence

import qt

ROW_PX = 24
"""Height of a row."""


def prepareTable(
    table: "qt.QTableWidget", heads: Sequence[tuple[str, str]], stretched: int | None = None
) -> None:
    """Give a table its columns, each with a title and a meaning (tooltip), and flat rows.

    With `stretched` that column takes the room that is left, and the others
    are as wide as what is in them.
    """
    table.setColumnCount(len(heads))
    table.setHorizontalHeaderLabels([title for title, _meaning in heads])
    for column, (_title, meaning) in enumerate(heads):
        table.horizontalHeaderItem(column).setToolTip(meaning)
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    if stretched is not None:
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(stretched, qt.QHeaderView.Stretch)
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(ROW_PX)


def tableItem(value: object, toolTip: str = "", editable: bool = False) -> "qt.QTableWidgetItem":
    """A cell that can be chosen; a number stays one, so that a click on a head sorts by size."""
    item = qt.QTableWidgetItem()
    item.setData(qt.Qt.DisplayRole, value)
    flags = qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled
    item.setFlags(flags | qt.Qt.ItemIsEditable if editable else flags)
    item.setToolTip(toolTip)
    if not isinstance(value, str):
        item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return item


def chosenRow(table: "qt.QTableWidget") -> int:
    """The row that is chosen, -1 where none is."""
    rows = table.selectionModel().selectedRows()
    return rows[0].row() if rows else -1


def enable(button: "qt.QWidget", reason: str | None, does: str) -> None:
    """Enable a button that `does` something, unless there is a reason not to."""
    button.setEnabled(reason is None)
    button.setToolTip(does if reason is None else reason)
