"""The table of the scans that a survey found."""

from collections.abc import Sequence

import qt
from slicer.i18n import tr as _

from .Survey import ScanRow


def codeWord(code: str) -> str:
    """Why a scan is not used, in a word or two."""
    return {
        "unreadable": _("unreadable"),
        "duplicate": _("duplicate"),
        "other-modality": _("other modality"),
        "other-spacing": _("other spacing"),
        "too-small": _("too small"),
        "too-many": _("too many"),
    }.get(code, code or _("not used"))


def fillScansTable(table: "qt.QTableWidget", rows: Sequence[ScanRow]) -> None:
    """Show the rows; those of scans that are not used in the palette's color for that."""
    headers = (
        _("Scan"),
        _("Use"),
        _("Modality"),
        _("Slices"),
        _("Voxels"),
        _("Spacing (mm)"),
        _("Reason"),
    )
    table.clear()
    table.setColumnCount(len(headers))
    table.setHorizontalHeaderLabels(list(headers))
    table.verticalHeader().setVisible(False)
    table.setRowCount(len(rows))
    for index, row in enumerate(rows):
        for column, text in enumerate(_texts(row)):
            item = qt.QTableWidgetItem(text)
            flags = qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled
            # An item that is not enabled is drawn gray, in light and dark alike.
            item.setFlags(flags if row.used else qt.Qt.ItemIsSelectable)
            item.setToolTip(row.reason or row.name)
            table.setItem(index, column, item)
    table.resizeColumnsToContents()
    table.resizeRowsToContents()
    if table.columnWidth(0) > MAX_NAME_PX:
        table.setColumnWidth(0, MAX_NAME_PX)


MAX_NAME_PX = 150
"""A longer name is cut in the table; pointing at it shows all."""


def _texts(row: ScanRow) -> tuple[str, ...]:
    return (
        row.name,
        _("used") if row.used else codeWord(row.code),
        row.modality,
        "" if row.slices is None else str(row.slices),
        " × ".join(str(one) for one in reversed(row.sizeKji)),
        " × ".join(f"{one:.3g}" for one in row.spacingMm),
        row.reason,
    )
