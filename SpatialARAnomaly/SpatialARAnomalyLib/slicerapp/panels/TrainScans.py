"""In the section *Train*: which scans to learn from, and what a look at them found."""

from collections import Counter
from collections.abc import Callable, Sequence
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
from SpatialARAnomalyLib.slicerapp.QtHelpers import singleShotTimer
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import checkScan
from SpatialARAnomalyLib.slicerapp.tasks.Survey import Survey
from SpatialARAnomalyLib.slicerapp.tasks.Training import Trainer
from SpatialARAnomalyLib.slicerapp.wording.Calibration import durationText, sizeText
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress

MAX_NAME_PX = 150
"""A longer name is cut in the table; pointing at it shows all."""


class TrainScans:
    """The pick list, the folder, and the table.

    `onChange` hears of every change, `onLooked` of the end of a survey: with
    the error that ended it, or whether there is a result.
    """

    def __init__(
        self,
        ui: object,
        trainer: Trainer,
        onChange: Callable[[], None],
        onLooked: Callable[[SpatialARError | None, bool], None],
    ) -> None:
        self._ui = ui
        self._trainer = trainer
        self._onChange = onChange
        self._onLooked = onLooked
        self._survey: Survey | None = None
        self._surveyed: Survey | None = None
        self._closed = False
        self._choice: tuple[object, ...] = ()
        """Which scans the last survey was of."""
        self._spec: TrainSpec | None = None
        """Which training it estimated."""
        self.result: SurveyResult | None = None
        self.progress = Progress(0.0, "")
        ui.trainFolderEdit.setCurrentPath(Settings.training("Folder"))
        # Nodes have neither voxels nor name yet when they are added: look a moment later.
        self._timer = singleShotTimer(0)
        self._connections = (
            (self._timer.timeout, self.listVolumes),
            (ui.trainVolumesList.itemChanged, self._changed),
            (ui.trainFolderEdit.currentPathChanged, self._changed),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        scene = slicer.mrmlScene
        self._observed = [
            scene.AddObserver(event, self._sceneChanged)
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndImportEvent)
        ]
        self._show()
        self.listVolumes()

    def cleanup(self) -> None:
        """Let go of widgets and scene; a survey under way ends."""
        for tag in self._observed:
            slicer.mrmlScene.RemoveObserver(tag)
        self._timer.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self._closed = True
        self._onChange = lambda: None
        self._onLooked = lambda error, found: None
        self.cancel()
        self.forget()

    @property
    def looking(self) -> bool:
        """Whether a survey is under way."""
        return self._survey is not None

    def files(self) -> WorkFolder | None:
        """Where the ticked scans of the last survey lie."""
        scans = self._surveyed.scans if self._surveyed is not None else None
        return scans.folder if scans is not None else None

    def look(self, spec: TrainSpec) -> None:
        """Begin a survey."""
        self.forget()
        self._choice, self._spec = self._chosen(spec), replace(spec, name=None)
        Settings.setTraining("Folder", self._folder())
        self.progress = Progress(0.0, "")
        # May end before it is there to be kept, as where the files cannot be written.
        ended: list[bool] = []

        def end(result: SurveyResult | None, error: SpatialARError | None) -> None:
            ended.append(True)
            self._surveyed, self._survey = self._survey, None
            self.result = result
            self._show()
            self._onLooked(error, result is not None)
            self._onChange()

        try:
            survey = Survey(
                self._folder(),
                self._ticked(),
                spec,
                self._trainer.worker,
                self._progressed,
                end,
            )
            if not ended:
                self._survey = survey
        except OSError as error:  # no folder for the files
            end(None, asUserError(error))
        self._onChange()

    def cancel(self) -> None:
        """Stop a survey."""
        if self._survey is not None:
            self._survey.cancel()

    def forget(self) -> None:
        """There is no survey any more."""
        files = self.files()
        if files is not None:
            self._trainer.releaseFiles(files)
        self.result, self._surveyed = None, None
        self._show()

    def whyNotLook(self) -> str | None:
        """Why no survey can begin."""
        if not self._folder() and not self._ticked():
            return _("Choose a folder, or tick loaded scans first.")
        if self._folder() and not Path(self._folder()).is_dir():
            return _("The folder is not there.")
        return None

    def whyNotTrain(self, spec: TrainSpec) -> str | None:
        """Why the scans that were found do not do."""
        if self.result is None:
            return _("Look at the scans first.")
        if self._chosen(spec) != self._choice:
            return _("The choice of scans has changed: look at the scans again.")
        if len(self.result.sources) < 2:
            return _("At least 2 scans must be usable: one to learn from, one to check with.")
        return None

    def showEstimate(self, spec: TrainSpec | None) -> None:
        """Say what a training with these settings would take, as far as that is known."""
        text = ""
        if self.result is not None and spec is not None:
            if self._chosen(spec) != self._choice or replace(spec, name=None) != self._spec:
                text = _("The settings have changed: look at the scans again for an estimate.")
            elif self.result.estimate is not None:
                text = estimateText(self.result.estimate, spec.epochs)
            else:
                text = self.result.estimate_problem or ""
        self._ui.trainEstimateLabel.setText(text)
        self._ui.trainEstimateLabel.setVisible(bool(text))

    def listVolumes(self, *_unused: object) -> None:
        """List the scans of the scene; those that were ticked stay so."""
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
        self._changed()

    def _sceneChanged(self, scene: object, event: str) -> None:
        self._timer.start()

    def _changed(self, *_unused: object) -> None:
        self._onChange()

    def _folder(self) -> str:
        return str(self._ui.trainFolderEdit.property("currentPath") or "").strip()

    def _tickedIds(self) -> list[str]:
        volumes = self._ui.trainVolumesList
        items = [volumes.item(row) for row in range(volumes.property("count"))]
        return [
            str(item.data(qt.Qt.UserRole))
            for item in items
            if item.data(qt.Qt.UserRole) and item.checkState() == qt.Qt.Checked
        ]

    def _ticked(self) -> list["slicer.vtkMRMLScalarVolumeNode"]:
        nodes = [slicer.mrmlScene.GetNodeByID(one) for one in self._tickedIds()]
        return [node for node in nodes if node is not None]

    def _chosen(self, spec: TrainSpec) -> tuple[object, ...]:
        """What decides which scans can be used."""
        return self._folder(), *self._tickedIds(), spec.modality, spec.plane

    def _progressed(self, progress: Progress) -> None:
        self.progress = progress
        self._onChange()

    def _show(self) -> None:
        if self._closed:  # the trainer's worker goes on, the widgets are gone
            return
        ui, result = self._ui, self.result
        ui.trainScansTable.setVisible(result is not None)
        ui.trainCountLabel.setVisible(result is not None)
        fillScansTable(ui.trainScansTable, result.rows if result is not None else ())
        ui.trainCountLabel.setText(countText(result) if result is not None else "")


def countText(result: SurveyResult) -> str:
    """How many scans will be used, and why not the others."""
    used = len(result.sources)
    text = _("{used} of {found} scans will be used ({modality}).").format(
        used=used, found=len(result.rows), modality=result.modality or "?"
    )
    if not used:
        text = _("None of {found} scans can be used.").format(found=len(result.rows))
    if not result.rows:
        return _("No scans were found.")
    left = Counter(row.code or "" for row in result.rows if not row.used)
    if left:
        listed = ", ".join(
            _("{count} {reason}").format(count=count, reason=codeWord(code))
            for code, count in left.items()
        )
        text = _("{text} Not used: {listed}.").format(text=text, listed=listed)
    return text


def estimateText(estimate: TrainingEstimate, epochs: int) -> str:
    """What a training would take, and whether the disk has it."""
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


def _texts(row: ScanRow) -> tuple[str, ...]:
    return (
        row.name,
        _("used") if row.used else codeWord(row.code or ""),
        row.modality.value if row.modality else "",
        "" if row.slices is None else str(row.slices),
        " × ".join(str(one) for one in reversed(row.shape_kji or ())),
        " × ".join(f"{one:.3g}" for one in row.spacing_mm or ()),
        row.reason or "",
    )
