"""The section *Detect*, and the section *Log* with the worker's messages."""

import time
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.models.listing import ModelEntry, as_row, list_models
from SpatialARAnomalyLib.service.models.wording import preset_text
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs, openModelsFolder
from SpatialARAnomalyLib.slicerapp.panels.ModelsView import explainMissingEncoder
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    doNothing,
    enable,
    pathChanges,
    pathText,
)
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import checkScan
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    DEMONSTRATION_FILE,
    DetectionSettings,
    Outcome,
)
from SpatialARAnomalyLib.slicerapp.tasks.DicomVolume import SEVERAL_VOLUMES
from SpatialARAnomalyLib.slicerapp.wording.Calibration import cardText
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine, isMissingPackage
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, showShare
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import hidePaths


class LogPanel:
    """Shows messages without paths, to be copied for a report."""

    def __init__(self, ui: object) -> None:
        self._text = ui.logText
        ui.copyLogButton.clicked.connect(self._copy)

    def append(self, text: str) -> None:
        """Add a line with the time."""
        self._text.appendPlainText(f"{time.strftime('%H:%M:%S')} {hidePaths(text)}")

    def _copy(self, *_unused: object) -> None:
        slicer.app.clipboard().setText(self._text.toPlainText())


class DetectPanel:
    """Starts and cancels detections; `onResult` gets their results.

    `onModels` is called after the models were listed, `onMissingPackage` when a job failed for
    want of a Python package, the others where the next step is elsewhere.
    """

    def __init__(
        self,
        ui: object,
        logic: Logic,
        log: Callable[[str], None],
        onResult: Callable[[Result], None],
        dialogs: Dialogs | None = None,
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._log = log
        self._onResult = onResult
        self._dialogs = dialogs or Dialogs(ui.detectSection)
        self.onModels: Callable[[], None] = doNothing
        self.onMissingPackage: Callable[[], None] = doNothing
        self.onOpenSetup: Callable[[], None] = doNothing
        self.onImportModel: Callable[[], None] = doNothing
        self.packagesAreMissing: Callable[[], bool] = lambda: False
        self._parameters: SpatialARAnomalyParameterNode | None = None
        self._models: list[ModelEntry] = []
        self._closed = False
        self._reported: tuple[str, list[str]] | None = None
        """Id of the result that the status speaks of, and its notices."""
        for device, name in (
            (Device.AUTO, _("Automatic")),
            (Device.CPU, _("CPU")),
            (Device.CUDA, _("CUDA (NVIDIA GPU)")),
            (Device.MPS, _("MPS (Apple GPU)")),
        ):
            ui.deviceSelector.addItem(name, device.value)
        ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData(Settings.device().value))
        ui.modelsFolderEdit.setCurrentPath(str(Settings.modelsFolder()))
        menu = qt.QMenu(ui.modelMenuButton)
        self.demonstrationAction = menu.addAction(_("Make the demonstration model (some minutes)"))
        reloadAction = menu.addAction(_("Reload the models"))
        openAction = menu.addAction(_("Open the models folder"))
        ui.modelMenuButton.setMenu(menu)
        self._menu = menu  # PythonQt deletes an object without a reference
        ui.progressBar.setVisible(False)
        self._showStatus("")
        self._connections = Connections(
            (self.demonstrationAction.triggered, self._makeDemonstrationModel),
            (reloadAction.triggered, self.reloadModels),
            (
                openAction.triggered,
                lambda *_unused: self._showStatus(openModelsFolder(self._dialogs)),
            ),
            (ui.detectButton.clicked, self._detectOrCancel),
            (ui.modelDetailsButton.toggled, self._showDetails),
            (ui.makeDemonstrationButton.clicked, self._makeDemonstrationModel),
            (ui.importModelButton.clicked, lambda *_unused: self.onImportModel()),
            (ui.openSetupButton.clicked, lambda *_unused: self.onOpenSetup()),
            (ui.inputSelector.currentNodeChanged, self._volumeChosen),
            (ui.maskSelector.currentNodeChanged, self.refresh),
            (ui.modelSelector.currentIndexChanged, self._modelChosen),
            (ui.deviceSelector.currentIndexChanged, self._deviceChosen),
            *pathChanges(ui.modelsFolderEdit, self._modelsFolderChosen),
        )
        logic.onProgress = self._showProgress
        logic.onBusyChanged = self._busyChanged
        self.reloadModels()

    def cleanup(self) -> None:
        """Disconnect from the widgets."""
        self._connections.close()
        self._closed = True

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Set the parameters of the scene; None without a scene."""
        self._parameters = parameters
        self._chooseRememberedModel()
        self.refresh()

    def reloadModels(self, *_unused: object) -> None:
        """List the models of the models folder; the chosen one stays chosen."""
        before = self.chosenModel()
        self._models = list_models(Settings.modelsFolder())
        selector = self._ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for entry in self._models:
            unusable = _("{name} (cannot be used)").format(name=entry.name)
            selector.addItem(entry.name if entry.card is not None else unusable)
        selector.blockSignals(blocked)
        self._chooseRememberedModel(before)
        self.refresh()
        self.onModels()

    def chooseModel(self, path: Path) -> bool:
        """Reload the models and choose that of a file; return whether it can be used."""
        self.reloadModels()
        for index, entry in enumerate(self._models):
            if entry.path == path and entry.card is not None:
                self._selectModel(index)
                self._modelChosen()
                return True
        return False

    def chosenModel(self) -> ModelEntry | None:
        """Return the model that is chosen."""
        index = self._ui.modelSelector.property("currentIndex")
        return self._models[index] if 0 <= index < len(self._models) else None

    def _selectModel(self, index: int) -> None:
        selector = self._ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.setCurrentIndex(index)
        selector.blockSignals(blocked)

    def _chooseRememberedModel(self, before: ModelEntry | None = None) -> None:
        """Choose the scene's model, or the user's last one, or the first that can be used."""
        if not self._models:
            self._selectModel(-1)
            return
        hashes = [
            entry.card.weights_sha256 if entry.card is not None else "" for entry in self._models
        ]
        scene = self._parameters.modelSha256 if self._parameters is not None else ""
        sha256 = next((one for one in (scene, Settings.lastModel()) if one and one in hashes), "")
        usable = [index for index, one in enumerate(hashes) if one]
        likely = [index for index in usable if hashes[index] == sha256] or usable or [0]
        # Of two copies of a model, the chosen one stays chosen.
        kept = [
            index
            for index in likely
            if before is not None and self._models[index].path == before.path
        ]
        self._selectModel((kept or likely)[0])

    def _modelChosen(self, *_unused: object) -> None:
        entry = self.chosenModel()
        if entry is not None and entry.card is not None:
            Settings.setLastModel(entry.card.weights_sha256)
            if self._parameters is not None:
                self._parameters.modelSha256 = entry.card.weights_sha256
        self.refresh()

    def _volumeChosen(self, *_unused: object) -> None:
        self._ui.maskSelector.setCurrentNode(None)  # a mask is that of one scan

    def _deviceChosen(self, *_unused: object) -> None:
        value = self._ui.deviceSelector.itemData(self._ui.deviceSelector.property("currentIndex"))
        Settings.setDevice(Device(value))

    def _modelsFolderChosen(self, *_unused: object) -> None:
        before = Settings.modelsFolder()
        Settings.setModelsFolder(pathText(self._ui.modelsFolderEdit))
        if Settings.modelsFolder() != before:
            self.reloadModels()

    def refresh(self, *_unused: object) -> None:
        """Show the model's card; enable the button, or show its problem in the tooltip."""
        ui, logic = self._ui, self._logic
        entry = self.chosenModel()
        ui.modelCardLineLabel.setText(_summarizeModel(entry))
        ui.modelCardLabel.setText(_describeModel(entry))
        ui.modelDetailsButton.setEnabled(entry is not None)
        self._showDetails()
        self._showFirstStep()
        for widget in (
            ui.inputSelector,
            ui.maskSelector,
            ui.modelSelector,
            ui.modelMenuButton,
            ui.deviceSelector,
        ):
            widget.setEnabled(not logic.busy)
        ui.progressBar.setVisible(logic.busy)
        if logic.busy:
            ui.detectButton.setText(_("Cancel"))
            stopping = _("It stops after the current batch.") if logic.cancelling else None
            enable(ui.detectButton, stopping, _("Stop; the scene stays as it was."))
            return
        ui.detectButton.setText(_("Detect anomalies"))
        enable(
            ui.detectButton,
            self._nameProblem(entry),
            _("Search the volume for what is unlikely in normal scans."),
        )

    def _showDetails(self, *_unused: object) -> None:
        entry, details = self.chosenModel(), self._ui.modelDetailsButton
        # What keeps a model from being used is shown in any case.
        shown = entry is not None and (details.isChecked() or entry.card is None)
        details.setArrowType(qt.Qt.DownArrow if shown else qt.Qt.RightArrow)
        self._ui.modelCardLabel.setVisible(shown)

    def _showFirstStep(self) -> None:
        """Show what to do first where packages or models are missing."""
        ui = self._ui
        missing = self.packagesAreMissing()
        noModel = not any(one.card is not None for one in self._models)
        ui.firstRunBox.setVisible((missing or noModel) and not self._logic.busy)
        ui.firstRunLabel.setText(
            _("Install the missing Python packages first.")
            if missing
            else _("No model yet: make the demonstration model, or import one.")
        )
        ui.openSetupButton.setVisible(missing)
        ui.makeDemonstrationButton.setVisible(not missing)
        ui.importModelButton.setVisible(not missing)

    def _nameProblem(self, entry: ModelEntry | None) -> str | None:
        if self._parameters is None:
            return _("The scene is being closed.")
        try:
            checkScan(self._parameters.inputVolume)
        except SpatialARError as error:
            return inOneLine(error)
        mask = self._ui.maskSelector.currentNode()
        if mask is not None and (
            mask.GetParentTransformNode()
            is not self._parameters.inputVolume.GetParentTransformNode()
        ):
            return _("The mask must be under the same transform as the volume.")
        if entry is None:
            return _("There is no model yet: make the demonstration model, or import one.")
        return None if entry.card is not None else _("The chosen model cannot be used.")

    def settings(self) -> DetectionSettings | None:
        """Return the settings of a detection; None without a usable model, or a scene."""
        entry, parameters = self.chosenModel(), self._parameters
        if entry is None or entry.card is None or parameters is None:
            return None
        return DetectionSettings(
            model=entry.path,
            falsePositiveRate=parameters.falsePositiveRate,
            leastVolumeMl=parameters.leastVolumeMl,
            device=Settings.device(),
            allowMismatch=parameters.allowMismatch,
            refineOutlines=parameters.refineOutlines,
        )

    def _detectOrCancel(self, *_unused: object) -> None:
        if self._logic.busy:
            self._report(_("Cancelling…"))
            self._logic.cancel()
            self.refresh()
            return
        settings, parameters = self.settings(), self._parameters
        if settings is None or parameters is None:
            self.refresh()
            return
        modality = self.chosenModel().card.modality
        self._log(f"detection with a model of {modality} on {settings.device}")
        mask = self._ui.maskSelector.currentNode()
        self._start(
            lambda: self._logic.startDetection(
                parameters.inputVolume, settings, self._detected, mask
            )
        )

    def _busyChanged(self) -> None:
        """Follow a task, which may be a script's."""
        if not self._logic.busy:
            self._showStatus("")
        self.refresh()

    def _start(self, start: Callable[[], None]) -> None:
        self._showStatus("")
        try:
            start()
        except SpatialARError as error:
            self._showStatus("⚠ " + inOneLine(error))
            self.refresh()

    def _chooseVolume(self) -> None:
        """Let the user choose one of the volumes of the DICOM series, and search it."""
        self._start(
            lambda: self._logic.loadDicomVolume(
                self._parameters.inputVolume,
                lambda names: self._dialogs.chooseOne(
                    _("Volumes of the series"),
                    _("The DICOM series holds several volumes. Choose the one to search."),
                    names,
                ),
                self._loaded,
            )
        )

    def _loaded(self, outcome: Outcome) -> None:
        if self._closed:
            return
        if outcome.volume is None or self._parameters is None:
            self.reportEnd(outcome, _("Cancelled. The scene is as it was."))
            self.refresh()
            return
        self._log("a volume of the DICOM series was loaded")
        self._parameters.inputVolume = outcome.volume
        slicer.util.setSliceViewerLayers(background=outcome.volume, fit=True)
        self._detectOrCancel()

    def _detected(self, outcome: Outcome) -> None:
        if self._closed:
            return
        if outcome.error is not None and outcome.error.code in SEVERAL_VOLUMES:
            self._log(f"failed: {outcome.error.code}")
            self._chooseVolume()
            return
        if outcome.result is not None:
            self._onResult(outcome.result)
            cautions = outcome.result.cautions
            others = [one for one in outcome.notices if one not in cautions]
            self._log(" ".join([_countText(outcome.result), *cautions, *others]))
            self._reported = (outcome.result.id, others)
            self.resultChanged(outcome.result)
        else:
            self.reportEnd(outcome, _("Cancelled. The scene is as it was."))
        self.refresh()

    def resultChanged(self, result: Result | None) -> None:
        """Update a status that speaks of a result, or remove it with the result."""
        if self._reported is None:
            return
        resultId, notices = self._reported
        if result is None or result.id != resultId:
            self._showStatus("")
            return
        cautions = [f"⚠ {one}" for one in result.cautions]
        self._showStatus(" ".join([*cautions, _countText(result), *notices]))
        self._reported = (resultId, notices)

    def _makeDemonstrationModel(self, *_unused: object) -> None:
        folder = Settings.modelsFolder()
        if any(
            one.path.name == DEMONSTRATION_FILE and one.card is not None for one in self._models
        ):
            self._report(_("The demonstration model already exists."))
            return
        self._log("training of the demonstration model")
        self._start(
            lambda: self._logic.makeDemonstrationModel(folder, Settings.device(), self._made)
        )

    def _made(self, outcome: Outcome) -> None:
        if self._closed:
            return
        self.reloadModels()
        model = Settings.modelsFolder() / DEMONSTRATION_FILE
        if outcome.error is None and self.chooseModel(model):
            self._report(_("The demonstration model is ready. Use it for the sample heads only."))
        else:
            self.reportEnd(outcome, _("Cancelled. No model was made."))
        self.refresh()

    def reportEnd(self, outcome: Outcome, cancelled: str) -> None:
        """Show the error of a job without result, or the text for a cancelled one."""
        if outcome.error is None:
            self._report(cancelled)
            return
        self._log(f"failed: {outcome.error.code}")
        self._showStatus("⚠ " + inOneLine(outcome.error))
        if isMissingPackage(outcome.error):
            self.onMissingPackage()

    def _showProgress(self, progress: Progress) -> None:
        showShare(self._ui.progressBar, progress.share)
        if not self._logic.cancelling:
            self._showStatus(progress.text)

    def _report(self, text: str) -> None:
        self._showStatus(text)
        self._log(text)

    def _showStatus(self, text: str) -> None:
        self._reported = None
        self._ui.statusLabel.setText(text)
        self._ui.statusLabel.setVisible(bool(text))


def _countText(result: Result) -> str:
    count = len(readRows(result.table))
    return {0: _("No findings."), 1: _("1 finding.")}.get(
        count, _("{count} findings.").format(count=count)
    )


def _summarizeModel(entry: ModelEntry | None) -> str:
    """Return a model's card in one line."""
    if entry is None:
        return _("No model.")
    card = entry.card
    if card is None:
        return _("⚠ This model cannot be used.")
    count = len(card.normals.training_sha256) + len(card.normals.held_out_sha256)
    parts = [card.modality, card.slices.plane, _("{count} normal scans").format(count=count)]
    return " · ".join([*parts, _("rough calibration")] if card.calibration.is_rough else parts)


def _describeModel(entry: ModelEntry | None) -> str:
    if entry is None:
        return ""
    card = entry.card
    if card is None:
        return inOneLine(entry.error) if entry.error is not None else ""
    text = _(
        "{modality}, {plane}, field of view {fov} mm, {size} px. Trained on {training} normal "
        "scans, calibrated on {held} more. Encoder: {encoder}. Network: {network}. Made {created}."
    ).format(
        modality=card.modality,
        plane=card.slices.plane,
        fov=f"{card.slices.fov_mm:g}",
        size=card.slices.size_px,
        training=len(card.normals.training_sha256),
        held=len(card.normals.held_out_sha256),
        encoder=card.encoder.name,
        network=preset_text(card.autoregressive),
        created=card.created,
    )
    parts = (text, cardText(card.calibration), explainMissingEncoder(as_row(entry)))
    return " ".join(part for part in parts if part)
