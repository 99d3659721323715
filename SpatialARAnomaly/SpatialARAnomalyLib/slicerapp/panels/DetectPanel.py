"""The section *Detect*: volume, model, one button, progress."""

from collections.abc import Callable
from pathlib import Path

import qt
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.service.models.listing import ModelEntry, as_row, list_models
from SpatialARAnomalyLib.service.models.wording import preset_text
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.ModelsView import howToGetEncoder
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import enable
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import checkScan
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import DEMONSTRATION_FILE, DetectionSettings, Outcome
from SpatialARAnomalyLib.slicerapp.wording.Calibration import cardText
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine, isMissingPackage
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, showShare


class DetectPanel:
    """Starts and cancels detections; `onResult` gets their results.

    `onMissingPackage` hears that a package lacks which the worker needs.
    """

    def __init__(
        self,
        ui: object,
        logic: Logic,
        log: Callable[[str], None],
        onResult: Callable[[Result], None],
    ) -> None:
        self._ui = ui
        self._logic = logic
        self._log = log
        self._onResult = onResult
        self.onMissingPackage: Callable[[], None] = lambda: None
        self._parameters: SpatialARAnomalyParameterNode | None = None
        self._models: list[ModelEntry] = []
        self.onModels: Callable[[], None] = lambda: None
        for device, name in (
            (Device.AUTO, _("Automatic")),
            (Device.CPU, _("CPU")),
            (Device.CUDA, _("CUDA (NVIDIA GPU)")),
            (Device.MPS, _("MPS (Apple GPU)")),
        ):
            ui.deviceSelector.addItem(name, device.value)
        ui.deviceSelector.setCurrentIndex(ui.deviceSelector.findData(Settings.device().value))
        ui.modelsFolderEdit.setCurrentPath(str(Settings.modelsFolder()))
        self._menu = qt.QMenu(ui.modelMenuButton)
        self._demonstration = self._menu.addAction(
            _("Make the demonstration model (about a minute)")
        )
        self._look = self._menu.addAction(_("Look for models again"))
        self._open = self._menu.addAction(_("Open the models folder"))
        ui.modelMenuButton.setMenu(self._menu)
        ui.progressBar.setVisible(False)
        self._connections = (
            (self._demonstration.triggered, self._makeDemonstrationModel),
            (self._look.triggered, self._refreshModels),
            (self._open.triggered, self._openModelsFolder),
            (ui.detectButton.clicked, self._detectOrCancel),
            (ui.modelSelector.currentIndexChanged, self._modelChosen),
            (ui.deviceSelector.currentIndexChanged, self._deviceChosen),
            (ui.modelsFolderEdit.currentPathChanged, self._modelsFolderChosen),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        logic.onProgress = self._showProgress
        self._refreshModels()

    def cleanup(self) -> None:
        """Let go of the widgets."""
        for signal, slot in self._connections:
            signal.disconnect(slot)

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Work with the settings of a scene; None while there is none."""
        self._parameters = parameters
        self._chooseRememberedModel()
        self.refresh()

    def enter(self) -> None:
        """The user came back: models may have been added meanwhile."""
        self._refreshModels()

    def refreshModels(self) -> None:
        """Look for models again; `onModels` is called then."""
        self._refreshModels()

    def chooseModel(self, path: Path) -> bool:
        """Look for models again and use that file's from now on; whether it can be used."""
        self._refreshModels()
        for index, entry in enumerate(self._models):
            if entry.path == path and entry.card is not None:
                selector = self._ui.modelSelector
                blocked = selector.blockSignals(True)
                selector.setCurrentIndex(index)
                selector.blockSignals(blocked)
                self._modelChosen()
                return True
        return False

    def _chosen(self) -> ModelEntry | None:
        index = self._ui.modelSelector.property("currentIndex")
        return self._models[index] if 0 <= index < len(self._models) else None

    def _refreshModels(self, *_unused: object) -> None:
        before = self._chosen()
        self._models = list_models(Settings.modelsFolder())
        selector = self._ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for entry in self._models:
            if entry.card is not None:
                selector.addItem(entry.card.name)
            else:
                selector.addItem(_("{name} (cannot be used)").format(name=entry.name))
        selector.blockSignals(blocked)
        self._chooseRememberedModel(before)
        self.refresh()
        self.onModels()

    def _chooseRememberedModel(self, before: ModelEntry | None = None) -> None:
        wanted = self._parameters.modelSha256 if self._parameters is not None else ""
        hashes = [
            entry.card.weights_sha256 if entry.card is not None else "" for entry in self._models
        ]
        usable = [index for index, sha256 in enumerate(hashes) if sha256]
        sha256 = next((one for one in (wanted, Settings.lastModel()) if one and one in hashes), "")
        likely = [index for index in usable if hashes[index] == sha256] or usable or [0]
        # Of two copies of a model the one that was chosen stays so.
        kept = [
            index
            for index in likely
            if before is not None and self._models and self._models[index].path == before.path
        ]
        selector = self._ui.modelSelector
        blocked = selector.blockSignals(True)
        selector.setCurrentIndex((kept or likely)[0] if self._models else -1)
        selector.blockSignals(blocked)

    def _modelChosen(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is not None and entry.card is not None:
            Settings.setLastModel(entry.card.weights_sha256)
            if self._parameters is not None:
                self._parameters.modelSha256 = entry.card.weights_sha256
        self.refresh()

    def _deviceChosen(self, *_unused: object) -> None:
        value = self._ui.deviceSelector.itemData(self._ui.deviceSelector.property("currentIndex"))
        Settings.setDevice(Device(value))

    def _modelsFolderChosen(self, *_unused: object) -> None:
        folder = self._ui.modelsFolderEdit.property("currentPath")
        if folder and folder != str(Settings.modelsFolder()):
            Settings.setModelsFolder(Path(folder))
            self._refreshModels()

    def _openModelsFolder(self, *_unused: object) -> None:
        folder = Settings.modelsFolder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            self._tell(
                _("The models folder cannot be made ({reason}).").format(reason=error.strerror),
                isError=True,
            )
            return
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(folder)))

    def refresh(self, *_unused: object) -> None:
        """Show what can be done now, and why not what cannot."""
        ui, logic = self._ui, self._logic
        entry = self._chosen()
        ui.modelCardLabel.setText(_cardText(entry))
        busy = logic.busy
        for widget in (ui.inputSelector, ui.modelSelector, ui.modelMenuButton, ui.deviceSelector):
            widget.setEnabled(not busy)
        ui.progressBar.setVisible(busy)
        if busy:
            ui.detectButton.setText(_("Cancel"))
            waiting = _("It stops after the current batch.") if logic.cancelling else None
            enable(ui.detectButton, waiting, _("Stop; the scene stays as it was."))
            return
        ui.detectButton.setText(_("Detect anomalies"))
        enable(
            ui.detectButton,
            self._whyNotDetect(entry),
            _("Search the volume for what the model of normal scans finds unlikely."),
        )

    def _whyNotDetect(self, entry: ModelEntry | None) -> str | None:
        if self._parameters is None:
            return _("The scene is being closed.")
        try:
            checkScan(self._parameters.inputVolume)
        except SpatialARError as error:
            return inOneLine(error)
        if entry is None:
            return _("There is no model yet: make the demonstration model with More.")
        if entry.card is None:
            return _("The chosen model cannot be used.")
        return None

    def _detectOrCancel(self, *_unused: object) -> None:
        if self._logic.busy:
            self._tell(_("Cancelling…"))
            self._logic.cancel()
            self.refresh()
            return
        entry, parameters = self._chosen(), self._parameters
        if entry is None or entry.card is None or parameters is None:
            self.refresh()
            return
        self._tell("")
        settings = DetectionSettings(
            model=entry.path,
            falsePositiveRate=parameters.falsePositiveRate,
            leastVolumeMl=parameters.leastVolumeMl,
            device=Settings.device(),
            allowMismatch=parameters.allowMismatch,
        )
        self._log(f"detection with a model of {entry.card.modality} on {settings.device}")
        try:
            self._logic.detect(parameters.inputVolume, settings, self._detected)
        except SpatialARError as error:
            self._tell(inOneLine(error), isError=True)
        self.refresh()

    def _detected(self, outcome: Outcome) -> None:
        if outcome.result is not None:
            count = len(readRows(outcome.result.table))
            text = {0: _("No findings."), 1: _("1 finding.")}.get(
                count, _("{count} findings.").format(count=count)
            )
            self._onResult(outcome.result)
            self._tell(" ".join([text, *outcome.notices]))
        else:
            self._ended(outcome, _("Cancelled. The scene is as it was."))
        self.refresh()

    def _makeDemonstrationModel(self, *_unused: object) -> None:
        folder = Settings.modelsFolder()
        known = {entry.path.name: entry for entry in self._models}
        if DEMONSTRATION_FILE in known and known[DEMONSTRATION_FILE].card is not None:
            self._tell(_("The demonstration model is there already."))
            return
        self._tell("")
        self._log("training of the demonstration model")
        try:
            self._logic.makeDemonstrationModel(folder, Settings.device(), self._made)
        except SpatialARError as error:
            self._tell(inOneLine(error), isError=True)
        self.refresh()

    def _made(self, outcome: Outcome) -> None:
        self._refreshModels()
        if outcome.error is None and self.chooseModel(Settings.modelsFolder() / DEMONSTRATION_FILE):
            self._tell(_("The demonstration model is ready. It knows the sample heads only."))
        else:
            self._ended(outcome, _("Cancelled. No model was made."))
        self.refresh()

    def _ended(self, outcome: Outcome, cancelled: str) -> None:
        if outcome.error is None:
            self._tell(cancelled)
            return
        self._log(f"failed: {outcome.error.code}")
        self._tell(inOneLine(outcome.error), isError=True)
        if isMissingPackage(outcome.error):
            self.onMissingPackage()

    def _showProgress(self, progress: Progress) -> None:
        showShare(self._ui.progressBar, progress.share)
        if not self._logic.cancelling:
            self._tell(progress.text, keepLog=True)

    def _tell(self, text: str, *, isError: bool = False, keepLog: bool = False) -> None:
        self._ui.statusLabel.setText(f"⚠ {text}" if isError else text)
        if text and not keepLog and not isError:
            self._log(text)


def _cardText(entry: ModelEntry | None) -> str:
    """What a model is, in a few lines."""
    if entry is None:
        return _("No model yet. Make the demonstration model with More, or train one.")
    if entry.card is None:
        return inOneLine(entry.error) if entry.error is not None else ""
    card: ModelCard = entry.card
    normals = card.normals
    text = _(
        "{modality}, {plane}, field of view {fov} mm, {size} px. Learned from {training} normal "
        "scans, calibrated on {held} more. Encoder: {encoder}. Network: {network}. Made {created}."
    ).format(
        modality=card.modality,
        plane=card.slices.plane,
        fov=f"{card.slices.fov_mm:g}",
        size=card.slices.size_px,
        training=len(normals.training_sha256),
        held=len(normals.held_out_sha256),
        encoder=card.encoder.name,
        network=preset_text(card.autoregressive),
        created=card.created,
    )
    parts = (text, cardText(card.calibration), howToGetEncoder(as_row(entry)))
    return " ".join(part for part in parts if part)
