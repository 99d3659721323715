"""What the models' section asks the user, each a function so that tests can answer."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from ..engine.model_store import SUFFIX


def _first(answer: object) -> str:
    """The text of a dialog's answer: alone in PythonQt, with what it was in PySide6."""
    return str((answer[0] if isinstance(answer, tuple) else answer) or "")


def _filter() -> str:
    return _("Models of SpatialARAnomaly ({pattern})").format(pattern=f"*{SUFFIX}")


def chooseFileToImport() -> str:
    """The file to import; empty if the user chose none."""
    return _first(
        qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Import a model"), "", _filter())
    )


def chooseFileToExport(name: str) -> str:
    """The file to write a model into, which may exist if it ends as ours do."""
    return _first(
        qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Export the model"), name + SUFFIX, _filter()
        )
    )


def askName(name: str) -> str:
    """Another name for a model."""
    return _first(
        qt.QInputDialog.getText(
            slicer.util.mainWindow(),
            _("Rename the model"),
            _("New name:"),
            qt.QLineEdit.Normal,
            name,
        )
    )


def openFolder(folder: Path) -> None:
    """Show a folder in the system's file manager."""
    qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))


@dataclass(frozen=True, kw_only=True)
class ModelDialogs:
    """All of them; an empty answer is none."""

    confirm: Callable[[str], bool]
    chooseFileToImport: Callable[[], str] = chooseFileToImport
    chooseFileToExport: Callable[[str], str] = chooseFileToExport
    askName: Callable[[str], str] = askName
    openFolder: Callable[[Path], None] = openFolder
