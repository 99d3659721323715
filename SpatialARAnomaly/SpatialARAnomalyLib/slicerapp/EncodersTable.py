"""The encoders as the rows of a Qt table."""

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from ..service.encoder_catalog import DEFAULT_ID
from ..service.encoder_library import EncoderEntry
from .Quantities import sizeText
from .Tables import ROW_PX, chosenRow, prepareTable, tableItem

TITLE, DOWNLOAD, MEMORY, ACCESS, HERE = range(5)

ROWS_SHOWN = 7


def _heads() -> list[tuple[str, str]]:
    """Title and meaning of every column."""
    return [
        (_("Encoder"), _("Larger ones see more and take longer; ViT-S/16 is the default")),
        (_("Download"), _("Size of the download (~: about)")),
        (_("Memory"), _("About what loading it and embedding one slice at a time take")),
        (_("Access"), _("Gated: the hub gives it only to accounts that were granted access")),
        (_("Here"), _("Whether it is on this machine")),
    ]


class EncodersTable:
    """Shows encoders; tells when another one is chosen."""

    def __init__(self, table: "qt.QTableWidget", onChosen: Callable[[], None]) -> None:
        self._table = table
        self._onChosen = onChosen
        self._sources: list[str] = []
        self._shown: list[EncoderEntry] = []
        prepareTable(table, _heads(), stretched=TITLE)
        table.setMinimumHeight(ROW_PX * (ROWS_SHOWN + 1))
        table.itemSelectionChanged.connect(self._selectionChanged)

    def cleanup(self) -> None:
        """Let go of the table."""
        self._table.itemSelectionChanged.disconnect(self._selectionChanged)

    def show(self, entries: Sequence[EncoderEntry]) -> None:
        """Show these; the chosen one stays chosen, at first it is the default one."""
        if list(entries) == self._shown:  # to fill it takes longer than a frame
            return
        self._shown = list(entries)
        table, chosen = self._table, self.chosen() or DEFAULT_ID
        blocked = table.blockSignals(True)
        table.setRowCount(len(entries))
        self._sources = [entry.source for entry in entries]
        for row, entry in enumerate(entries):
            known = entry.known
            self._set(row, TITLE, entry.title, entry.source)
            self._set(
                row, DOWNLOAD, sizeText(known.download_bytes, known.approximate) if known else ""
            )
            self._set(row, MEMORY, sizeText(known.memory_bytes, True) if known else "")
            self._set(row, ACCESS, _accessText(entry))
            self._set(row, HERE, hereText(entry))
        table.blockSignals(blocked)
        self.choose(chosen)

    def _set(self, row: int, column: int, text: str, toolTip: str = "") -> None:
        self._table.setItem(row, column, tableItem(text, toolTip))

    def chosen(self) -> str | None:
        """The source of the chosen encoder."""
        row = chosenRow(self._table)
        return self._sources[row] if 0 <= row < len(self._sources) else None

    def choose(self, source: str) -> None:
        """Choose an encoder, as a click on it does."""
        if source in self._sources:
            row = self._sources.index(source)
            self._table.selectRow(row)
            self._table.scrollToItem(self._table.item(row, TITLE))
        else:
            self._table.clearSelection()

    def _selectionChanged(self, *_unused: object) -> None:
        self._onChosen()


def _accessText(entry: EncoderEntry) -> str:
    if entry.own:
        return _("your own")
    if entry.known is None:
        return ""
    return _("gated") if entry.known.gated else _("free")


def hereText(entry: EncoderEntry) -> str:
    """What of an encoder is on this machine, in a few words."""
    size = sizeText(entry.disk_bytes)
    return f"✓ {size}" if entry.here else ""
