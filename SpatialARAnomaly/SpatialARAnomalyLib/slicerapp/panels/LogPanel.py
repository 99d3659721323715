"""The log of the worker, to be read and copied; without names and places."""

import time

import slicer

from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import hidePaths


class LogPanel:
    """The section *Log*."""

    def __init__(self, ui: object) -> None:
        self._text = ui.logText
        ui.copyLogButton.clicked.connect(self._copy)

    def append(self, text: str) -> None:
        """Add a line with the time."""
        self._text.appendPlainText(f"{time.strftime('%H:%M:%S')} {hidePaths(text)}")

    def _copy(self, *_unused: object) -> None:
        slicer.app.clipboard().setText(self._text.toPlainText())
