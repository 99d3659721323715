"""The encoders as the rows of a Qt table."""

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.service.encoders.catalog import DEFAULT_ID, known_encoder, local_encoders
from SpatialARAnomalyLib.service.encoders.dinov3_license import license_text
from SpatialARAnomalyLib.service.encoders.library import EncoderEntry
from SpatialARAnomalyLib.slicerapp.QtHelpers import ROW_PX, chosenRow, prepareTable, tableItem
from SpatialARAnomalyLib.slicerapp.wording.Calibration import sizeText

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


class EncoderDialogs:
    """Asks over `parent`; tests put another object in its place."""

    def __init__(self, parent: "qt.QWidget") -> None:
        self._parent = parent

    def showLicense(self, ask: bool) -> bool:
        """Show the whole license; whether it was accepted, where it is asked for."""
        # With a parent: PythonQt deletes a parentless dialog twice.
        dialog = qt.QDialog(self._parent)
        dialog.setWindowTitle(_("DINOv3 License"))
        layout = qt.QVBoxLayout(dialog)
        if ask:
            intro = qt.QLabel(
                _(
                    "The weights of DINOv3 are Meta's and come under this license. Read it: "
                    "nothing is downloaded unless you accept."
                )
            )
            intro.setWordWrap(True)
            layout.addWidget(intro)
        text = qt.QTextEdit()
        text.setReadOnly(True)
        text.setMarkdown(license_text())
        layout.addWidget(text)
        box = qt.QDialogButtonBox()
        if ask:
            box.addButton(_("I accept"), qt.QDialogButtonBox.AcceptRole)
            decline = box.addButton(_("Decline"), qt.QDialogButtonBox.RejectRole)
            decline.setDefault(True)
            decline.setFocus()
        else:
            box.setStandardButtons(qt.QDialogButtonBox.Close)
        box.accepted.connect(dialog.accept)
        box.rejected.connect(dialog.reject)
        layout.addWidget(box)
        dialog.resize(640, 560)
        accepted = dialog.exec_() == qt.QDialog.Accepted
        dialog.deleteLater()
        return accepted

    def chooseFolder(self) -> str:
        """A folder of weights; empty where none was chosen."""
        return str(
            qt.QFileDialog.getExistingDirectory(self._parent, _("Folder of an encoder's weights"))
            or ""
        )

    def chooseFile(self) -> str:
        """A file of weights; empty where none was chosen."""
        chosen = qt.QFileDialog.getOpenFileName(
            self._parent, _("File of an encoder's weights"), "", _("Weights (*.safetensors)")
        )
        # PythonQt gives the path, others also the filter.
        return str((chosen[0] if isinstance(chosen, tuple) else chosen) or "")


OWN_FILES = ""
"""Chosen where the encoder is a folder or file of the user's."""


def encoderChoices() -> list[tuple[str, str]]:
    """What to show and the source that the worker takes, for every encoder there is."""
    choices = [(_("Demonstration (quick, for trying)"), DEMONSTRATION)]
    for local in local_encoders():
        known = known_encoder(local.source)
        title = local.title if known is None else f"DINOv3 {known.title}"
        choices.append((title, local.source))
    choices.append((_("A folder or file of DINOv3 weights"), OWN_FILES))
    return choices
