"""Stand-ins for CTK's widgets that choose files and folders; they open no dialog."""
# ruff: noqa: N801

import os

import qt
from PySide6.QtCore import Property, Signal

from .observing import calling
from .properties import stand_in, stored


@stand_in
class ctkPathLineEdit(qt.QWidget):
    """A path to type or choose, with the paths chosen before.

    As in CTK, an emptied path is not acceptable input: `currentPathChanged` is not emitted, only
    `validInputChanged(False)`. A path that does not exist is acceptable.
    """

    AdjustToContents, AdjustToContentsOnFirstShow, AdjustToMinimumContentsLength = 0, 1, 2

    Dirs, Files, Drives = 1, 2, 4
    Readable, Writable, Executable = 16, 32, 64
    NoDot, NoDotDot = 0x2000, 0x4000

    currentPathChanged = Signal(str)
    validInputChanged = Signal(bool)

    filters = stored(int, 0)
    nameFilters = stored("QStringList", ())
    settingKey = stored(str, "", applied="_retrieve_history")
    showBrowseButton = stored(bool, True, applied="_show_buttons")
    showHistoryButton = stored(bool, True)
    label = stored(str, "")
    options = stored(int, 0)
    sizeAdjustPolicy = stored(int, 1)
    minimumContentsLength = stored(int, 0)

    def __init__(self, parent=None):
        qt.QWidget.__init__(self, parent)
        self._edit, self._browse = qt.QComboBox(), qt.QToolButton()
        self._valid = False
        self._edit.setEditable(True)
        self._edit.setInsertPolicy(qt.QComboBox.NoInsert)
        self._edit.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._browse.setText("...")
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._edit)
        layout.addWidget(self._browse)
        self._edit.editTextChanged.connect(calling(self, "_check"))

    def _check(self, path):
        was, self._valid = self._valid, bool(path)
        if self._valid:
            self.currentPathChanged.emit(path)
        if self._valid != was:
            self.validInputChanged.emit(self._valid)

    def _show_buttons(self):
        self._browse.setVisible(self.showBrowseButton)

    def _retrieve_history(self):
        current = self.currentPath
        was = self._edit.blockSignals(True)
        self._edit.clear()
        self._edit.addItems(list(qt.QSettings().value(self.settingKey) or ()))
        self._edit.setEditText(current)
        self._edit.blockSignals(was)

    currentPath = Property(
        str,
        lambda self: self._edit.currentText,
        lambda self, path: self._edit.setEditText(path),
    )

    def addCurrentPathToHistory(self):
        """Remember the path under the setting's key."""
        known = [self._edit.itemText(i) for i in range(self._edit.count)]
        if self.currentPath and self.currentPath not in known:
            known.insert(0, self.currentPath)
            if self.settingKey:
                qt.QSettings().setValue(self.settingKey, known)
                self._retrieve_history()

    def browse(self):
        """Real Slicer opens a dialog; a test sets `currentPath`."""
        raise RuntimeError("a file dialog would wait for ever: set currentPath")


@stand_in
class ctkDirectoryButton(qt.QWidget):
    """A button that shows the folder chosen. A folder that is set is kept as an absolute path."""

    directoryChanged = Signal(str)
    directorySelected = Signal(str)

    caption = stored(str, "")
    displayAbsolutePath = stored(bool, True)
    acceptMode = stored(int, 0)

    def __init__(self, directory="", parent=None):
        if not isinstance(directory, str):
            directory, parent = "", directory
        qt.QWidget.__init__(self, parent)
        self._directory = directory or "."
        self._button = qt.QPushButton(os.path.abspath(self._directory))
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._button)

    def _set_directory(self, directory):
        directory = os.path.abspath(directory)
        if directory != os.path.abspath(self._directory):
            self._directory = directory
            self._button.setText(directory)
            self.directoryChanged.emit(directory)

    directory = Property(str, lambda self: self._directory, _set_directory)

    def browse(self):
        """Real Slicer opens a dialog; a test sets `directory`."""
        raise RuntimeError("a folder dialog would wait for ever: set directory")
