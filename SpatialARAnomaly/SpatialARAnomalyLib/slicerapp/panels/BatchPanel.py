"""The section *Many scans*: detection in all scans of a folder, and the review of its results."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.batch.table import DONE, FAILED, REFUSED, Row, is_batch
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs
from SpatialARAnomalyLib.slicerapp.panels.JobRunner import JobRunner
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    doNothing,
    enable,
    fitTable,
    pathChanges,
    pathText,
    prepareTable,
    tableItem,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.BatchRows import BatchRows
from SpatialARAnomalyLib.slicerapp.tasks.Detection import DetectionSettings, Outcome
from SpatialARAnomalyLib.slicerapp.tasks.SavedResult import SavedScan
from SpatialARAnomalyLib.slicerapp.wording.Calibration import durationText
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import Transfer
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import Event, WorkerProcess

SCAN, STATE, FINDINGS, STRONGEST = range(4)
"""Columns of the table."""

ROWS = 3, 9
"""Rows that the table shows at least and at most."""

POLL_MS = 1000
"""Milliseconds between two looks for scans that have ended."""


class BatchPanel:
    """Runs batches; `onResult` gets the result of a scan that the user wants to review.

    `settings` returns the settings of the section *Detect*, or None without a usable model.
    """

    def __init__(
        self,
        ui: object,
        logic: Logic,
        worker: WorkerProcess,
        log: Callable[[str], None],
        settings: Callable[[], DetectionSettings | None],
        onResult: Callable[[Result], None],
        dialogs: Dialogs,
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._worker = worker
        self._log = log
        self._settings = settings
        self._onResult = onResult
        self._dialogs = dialogs
        self._rows: dict[str, Row] = {}
        self._reader: BatchRows | None = None
        self._loading: Transfer | None = None
        self._loaded: dict[tuple[Path, str], str] = {}
        """Ids of results in the scene, by folder and scan."""
        self._readAgain = False
        self._sortedBy, self._ascending = -1, True
        self._jobs = JobRunner(ui.batchProgressBar, self._showStatus, log, self.refresh)
        table = ui.batchTable
        columns = [
            (_("Scan"), _("Path within the folder. Click a title to sort.")),
            (_("State"), _("How the search of the scan ended, and how long it took.")),
            (_("Findings"), ""),
            (_("Strongest"), _("Strength of the strongest finding.")),
        ]
        prepareTable(table, columns, stretched=SCAN)
        header = table.horizontalHeader()
        # Widths that follow 10,000 rows would be computed again with every new one.
        header.setSectionResizeMode(qt.QHeaderView.Interactive)
        header.setSectionResizeMode(SCAN, qt.QHeaderView.Stretch)
        header.setResizeContentsPrecision(0)  # of `resizeColumnToContents`: the visible rows
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        ui.batchScansEdit.setCurrentPath(Settings.batchFolder("Scans"))
        ui.batchResultsEdit.setCurrentPath(Settings.batchFolder("Results"))
        self._poll = qt.QTimer()
        self._poll.setInterval(POLL_MS)
        self._connections = Connections(
            (self._poll.timeout, self._readRows),
            (ui.folderButton.clicked, self._chooseFolder),
            (ui.batchButton.clicked, self._detectOrCancel),
            (ui.batchReviewButton.clicked, lambda *_unused: self._review()),
            (ui.batchOpenButton.clicked, self._openFolder),
            (table.itemSelectionChanged, lambda *_unused: self._showChosen()),
            (table.cellDoubleClicked, lambda *_unused: self._review()),
            (header.sectionClicked, self._sort),
            (ui.batchSection.contentsCollapsed, self._resultsChosen),
            *pathChanges(ui.batchScansEdit, self.refresh),
            *pathChanges(ui.batchResultsEdit, self._resultsChosen),
        )
        header.setSectionsClickable(True)
        self._showStatus("")
        ui.batchSection.setVisible(bool(Settings.batchFolder("Results")))
        self._resultsChosen()

    def cleanup(self) -> None:
        """Disconnect from the widgets; a running batch ends, and is resumed by the next."""
        self._poll.stop()
        self._stopReading()
        self._connections.close()
        self._jobs.close()
        self._log = doNothing

    @property
    def busy(self) -> bool:
        """True while a batch is running."""
        return self._jobs.busy

    @property
    def reading(self) -> bool:
        """True while rows are being added to the table."""
        return self._loading is not None

    @property
    def onMissingPackage(self) -> Callable[[], None]:
        """Called when a job failed for want of a Python package."""
        return self._jobs.onMissingPackage

    @onMissingPackage.setter
    def onMissingPackage(self, call: Callable[[], None]) -> None:
        self._jobs.onMissingPackage = call

    def _scans(self) -> Path:
        return Path(pathText(self._ui.batchScansEdit)).expanduser()

    def _results(self) -> Path:
        return Path(pathText(self._ui.batchResultsEdit)).expanduser()

    def _openFolder(self, *_unused: object) -> None:
        self._dialogs.openFolder(self._results())

    def _chooseFolder(self, *_unused: object) -> None:
        """Let the user choose a folder of scans; its results go into one beside it."""
        chosen = self._dialogs.chooseFolder(_("Folder of scans"))
        ui = self._ui
        if chosen and not self.busy and chosen != pathText(ui.batchScansEdit):
            ui.batchScansEdit.setCurrentPath(chosen)
            place = Path(chosen)
            ui.batchResultsEdit.setCurrentPath(str(place.with_name(f"{place.name} anomalies")))
        if chosen:
            ui.batchSection.setVisible(True)
            ui.batchSection.setProperty("collapsed", False)
        self.refresh()

    def _resultsChosen(self, *_unused: object) -> None:
        """Show the table of an earlier batch."""
        folder = self._results() if pathText(self._ui.batchResultsEdit) else None
        path = self._reader.path.parent if self._reader is not None else None
        isShown = not self._ui.batchSection.property("collapsed")
        if isShown and not self.busy and folder != path:
            self._clear(folder)
        self.refresh()

    def _clear(self, folder: Path | None) -> None:
        """Empty the table, and read that of a folder."""
        self._stopReading()
        self._rows = {}
        self._ui.batchTable.setRowCount(0)
        self._reader = BatchRows(folder) if folder is not None else None
        if folder is not None and is_batch(folder):
            self._readRows()

    def refresh(self, *_unused: object) -> None:
        """Enable the buttons, or show their problems in tooltips."""
        ui = self._ui
        for edit in (ui.batchScansEdit, ui.batchResultsEdit):
            edit.setEnabled(not self.busy)
        ui.batchProgressBar.setVisible(self.busy)
        if self.busy:
            ui.batchButton.setText(_("Cancel"))
            stopping = _("It stops after the current slices.") if self._jobs.cancelling else None
            enable(ui.batchButton, stopping, _("Stop; scans that are done are kept."))
        else:
            if self._poll.isActive():
                self._poll.stop()
                self._readRows()
            ui.batchButton.setText(_("Detect in all scans"))
            enable(
                ui.batchButton,
                self._nameProblem(),
                _("Search every scan that has no result yet. Repeat to resume."),
            )
        self._showChosen()

    def _nameProblem(self) -> str | None:
        if not pathText(self._ui.batchScansEdit):
            return _("Choose a folder of scans first.")
        if not self._scans().exists():
            return _("The folder of scans does not exist.")
        if not pathText(self._ui.batchResultsEdit) or not self._results().is_absolute():
            return _("Choose a folder of results first.")
        if self._settings() is None:
            return _("Choose a usable model under 'Detect' first.")
        return None

    def _detectOrCancel(self, *_unused: object) -> None:
        if self.busy:
            self._jobs.cancel()
            return
        settings = self._settings()
        if settings is None or self._nameProblem() is not None:
            self.refresh()
            return
        Settings.setBatchFolder("Scans", str(self._scans()))
        Settings.setBatchFolder("Results", str(self._results()))
        self._log(f"detection in many scans on {settings.device}")
        self._clear(None)
        self._reader = BatchRows(self._results())
        self._jobs.run(
            self._worker,
            "detect_batch",
            {"paths": [str(self._scans())]},
            self._ended,
            spec=settings.spec() | {"model": str(settings.model)},
            output=self._results(),
            status=_("Looking for scans…"),
            cancelled=_("Cancelled. Scans that are done are kept; click again to resume."),
            onEvent=self._onWorkerEvent,
        )

    def _onWorkerEvent(self, event: Event) -> None:
        """Begin to read the table, which until then is that of the batch before."""
        isBegun = event.get("event") == "progress" and event.get("unit") == "scan"
        if isBegun and not self._poll.isActive():
            self._poll.start()
            self._readRows()

    def _ended(self, event: Event) -> str:
        text = countText({state: int(event[state]) for state in (DONE, REFUSED, FAILED)})
        self._log(text)
        return text

    def _readRows(self, *_unused: object) -> None:
        """Add the rows of scans that have ended since, a few in every turn of the event loop."""
        if self._loading is not None:
            self._readAgain = True
        elif self._reader is not None:
            self._loading = Transfer(self._addRows(self._reader), self._rowsRead)

    def _addRows(self, reader: BatchRows) -> Iterator[None]:
        table = self._ui.batchTable
        for rows in reader.fresh():
            first = int(table.property("rowCount"))
            table.setRowCount(first + len(rows))
            for index, row in enumerate(rows, start=first):
                self._rows[row["scan"]] = row
                for column, item in _cells(row).items():
                    table.setItem(index, column, item)
                yield
            yield

    def _rowsRead(self, error: Exception | None) -> None:
        self._loading = None
        table = self._ui.batchTable
        table.setVisible(bool(self._rows))
        for column in (STATE, FINDINGS, STRONGEST):
            table.resizeColumnToContents(column)
        fitTable(table, *ROWS)
        if error is not None:
            raise error
        self._showChosen()
        if self._readAgain:
            self._readAgain = False
            self._readRows()

    def _stopReading(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None

    def _sort(self, column: int, *_unused: object) -> None:
        """Sort by a column: numbers from the highest, texts from A."""
        again = column == self._sortedBy
        self._ascending = not self._ascending if again else column not in (FINDINGS, STRONGEST)
        self._sortedBy = column
        order = qt.Qt.AscendingOrder if self._ascending else qt.Qt.DescendingOrder
        self._ui.batchTable.sortItems(column, order)

    def _chosen(self) -> Row | None:
        rows = self._ui.batchTable.selectionModel().selectedRows()
        item = self._ui.batchTable.item(rows[0].row(), SCAN) if rows else None
        return self._rows.get(str(item.data(qt.Qt.UserRole))) if item is not None else None

    def _showChosen(self) -> None:
        """Describe the chosen scan below the table; enable what can be done with it."""
        ui, row = self._ui, self._chosen()
        text = describeRow(row) if row is not None else ""
        ui.batchScanLabel.setText(text)
        ui.batchScanLabel.setVisible(bool(text))
        ui.batchTable.setVisible(bool(self._rows))
        enable(ui.batchReviewButton, self._nameReviewProblem(row), _("Load it with its findings."))
        known = bool(self._rows)
        enable(
            ui.batchOpenButton,
            None if known else _("There are no results yet."),
            _("Show the files of the results."),
        )
        for button in (ui.batchReviewButton, ui.batchOpenButton):
            button.setVisible(known)

    def _nameReviewProblem(self, row: Row | None) -> str | None:
        if row is None:
            return _("Choose a scan in the table first.")
        if row["state"] != DONE:
            return _("This scan has no result.")
        return None

    def _review(self) -> None:
        """Load the chosen scan with its result, unless it is in the scene already."""
        row = self._chosen()
        if row is None or self._nameReviewProblem(row) is not None:
            return
        key = self._results(), str(row["scan"])
        known = Result.of(slicer.mrmlScene.GetNodeByID(self._loaded.get(key, "")))
        if known is not None and known.scan is not None:
            self._onResult(known)
            return
        models = Settings.modelsFolder()
        scan = SavedScan(scans=self._scans(), name=key[1], folder=key[0], models=models)
        try:
            self._logic.loadSaved(scan, lambda outcome: self._reviewed(key, outcome))
        except SpatialARError as error:
            self._showStatus("⚠ " + inOneLine(error))
        self._showChosen()

    def _reviewed(self, key: tuple[Path, str], outcome: Outcome) -> None:
        if outcome.result is not None:
            self._loaded[key] = outcome.result.id
            self._onResult(outcome.result)
        elif outcome.error is not None:
            self._log(f"failed: {outcome.error.code}")
            self._showStatus("⚠ " + inOneLine(outcome.error))
        self._showChosen()

    def _showStatus(self, text: str) -> None:
        self._ui.batchStatusLabel.setText(text)
        self._ui.batchStatusLabel.setVisible(bool(text))


def countText(counts: dict[str, int]) -> str:
    """Return how many scans ended how."""
    done, total = counts[DONE], sum(counts.values())
    text = _("{done} of {total} scans are done.").format(done=done, total=total)
    if counts[REFUSED]:
        text += " " + _("{count} cannot be used.").format(count=counts[REFUSED])
    if counts[FAILED]:
        text += " " + _("{count} failed; click again to retry.").format(count=counts[FAILED])
    return text


def stateText(row: Row) -> str:
    """Return the state of a scan in words, with the time that it took."""
    words = {REFUSED: _("✗ unusable"), FAILED: _("✗ failed")}
    time = durationText(_number(row["seconds"]) or 0.0)
    return words.get(row["state"]) or _("done, {time}").format(time=time)


def describeRow(row: Row) -> str:
    """Return what became of a scan, with what to do where it has no result."""
    if row["state"] == DONE:
        return ""
    error = SpatialARError(str(row["code"]), str(row["reason"]))
    return f"{row['scan']}: {inOneLine(error)}"


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _cells(row: Row) -> "dict[int, qt.QTableWidgetItem]":
    """Make the cells of a scan by column; a column without a cell is sorted to the end."""
    values: dict[int, Any] = {
        SCAN: str(row["scan"]),
        STATE: stateText(row),
    }
    findings, strongest = _number(row["findings"]), _number(row["strongest"])
    if findings is not None:
        values[FINDINGS] = int(findings)
    if strongest is not None:
        values[STRONGEST] = float(f"{strongest:.3g}")
    toolTip = str(row["scan"] if row["state"] == DONE else row["reason"])
    items = {column: tableItem(value, toolTip) for column, value in values.items()}
    items[SCAN].setData(qt.Qt.UserRole, str(row["scan"]))
    return items
