"""The section *Train*: scans, settings, one button, progress, and what was left unfinished."""

from collections.abc import Callable
from pathlib import Path

from slicer.i18n import tr as _

from ..engine.errors import SpatialARError
from ..engine.specs import Modality, Plane, Preset
from ..service.unfinished_trainings import list_unfinished
from . import Settings
from .Buttons import enable
from .Detection import Outcome
from .EncoderChoices import OWN_FILES, encoderChoices
from .ErrorWords import inOneLine
from .Export import fileName
from .ParameterNode import SpatialARAnomalyParameterNode
from .Trainer import Trainer, sharedTrainer
from .Training import State, Training, TrainingRequest
from .TrainingPlot import TrainingPlot
from .TrainScans import TrainScans
from .TrainSettings import TrainSettings
from .UnfinishedLine import UnfinishedLine

PROGRESS_STEPS = 1000
"""Resolution of the progress bar."""

PATCH_PX = 16
"""The resolution is a multiple of the encoders' patch."""

LONGEST_NAME = 60
"""Characters of a model's folder."""


class TrainPanel:
    """Starts, pauses and cancels trainings.

    `onModel` gets the folder of a new model and says whether it could choose it.
    """

    def __init__(
        self,
        ui: object,
        log: Callable[[str], None],
        confirm: Callable[[str], bool],
        onModel: Callable[[Path], bool],
        trainer: Trainer | None = None,
    ) -> None:
        self._ui = ui
        self._log = log
        self._onModel = onModel
        self._trainer = sharedTrainer() if trainer is None else trainer
        self._parameters: SpatialARAnomalyParameterNode | None = None
        self._entered = False
        self._plot = TrainingPlot()
        self._epochsShown = 0
        self._filling = True
        self._fillSelectors()
        self.unfinished = UnfinishedLine(ui, self._trainer, confirm, self._begin, self._discarded)
        self.scans = TrainScans(ui, self._trainer, self.refresh, self._looked)
        self._connections = (
            (ui.trainNameEdit.textChanged, self.refresh),
            (ui.trainModalitySelector.currentIndexChanged, self._chosen),
            (ui.trainPlaneSelector.currentIndexChanged, self._chosen),
            (ui.trainEncoderSelector.currentIndexChanged, self._chosen),
            (ui.trainEncoderPathEdit.currentPathChanged, self._chosen),
            (ui.trainPresetSelector.currentIndexChanged, self._chosen),
            (ui.trainSizeSpinBox.valueChanged, self._chosen),
            (ui.trainSizeSpinBox.editingFinished, self._roundSize),
            (ui.trainEpochsSpinBox.valueChanged, self._chosen),
            (ui.modelsFolderEdit.currentPathChanged, self._modelsFolderChanged),
            (ui.trainLookButton.clicked, self._lookOrStop),
            (ui.trainButton.clicked, self._trainOrCancel),
            (ui.trainPauseButton.clicked, self._pauseOrGoOn),
            (ui.trainPlotButton.clicked, self._showPlot),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        self._filling = False
        self._trainer.worker.log = log
        self._trainer.onChange = self._trainingChanged
        self._trainer.confirmQuit = confirm
        self._modelsFolderChanged()
        self._trainingChanged()

    def _fillSelectors(self) -> None:
        ui = self._ui
        for selector, choices in (
            (
                ui.trainModalitySelector,
                ((_("Automatic"), ""), ("MR", Modality.MR.value), ("CT", Modality.CT.value)),
            ),
            (
                ui.trainPlaneSelector,
                (
                    (_("Axial"), Plane.AXIAL.value),
                    (_("Coronal"), Plane.CORONAL.value),
                    (_("Sagittal"), Plane.SAGITTAL.value),
                ),
            ),
            (
                ui.trainPresetSelector,
                (
                    (_("Standard"), Preset.STANDARD.value),
                    (_("Dilated (sees farther)"), Preset.DILATED.value),
                ),
            ),
            (ui.trainEncoderSelector, encoderChoices()),
        ):
            for text, value in choices:
                selector.addItem(text, value)
        encoder = Settings.training("Encoder")
        known = ui.trainEncoderSelector.findData(encoder)
        if known < 0:
            ui.trainEncoderPathEdit.setCurrentPath(encoder)
            known = ui.trainEncoderSelector.findData(OWN_FILES)
        ui.trainEncoderSelector.setCurrentIndex(known)
        _choose(ui.trainPresetSelector, Settings.training("Preset"))
        ui.trainSizeSpinBox.setValue(int(Settings.training("SizePx")))
        ui.trainEpochsSpinBox.setValue(int(Settings.training("Epochs")))

    def cleanup(self) -> None:
        """Let go of the widgets; a training goes on."""
        self._trainer.detach()
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self.scans.cleanup()
        self.unfinished.cleanup()

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Work with the settings of a scene; None while there is none."""
        self._parameters = parameters
        if parameters is not None:
            self._filling = True
            _choose(self._ui.trainModalitySelector, parameters.trainModality)
            _choose(self._ui.trainPlaneSelector, parameters.trainPlane)
            self._filling = False
        self.refresh()

    def enter(self) -> None:
        """The user came to the module."""
        self._entered = True
        self._modelsFolderChanged()

    def exit(self) -> None:
        """The user went to another module; a training goes on."""
        self._entered = False

    def settings(self) -> TrainSettings:
        """What is chosen now."""
        ui = self._ui
        encoder = _value(ui.trainEncoderSelector)
        if encoder == OWN_FILES:
            encoder = str(ui.trainEncoderPathEdit.property("currentPath") or "").strip()
        return TrainSettings(
            name=str(ui.trainNameEdit.property("text")).strip(),
            modality=_value(ui.trainModalitySelector) or None,
            plane=_value(ui.trainPlaneSelector),
            sizePx=_wholePatches(ui.trainSizeSpinBox.property("value")),
            encoder=encoder,
            preset=_value(ui.trainPresetSelector),
            epochs=int(ui.trainEpochsSpinBox.property("value")),
            device=Settings.device().value,
        )

    def _chosen(self, *_unused: object) -> None:
        """Remember what was chosen."""
        if self._filling:
            return
        settings = self.settings()
        Settings.setTraining("Encoder", settings.encoder)
        Settings.setTraining("Preset", settings.preset)
        Settings.setTraining("SizePx", str(settings.sizePx))
        Settings.setTraining("Epochs", str(settings.epochs))
        if self._parameters is not None:
            self._parameters.trainModality = settings.modality or ""
            self._parameters.trainPlane = settings.plane
        self.refresh()

    def _roundSize(self, *_unused: object) -> None:
        self._ui.trainSizeSpinBox.setValue(self.settings().sizePx)

    def _modelsFolderChanged(self, *_unused: object) -> None:
        self.unfinished.look()
        self.refresh()

    def refresh(self, *_unused: object) -> None:
        """Show what can be done now, and why not what cannot."""
        if self._filling:
            return
        ui, settings = self._ui, self.settings()
        training = self._trainer.training
        running = self._trainer.running
        looking = self.scans.looking
        for widget in (
            ui.trainFolderEdit,
            ui.trainVolumesList,
            ui.trainModalitySelector,
            ui.trainPlaneSelector,
            ui.trainNameEdit,
            ui.trainEncoderSelector,
            ui.trainEncoderPathEdit,
            ui.trainPresetSelector,
            ui.trainSizeSpinBox,
            ui.trainEpochsSpinBox,
        ):
            widget.setEnabled(not running and not looking)
        ownFiles = _value(ui.trainEncoderSelector) == OWN_FILES
        ui.trainEncoderPathEdit.setVisible(ownFiles)
        ui.trainEncoderPathLabel.setVisible(ownFiles)
        ui.trainLookButton.setText(_("Stop looking") if looking else _("Look at the scans"))
        enable(
            ui.trainLookButton,
            None if looking else self._whyNotLook(settings),
            _("Stop; nothing is changed.")
            if looking
            else _("Find the scans, say which can be used, and how long a training would take."),
        )
        self.scans.showEstimate(None if running else settings)
        self.unfinished.refresh(busy=running or looking)
        self._refreshButtons(settings)
        ui.trainProgressBar.setVisible(running or looking)
        if looking:
            self._showProgress(self.scans.progress.share, self.scans.progress.text)
        enable(
            ui.trainPlotButton,
            None if training is not None and training.curve else _("No epoch is done yet."),
            _("Show the learning curve in a plot view."),
        )

    def _refreshButtons(self, settings: TrainSettings) -> None:
        ui, training = self._ui, self._trainer.training
        if training is None or not training.running:
            ui.trainButton.setText(_("Train"))
            enable(
                ui.trainButton,
                self._whyNotTrain(settings),
                _("Learn from these scans what is normal. Slicer can be used meanwhile."),
            )
            ui.trainPauseButton.setText(_("Pause"))
            enable(ui.trainPauseButton, _("No training is running."), "")
            return
        state = training.state
        ui.trainButton.setText(_("Cancel"))
        cancelling = state == State.CANCELLING
        stopping = _("It stops after the current batch.")
        enable(
            ui.trainButton,
            stopping if cancelling else None,
            _("Stop; what was done is kept and can be resumed."),
        )
        held = state in (State.PAUSING, State.PAUSED)
        ui.trainPauseButton.setText(_("Continue") if held else _("Pause"))
        enable(
            ui.trainPauseButton,
            stopping if cancelling else None,
            _("Go on.") if held else _("Stand still, so that the computer is free for a while."),
        )

    def _whyNotLook(self, settings: TrainSettings) -> str | None:
        if self._trainer.running:
            return _("A training is running.")
        if not settings.encoder:
            return _("Choose the folder or file of the encoder.")
        return self.scans.whyNotLook()

    def _whyNotTrain(self, settings: TrainSettings) -> str | None:
        if self.scans.looking:
            return _("The scans are being looked at.")
        reason = self._whyNotLook(settings) or self.scans.whyNotTrain(settings)
        if reason is not None:
            return reason
        if not settings.name:
            return _("Give the model a name.")
        model = _modelFolder(settings.name)
        if model.exists():
            return _("There is a model of this name already: choose another name.")
        if self.unfinished.of(model) is not None:
            return _(
                "An unfinished training has this name: resume or discard it above, or choose "
                "another name."
            )
        return None

    def _lookOrStop(self, *_unused: object) -> None:
        if self.scans.looking:
            self.scans.cancel()
            return
        self._tell("")
        self._log("look at scans for a training")
        self.scans.look(self.settings())

    def _looked(self, error: SpatialARError | None, found: bool) -> None:
        if error is not None:
            self._log(f"look at scans failed: {error.code}")
            self._tell("⚠ " + inOneLine(error))
        else:
            self._tell("" if found else _("Stopped."))

    def _trainOrCancel(self, *_unused: object) -> None:
        training = self._trainer.training
        if training is not None and training.running:
            training.cancel()
            return
        settings, result = self.settings(), self.scans.result
        if self._whyNotTrain(settings) is not None or result is None:
            self.refresh()
            return
        spec = {
            "name": settings.name,
            "modality": result.modality,
            "plane": settings.plane,
            "fov_mm": result.fovMm,
            "size_px": settings.sizePx,
            "encoder": settings.encoder,
            "preset": settings.preset,
            "epochs": settings.epochs,
            "device": settings.device,
        }
        self._begin(
            TrainingRequest(
                name=settings.name,
                model=_modelFolder(settings.name),
                sources=tuple(result.sources),
                spec=spec,
                files=self.scans.files(),
            )
        )

    def _discarded(self, text: str) -> None:
        self._tell(text)
        self.refresh()

    def _begin(self, request: TrainingRequest) -> None:
        self._epochsShown = 0
        self._log(f"training with {len(request.sources)} scans on {request.spec.get('device')}")
        try:
            self._trainer.train(request)
        except SpatialARError as error:
            self._tell("⚠ " + inOneLine(error))
        self._trainingChanged()

    def _pauseOrGoOn(self, *_unused: object) -> None:
        training = self._trainer.training
        if training is None:
            return
        if training.state == State.RUNNING:
            training.pause()
        else:
            training.goOn()

    def _showPlot(self, *_unused: object) -> None:
        training = self._trainer.training
        if training is not None:
            self._plot.show(training.curve, training.request.name)

    def _trainingChanged(self) -> None:
        training = self._trainer.training
        if training is None:
            return
        self._followCurve(training)
        if training.running:
            self._showProgress(training.progress.share, _stateText(training))
        elif not training.isTold:
            training.isTold = True
            self._ended(training, training.outcome or Outcome())
        self.refresh()

    def _followCurve(self, training: Training) -> None:
        count = len(training.curve)
        if count == self._epochsShown:
            return
        first, self._epochsShown = not self._epochsShown, count
        # A layout changes under the user's hands only while this module is before their eyes.
        if first and training.running and self._entered:
            self._plot.show(training.curve, training.request.name)
        else:
            self._plot.update(training.curve, training.request.name)

    def _ended(self, training: Training, outcome: Outcome) -> None:
        """Say how it ended; a new model is chosen in *Detect*."""
        self.unfinished.look()
        model, name = training.request.model, training.request.name
        if training.finished:
            text = _("The model {name} is ready.")
            if self._onModel(model):
                text = _("The model {name} is ready and chosen under Detect.")
            self._tell(" ".join([text.format(name=name), *outcome.notices]))
            self._log("training finished")
            return
        text = _("Cancelled.")
        if outcome.error is not None:
            self._log(f"training failed: {outcome.error.code}")
            text = "⚠ " + inOneLine(outcome.error)
        # The folder of models may be another one by now.
        if any(Path(one.model) == model for one in list_unfinished(model.parent)):
            text = _("{text} What was done is kept and can be resumed.").format(text=text)
            self.unfinished.choose(model)
        elif outcome.error is None:
            text = _("{text} Nothing had been done yet, nothing is kept.").format(text=text)
        self._tell(text)

    def _showProgress(self, share: float, text: str) -> None:
        self._ui.trainProgressBar.setValue(round(share * PROGRESS_STEPS))
        self._tell(text)

    def _tell(self, text: str) -> None:
        self._ui.trainStatusLabel.setText(text)
        self._ui.trainStatusLabel.setVisible(bool(text))


def _stateText(training: Training) -> str:
    text = training.progress.text
    return {
        State.PAUSING: _("Pausing after the current batch…"),
        State.PAUSED: _("Paused. {text}").format(text=text),
        State.CANCELLING: _("Cancelling…"),
    }.get(training.state, text)


def _value(selector: "object") -> str:
    return str(selector.itemData(selector.property("currentIndex")) or "")


def _choose(selector: "object", value: str) -> None:
    selector.setCurrentIndex(max(0, selector.findData(value)))


def _wholePatches(sizePx: int) -> int:
    return max(1, round(int(sizePx) / PATCH_PX)) * PATCH_PX


def _modelFolder(name: str) -> Path:
    """Where a model of this name will lie."""
    return Settings.modelsFolder() / fileName(name)[:LONGEST_NAME]
