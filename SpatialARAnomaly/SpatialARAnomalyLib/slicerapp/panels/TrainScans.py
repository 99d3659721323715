"""The scans of the section *Train*: their choice, and what a survey found."""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.service.training.request import (
    ScanRow,
    SurveyResult,
    TrainingEstimate,
    TrainSpec,
)
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    doNothing,
    fillTable,
    fitTable,
    pathChanges,
    pathText,
    prepareTable,
    singleShotTimer,
)
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import checkScan
from SpatialARAnomalyLib.slicerapp.tasks.Survey import Survey
from SpatialARAnomalyLib.slicerapp.tasks.Training import Trainer
from SpatialARAnomalyLib.slicerapp.wording.Calibration import durationText, sizeText
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, inOneLine
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress

NAME = 0
"""Column of the scan's name; a longer one is cut, and whole below the table."""

ROWS = 3, 9
"""Rows that the table shows at least and at most."""

MAX_ROWS = 1000
"""Rows of the table; more would take longer than a frame."""


class TrainScans:
    """The folder, the list of loaded scans, and the table of a survey.

    `onChange` is called after every change, `onSurveyed` after a survey: with its error, and
    with whether it has a result.
    """

    def __init__(
        self,
        ui: object,
        trainer: Trainer,
        onChange: Callable[[], None],
        onSurveyed: Callable[[SpatialARError | None, bool], None],
    ) -> None:
        self._ui = ui
        self._trainer = trainer
        self._onChange = onChange
        self._onSurveyed = onSurveyed
        self._survey: Survey | None = None
        self._surveyed: Survey | None = None
        self._closed = False
        self._choice: tuple[object, ...] = ()
        """Choice of scans of the last survey."""
        self._spec: TrainSpec | None = None
        """Settings that the last survey made its estimate for."""
        self.result: SurveyResult | None = None
        self._rows: list[ScanRow] = []
        self.progress = Progress(0.0, "")
        ui.trainFolderEdit.setCurrentPath(Settings.training("Folder"))
        columns = [(title, "") for title in (_("Scan"), _("Use"), _("Slices"), _("Spacing (mm)"))]
        prepareTable(ui.trainScansTable, columns, stretched=NAME)
        # A node has neither voxels nor name when it is added: wait for the next event loop turn.
        self._sceneTimer = singleShotTimer(0)
        self._connections = Connections(
            (self._sceneTimer.timeout, self.listVolumes),
            (ui.trainScansTable.itemSelectionChanged, self._showChosen),
            (ui.trainVolumesList.itemChanged, lambda *_unused: self._onChange()),
            *pathChanges(ui.trainFolderEdit, lambda *_unused: self._onChange()),
        )
        scene = slicer.mrmlScene
        self._observed = [
            scene.AddObserver(event, lambda *_unused: self._sceneTimer.start())
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndImportEvent)
        ]
        self._show()
        self.listVolumes()

    def cleanup(self) -> None:
        """Disconnect from widgets and scene and cancel a running survey."""
        for tag in self._observed:
            slicer.mrmlScene.RemoveObserver(tag)
        self._sceneTimer.stop()
        self._connections.close()
        self._closed = True
        self._onChange = self._onSurveyed = doNothing
        self.cancel()
        self.clear()

    @property
    def surveying(self) -> bool:
        """True while a survey is running."""
        return self._survey is not None

    def files(self) -> WorkFolder | None:
        """Return the folder of the loaded scans that the last survey wrote to files."""
        return self._surveyed.files if self._surveyed is not None else None

    def survey(self, spec: TrainSpec) -> None:
        """Begin a survey."""
        self.clear()
        self._choice, self._spec = self._choiceFor(spec), replace(spec, name=None)
        Settings.setTraining("Folder", self._folder())
        self.progress = Progress(0.0, "")
        # The survey ends before it is assigned if the files cannot be written.
        ended: list[bool] = []

        def end(result: SurveyResult | None, error: SpatialARError | None) -> None:
            ended.append(True)
            self._surveyed, self._survey = self._survey, None
            self.result = result
            self._show()
            self._onSurveyed(error, result is not None)
            self._onChange()

        try:
            survey = Survey(
                self._folder(),
                self._tickedVolumes(),
                spec,
                self._trainer.worker,
                self._setProgress,
                end,
            )
            if not ended:
                self._survey = survey
        except OSError as error:  # there is no folder for the files
            end(None, asUserError(error))
        self._onChange()

    def cancel(self) -> None:
        """Cancel a running survey."""
        if self._survey is not None:
            self._survey.cancel()

    def clear(self) -> None:
        """Remove the last survey and its files."""
        files = self.files()
        if files is not None:
            self._trainer.releaseFiles(files)
        self.result, self._surveyed = None, None
        self._show()

    def nameSurveyProblem(self) -> str | None:
        """Return why no survey can begin, or None."""
        if not self._folder() and not self._tickedIds():
            return _("Choose a folder, or tick loaded scans first.")
        if self._folder() and not Path(self._folder()).exists():
            return _("The folder does not exist.")
        return None

    def nameTrainProblem(self, spec: TrainSpec) -> str | None:
        """Return why the surveyed scans cannot be trained on, or None."""
        if self.result is None:
            return _("Survey the scans first.")
        if self._choiceFor(spec) != self._choice:
            return _("The choice of scans has changed: survey them again.")
        if len(self.result.sources) < 2:
            return _("Training needs at least 2 usable scans: one is held out.")
        if self.result.patients < 2:
            return _("Training needs scans of at least 2 patients.")
        return None

    def showEstimate(self, spec: TrainSpec | None) -> None:
        """Show the estimate of a training with these settings, if it is known."""
        text = ""
        if self.result is not None and spec is not None:
            if self._choiceFor(spec) != self._choice or replace(spec, name=None) != self._spec:
                text = _("The settings have changed: survey again for an estimate.")
            elif self.result.estimate is not None:
                text = estimateText(self.result.estimate, spec.epochs)
            elif self.result.problem is not None:
                text = inOneLine(self.result.problem)
        self._ui.trainEstimateLabel.setText(text)
        self._ui.trainEstimateLabel.setVisible(bool(text))

    def listVolumes(self, *_unused: object) -> None:
        """List the scans of the scene; ticked ones stay ticked."""
        volumes = self._ui.trainVolumesList
        ticked = set(self._tickedIds())
        blocked = volumes.blockSignals(True)
        volumes.clear()
        for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"):
            with suppress(InputError):
                checkScan(node)
                item = qt.QListWidgetItem(node.GetName())
                item.setData(qt.Qt.UserRole, node.GetID())
                item.setCheckState(qt.Qt.Checked if node.GetID() in ticked else qt.Qt.Unchecked)
                volumes.addItem(item)
        if not volumes.property("count"):
            item = qt.QListWidgetItem(_("No scan is loaded."))
            item.setFlags(qt.Qt.NoItemFlags)
            volumes.addItem(item)
        volumes.blockSignals(blocked)
        self._onChange()

    def _folder(self) -> str:
        return pathText(self._ui.trainFolderEdit)

    def _tickedIds(self) -> list[str]:
        volumes = self._ui.trainVolumesList
        items = [volumes.item(row) for row in range(volumes.property("count"))]
        return [
            str(item.data(qt.Qt.UserRole))
            for item in items
            if item.data(qt.Qt.UserRole) and item.checkState() == qt.Qt.Checked
        ]

    def _tickedVolumes(self) -> list["slicer.vtkMRMLScalarVolumeNode"]:
        nodes = [slicer.mrmlScene.GetNodeByID(one) for one in self._tickedIds()]
        return [node for node in nodes if node is not None]

    def _choiceFor(self, spec: TrainSpec) -> tuple[object, ...]:
        """Return everything that decides which scans can be used."""
        orientation = spec.orientation, spec.allow_unstated_orientation
        return self._folder(), *self._tickedIds(), spec.modality, spec.plane, *orientation

    def _setProgress(self, progress: Progress) -> None:
        self.progress = progress
        self._onChange()

    def _show(self) -> None:
        if self._closed:
            return
        table, label, result = self._ui.trainScansTable, self._ui.trainCountLabel, self.result
        table.setVisible(result is not None)
        label.setVisible(result is not None)
        label.setText(countText(result) if result is not None else "")
        # What needs a look comes first.
        self._rows = sorted(
            result.rows if result is not None else (),
            key=lambda row: (row.used, row.code != "unlike"),
        )[:MAX_ROWS]
        fillTable(table, [_cells(row) for row in self._rows])
        fitTable(table, *ROWS)
        self._showChosen()

    def _showChosen(self, *_unused: object) -> None:
        """Describe the chosen scan below the table."""
        chosen = self._ui.trainScansTable.selectionModel().selectedRows()
        text = describeScan(self._rows[chosen[0].row()]) if chosen else ""
        self._ui.trainScanLabel.setText(text)
        self._ui.trainScanLabel.setVisible(bool(text))


def countText(result: SurveyResult) -> str:
    """Return the number of usable scans, and the reasons for the others."""
    if not result.rows:
        return _("No scans were found.")
    used, found = len(result.sources), len(result.rows)
    text = _("None of {found} scans can be used.").format(found=found)
    if used:
        text = _("{used} of {found} scans will be used ({modality}).").format(
            used=used, found=found, modality=result.modality or "?"
        )
    if result.patients < used:
        text = _("{text} They are of {patients} patients.").format(
            text=text, patients=result.patients
        )
    unlike = sum(row.code == "unlike" for row in result.rows)
    if unlike:
        text += " " + _("⚠ Check {count} that look unlike the others.").format(count=unlike)
    excluded = Counter(row.code or "" for row in result.rows if not row.used)
    if excluded:
        reasons = ", ".join(
            _("{count} {reason}").format(count=count, reason=exclusionText(code))
            for code, count in excluded.items()
        )
        text = _("{text} Not used: {reasons}.").format(text=text, reasons=reasons)
    if found > MAX_ROWS:
        text += " " + _("The table shows {count} of them.").format(count=MAX_ROWS)
    return text


def estimateText(estimate: TrainingEstimate, epochs: int) -> str:
    """Return the time, memory and disk that a training takes."""
    text = _(
        "About {embed} to embed and {fit} for {epochs} epochs; {memory} of memory, {disk} of "
        "disk while it runs ({free} free)."
    ).format(
        embed=durationText(estimate.embed_s),
        fit=durationText(estimate.fit_s),
        epochs=epochs,
        memory=sizeText(estimate.memory_bytes),
        disk=sizeText(estimate.disk_bytes),
        free=sizeText(estimate.free_disk_bytes),
    )
    if estimate.disk_bytes > estimate.free_disk_bytes:
        text = "⚠ " + _("It will not fit on the disk. {estimate}").format(estimate=text)
    return text


def exclusionText(code: str) -> str:
    """Return why a scan is excluded, in a word or two."""
    return {
        "unreadable": _("unreadable"),
        "duplicate": _("duplicate"),
        "other-modality": _("other modality"),
        "other-spacing": _("other spacing"),
        "no-orientation": _("no orientation"),
        "too-small": _("too small"),
        "unlike": _("used ⚠"),
    }.get(code, code or _("not used"))


def useText(row: ScanRow) -> str:
    """Return whether a scan is used, or why not, in a word or two."""
    if row.code is None:
        return _("used")
    return exclusionText(row.code) if row.used else f"✗ {exclusionText(row.code)}"


def describeScan(row: ScanRow) -> str:
    """Return why a scan is excluded, and what was read of it."""
    facts = [
        row.modality.value if row.modality else "",
        _("{shape} voxels").format(shape=" × ".join(str(one) for one in reversed(row.shape_kji)))
        if row.shape_kji
        else "",
        _("patient {patient}").format(patient=row.patient) if row.patient else "",
    ]
    parts = (f"{row.name}:", row.reason or "", *row.notes, f"({', '.join(filter(None, facts))})")
    return " ".join(one for one in parts if one not in ("", "()"))


def _cells(row: ScanRow) -> list["qt.QTableWidgetItem"]:
    """Make the cells of a scan."""
    items = []
    for text in (
        row.name,
        useText(row),
        "" if row.slices is None else str(row.slices),
        " × ".join(f"{one:.3g}" for one in row.spacing_mm or ()),
    ):
        item = qt.QTableWidgetItem(text)
        item.setFlags(qt.Qt.ItemIsSelectable | qt.Qt.ItemIsEnabled)
        item.setToolTip(describeScan(row))
        items.append(item)
    return items
