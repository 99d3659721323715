"""Qt shared by the whole panel: connections, buttons, tables, a picture, timers, waiting."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import qt

ROW_PADDING_PX = 6
"""Height of a table row above that of its letters."""

Slot = Callable[..., None]


def doNothing(*_unused: object) -> None:
    """Do nothing: the default callback."""


class Connections:
    """Signals connected to slots until `close`."""

    def __init__(self, *pairs: tuple[Any, Slot]) -> None:
        self._pairs = pairs
        for signal, slot in pairs:
            signal.connect(slot)

    def close(self) -> None:
        """Disconnect all slots."""
        for signal, slot in self._pairs:
            signal.disconnect(slot)
        self._pairs = ()


def pathText(edit: "qt.QWidget") -> str:
    """Return the text of a path field."""
    return str(edit.property("currentPath") or "").strip()


def pathChanges(edit: "qt.QWidget", slot: Slot) -> tuple[tuple[Any, Slot], ...]:
    """Return the connections that report every change: of a cleared field, only the second does."""
    return (edit.currentPathChanged, slot), (edit.validInputChanged, slot)


def enable(button: "qt.QWidget | qt.QAction", problem: str | None, toolTip: str) -> None:
    """Enable a button unless there is a problem, which is then its tooltip."""
    button.setEnabled(problem is None)
    button.setToolTip(toolTip if problem is None else problem)


def disclose(button: "qt.QToolButton", details: "qt.QWidget") -> None:
    """Show details while their button is pressed; its arrow points to them."""
    details.setVisible(button.isChecked())
    button.setArrowType(qt.Qt.DownArrow if button.isChecked() else qt.Qt.RightArrow)


def prepareTable(
    table: "qt.QTableWidget", columns: Sequence[tuple[str, str]], stretched: int | None = None
) -> None:
    """Set the columns (title and tooltip) of a table with low rows.

    The column `stretched` takes the remaining width; the others fit their contents.
    """
    table.setColumnCount(len(columns))
    table.setHorizontalHeaderLabels([title for title, _toolTip in columns])
    for column, (_title, toolTip) in enumerate(columns):
        table.horizontalHeaderItem(column).setToolTip(toolTip)
    header = table.horizontalHeader()
    header.setHighlightSections(False)
    if stretched is not None:
        header.setSectionResizeMode(qt.QHeaderView.ResizeToContents)
        header.setSectionResizeMode(stretched, qt.QHeaderView.Stretch)
    table.verticalHeader().setVisible(False)
    table.verticalHeader().setDefaultSectionSize(rowHeight(table))


def rowHeight(table: "qt.QTableWidget") -> int:
    """Return the height of a row, which grows with the font."""
    return int(table.fontMetrics().height()) + ROW_PADDING_PX


def fitTable(table: "qt.QTableWidget", atLeast: int, atMost: int) -> None:
    """Make a table as high as its rows, within limits; its scroll bar hides none of few rows."""
    rows = min(max(int(table.property("rowCount")), atLeast), atMost)
    height = int(table.horizontalHeader().property("sizeHint").height()) + rows * rowHeight(table)
    bar = table.horizontalScrollBar()
    if rows < atMost and int(bar.property("maximum")) > 0:
        height += int(bar.property("sizeHint").height())
    table.setFixedHeight(height + 2 * int(table.property("frameWidth")))


def tableItem(value: object, toolTip: str = "", editable: bool = False) -> "qt.QTableWidgetItem":
    """Make a selectable cell; numbers are sorted by size."""
    item = qt.QTableWidgetItem()
    item.setData(qt.Qt.DisplayRole, value)
    flags = qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled
    item.setFlags(flags | qt.Qt.ItemIsEditable if editable else flags)
    item.setToolTip(toolTip)
    if not isinstance(value, str):
        item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    return item


def fillTable(table: "qt.QTableWidget", rows: Sequence[Sequence["qt.QTableWidgetItem"]]) -> None:
    """Replace all rows of a table."""
    blocked, sorting = table.blockSignals(True), table.isSortingEnabled()
    # Sorting would move a row while its cells are set.
    table.setSortingEnabled(False)
    table.setRowCount(len(rows))
    for row, items in enumerate(rows):
        for column, item in enumerate(items):
            table.setItem(row, column, item)
    table.setSortingEnabled(sorting)
    # Its arrow would make every column wider by the height of the header.
    table.horizontalHeader().setSortIndicatorShown(False)
    table.blockSignals(blocked)


class KeyedTable:
    """A table whose rows have keys; the user chooses one of them.

    `onChosen` is also called when the chosen row is chosen again.
    """

    def __init__(
        self,
        table: "qt.QTableWidget",
        columns: Sequence[tuple[str, str]],
        onChosen: Callable[[], None],
        *,
        stretched: int | None = None,
    ) -> None:
        self.table = table
        self._onChosen = onChosen
        prepareTable(table, columns, stretched)
        self._connections = Connections(
            (table.itemSelectionChanged, lambda *_unused: onChosen()),
            (table.cellClicked, lambda *_unused: onChosen()),
        )

    def cleanup(self) -> None:
        """Disconnect from the table."""
        self._connections.close()

    def show(
        self, rows: Mapping[Hashable, Sequence["qt.QTableWidgetItem"]], chosen: Hashable
    ) -> None:
        """Replace all rows; choose the row of the key `chosen`, or none, without `onChosen`."""
        blocked = self.table.blockSignals(True)
        for key, items in rows.items():
            items[0].setData(qt.Qt.UserRole, key)
        fillTable(self.table, list(rows.values()))
        self._select(self.rowOf(chosen))
        self.table.blockSignals(blocked)

    def keyAt(self, row: int) -> Any:
        """Return the key of a row; None outside of the table."""
        item = self.table.item(row, 0) if row >= 0 else None
        return item.data(qt.Qt.UserRole) if item is not None else None

    def rowOf(self, key: Hashable) -> int:
        """Return the row of a key, -1 if there is none."""
        rows = range(self.table.property("rowCount"))
        return next((row for row in rows if self.keyAt(row) == key), -1)

    def chosenRow(self) -> int:
        """Return the chosen row, -1 if there is none."""
        rows = self.table.selectionModel().selectedRows()
        return rows[0].row() if rows else -1

    def chosen(self) -> Any:
        """Return the key of the chosen row, or None."""
        return self.keyAt(self.chosenRow())

    def choose(self, key: Hashable) -> None:
        """Choose the row of a key, as a click does; without such a row choose none."""
        self._chooseRow(self.rowOf(key))

    def _chooseRow(self, row: int) -> None:
        blocked = self.table.blockSignals(True)
        self._select(row)
        self.table.blockSignals(blocked)
        self._onChosen()

    def _select(self, row: int) -> None:
        if row < 0:
            self.table.clearSelection()
            return
        self.table.selectRow(row)
        self.table.scrollToItem(self.table.item(row, 0))

    def step(self, by: int) -> None:
        """Choose the next (1) or previous (-1) row in the order shown."""
        count = self.table.property("rowCount")
        if count:
            chosen = self.chosenRow()
            row = chosen + by if chosen >= 0 else (0 if by > 0 else count - 1)
            self._chooseRow(min(max(row, 0), count - 1))


class PictureLabel(qt.QLabel):
    """Shows a picture scaled to the width of the panel, without making the panel wider."""

    def __init__(self, parent: "qt.QWidget") -> None:
        qt.QLabel.__init__(self, parent)
        self._picture: qt.QPixmap | None = None
        self.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Fixed)
        self.setMinimumWidth(1)
        self.setVisible(False)

    def showFile(self, path: str) -> None:
        """Show the picture of a file; hide the label if the path is empty."""
        self._picture = qt.QPixmap(path) if path else None
        self.setVisible(self._picture is not None)
        self._fit()

    def resizeEvent(self, event: "qt.QResizeEvent") -> None:
        """Scale the picture to the new width."""
        self._fit()

    def _fit(self) -> None:
        if self._picture is None:
            self.clear()
            return
        width = int(self.property("width"))
        if width < 2 or int(self._picture.width()) < 1:
            return
        fitted = self._picture.scaledToWidth(width, qt.Qt.SmoothTransformation)
        self.setFixedHeight(int(fitted.height()))
        self.setPixmap(fitted)


def singleShotTimer(milliseconds: int) -> "qt.QTimer":
    """Make a timer that fires once after every `start`; keep a reference, and stop it."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    return timer


def waitFor(start: Callable[[Callable[[Any], None]], None], timeoutMs: int | None = None) -> Any:
    """Call `start` with a callback and run an event loop until it is called; return its argument.

    Raises:
        TimeoutError: The callback was not called within `timeoutMs`.
    """
    loop = qt.QEventLoop()
    answers: list[Any] = []

    def end(answer: Any) -> None:
        answers.append(answer)
        loop.quit()

    start(end)
    if not answers and timeoutMs is None:
        loop.exec_()
    elif not answers:
        timer = singleShotTimer(timeoutMs)
        timer.timeout.connect(loop.quit)
        timer.start()
        loop.exec_()
        timer.stop()
    if not answers:
        raise TimeoutError("no answer in time")
    return answers[0]
