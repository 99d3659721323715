"""Questions to the user; a test gives a panel an object with other answers."""

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.service.encoders.dinov3_license import license_text
from SpatialARAnomalyLib.slicerapp import Settings


class Dialogs:
    """Shows dialogs over a widget; a text that the user did not give is empty."""

    def __init__(self, parent: "qt.QWidget") -> None:
        self._parent = parent

    def confirm(self, question: str) -> bool:
        """Return whether the user answers with yes."""
        return slicer.util.confirmYesNoDisplay(question, windowTitle=_("Anomaly detection"))

    def chooseFolder(self, title: str) -> str:
        """Return the path of an existing folder."""
        return _text(qt.QFileDialog.getExistingDirectory(self._parent, title, ""))

    def chooseFile(self, title: str, filters: str) -> str:
        """Return the path of an existing file."""
        return _text(qt.QFileDialog.getOpenFileName(self._parent, title, "", filters))

    def chooseNewFile(self, title: str, name: str, filters: str) -> str:
        """Return the path of a file to write; the dialog asks before it returns an existing one."""
        return _text(qt.QFileDialog.getSaveFileName(self._parent, title, name, filters))

    def enterText(self, title: str, label: str, text: str) -> str:
        """Return a line of text, which begins as `text`."""
        return _text(qt.QInputDialog.getText(self._parent, title, label, qt.QLineEdit.Normal, text))

    def chooseOne(self, title: str, label: str, names: list[str]) -> int | None:
        """Return the index of the name that the user chooses, or None."""
        # PythonQt's QInputDialog.getItem does not say whether the user cancelled.
        dialog = qt.QDialog(self._parent)
        dialog.setWindowTitle(title)
        layout = qt.QVBoxLayout(dialog)
        heading = qt.QLabel(label)
        heading.setWordWrap(True)
        layout.addWidget(heading)
        choices = qt.QListWidget()
        choices.addItems(names)
        choices.setCurrentRow(0)
        choices.setAccessibleName(title)
        layout.addWidget(choices)
        box = qt.QDialogButtonBox()
        box.addButton(qt.QDialogButtonBox.Ok)
        box.addButton(qt.QDialogButtonBox.Cancel)
        box.accepted.connect(dialog.accept)
        box.rejected.connect(dialog.reject)
        choices.itemDoubleClicked.connect(lambda *_unused: dialog.accept())
        layout.addWidget(box)
        accepted = dialog.exec_() == qt.QDialog.Accepted
        row = int(choices.property("currentRow"))
        dialog.deleteLater()
        return row if accepted and row >= 0 else None

    def showLicense(self, *, ask: bool) -> bool:
        """Show the DINOv3 License; return whether the user accepts it, if asked to."""
        # PythonQt deletes a dialog without parent twice.
        dialog = qt.QDialog(self._parent)
        dialog.setWindowTitle(_("DINOv3 License"))
        layout = qt.QVBoxLayout(dialog)
        if ask:
            intro = qt.QLabel(
                _(
                    "Meta publishes the DINOv3 weights under this license. Nothing is downloaded "
                    "unless you accept it."
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

    def openFolder(self, folder: Path) -> None:
        """Show a folder in the file manager."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def restartSlicer(self) -> None:
        """Restart Slicer."""
        slicer.util.restart()


def _text(answer: object) -> str:
    """Return a dialog's text: alone in PythonQt, the first of several values in PySide6."""
    return str((answer[0] if isinstance(answer, tuple) else answer) or "")


def openModelsFolder(dialogs: Dialogs) -> str:
    """Create the models folder if it does not exist, and show it; return a warning, or ''."""
    folder = Settings.modelsFolder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return _("⚠ The models folder cannot be created ({reason}).").format(reason=error.strerror)
    dialogs.openFolder(folder)
    return ""
