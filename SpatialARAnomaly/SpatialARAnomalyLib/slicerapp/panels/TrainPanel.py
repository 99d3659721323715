"""The section *Train*: scans, settings, one button, progress, and what was left unfinished."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.model_file import model_path
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.training.unfinished import UnfinishedTraining, list_unfinished
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.panels.TrainForm import TrainForm
from SpatialARAnomalyLib.slicerapp.panels.TrainScans import TrainScans
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import enable, singleShotTimer
from SpatialARAnomalyLib.slicerapp.scene.TrainingPlot import TrainingPlot
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome, outcomeOf
from SpatialARAnomalyLib.slicerapp.tasks.Export import fileName
from SpatialARAnomalyLib.slicerapp.tasks.Training import (
    State,
    Trainer,
    Training,
    TrainingRequest,
    sharedTrainer,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine, isMissingPackage
from SpatialARAnomalyLib.slicerapp.worker.Progress import showShare

AGAIN_MS = 3000
"""Where another program trains: it may end, or be one of ours that is just ending."""


class UnfinishedLine:
    """Lists them; `onResume` gets what is to be trained on, `onDiscarded` how that went."""

    def __init__(
        self,
        ui: object,
        trainer: Trainer,
        confirm: Callable[[str], bool],
        onResume: Callable[[TrainingRequest], None],
        onDiscarded: Callable[[str], None],
    ) -> None:
        self._ui = ui
        self._trainer = trainer
        self._confirm = confirm
        self._onResume = onResume
        self._onDiscarded = onDiscarded
        self._busy = False
        self._discarding = False
        self._closed = False
        self.entries: list[UnfinishedTraining] = []
        """Those in the folder of models when it was last looked at."""
        self._timer = singleShotTimer(AGAIN_MS)
        self._connections = (
            (self._timer.timeout, self._lookAgain),
            (ui.trainUnfinishedSelector.currentIndexChanged, self._chosenChanged),
            (ui.trainResumeButton.clicked, self._resume),
            (ui.trainDiscardButton.clicked, self._discard),
        )
        for signal, slot in self._connections:
            signal.connect(slot)

    def cleanup(self) -> None:
        """Let go of the widgets."""
        self._closed = True
        self._timer.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)

    def look(self) -> None:
        """List what is in the folder of models now."""
        chosen = self._chosen()
        self.entries = list_unfinished(Settings.modelsFolder())
        selector = self._ui.trainUnfinishedSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for entry in self.entries:
            selector.addItem(_described(entry))
        selector.blockSignals(blocked)
        if chosen is not None:
            self.choose(chosen.model)
        if any(entry.running for entry in self.entries) and not self._trainer.running:
            self._timer.start()
        self.refresh(busy=self._busy)

    def of(self, model: Path) -> UnfinishedTraining | None:
        """The unfinished training of a model file."""
        return next((one for one in self.entries if one.model == model), None)

    def choose(self, model: Path) -> None:
        """Choose the training of this model, where there is one."""
        models = [one.model for one in self.entries]
        if model in models:
            self._ui.trainUnfinishedSelector.setCurrentIndex(models.index(model))

    def refresh(self, *, busy: bool) -> None:
        """Show what can be done with the chosen one."""
        self._busy = busy
        ui, entry = self._ui, self._chosen()
        ui.trainUnfinishedBox.setVisible(bool(self.entries) and not self._trainer.running)
        if entry is None:
            return
        reason = None
        if busy or self._discarding:
            reason = _("Wait until the present task has ended.")
        elif entry.running:
            reason = _("It runs in another program.")
        resumeReason = reason
        if reason is None and entry.finished:
            resumeReason = _("Its model is there already.")
        elif reason is None and entry.spec is None:
            resumeReason = _("Its settings cannot be read; it can only be discarded.")
        enable(ui.trainResumeButton, resumeReason, _("Go on where it stopped."))
        enable(ui.trainDiscardButton, reason, _("Remove what it had done."))

    def _chosen(self) -> UnfinishedTraining | None:
        index = self._ui.trainUnfinishedSelector.property("currentIndex")
        return self.entries[index] if 0 <= index < len(self.entries) else None

    def _lookAgain(self, *_unused: object) -> None:
        self.look()

    def _chosenChanged(self, *_unused: object) -> None:
        self.refresh(busy=self._busy)

    def _resume(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is None or entry.spec is None:
            return
        # It may go on elsewhere than where it began: the device decides nothing of the model.
        spec = replace(entry.spec, name=entry.name, device=Settings.device(), restart=False)
        self._onResume(TrainingRequest(model=entry.model, sources=tuple(entry.sources), spec=spec))

    def _discard(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is None or not self._confirm(
            _("Remove all that the training of {name} had done?").format(name=entry.name)
        ):
            return
        self._discarding = True
        self.refresh(busy=self._busy)

        def answered(event: dict[str, Any]) -> None:
            self._discarding = False
            if self._closed:
                return
            self.look()
            error = outcomeOf(event).error if event["event"] != "result" else None
            self._onDiscarded(_("Discarded.") if error is None else "⚠ " + inOneLine(error))

        self._trainer.worker.submit(
            "training_discard", inputs={"folder": str(entry.folder)}, onEnd=answered
        )


def _described(entry: UnfinishedTraining) -> str:
    if entry.finished:
        return _("{name} (finished, files left)").format(name=entry.name)
    if not entry.epochs_done:
        return _("{name} (embedding)").format(name=entry.name)
    return _("{name} ({done} of {epochs} epochs)").format(
        name=entry.name, done=entry.epochs_done, epochs=entry.epochs or "?"
    )


REST_MS = 40
"""Progress is shown at most so often."""

MESSAGE_MS = 10_000
"""Slicer's status bar tells it for so long: the user may be in another module."""

LONGEST_NAME = 60
"""Characters of a model file's name, without the suffix."""


class TrainPanel:
    """Starts, pauses and cancels trainings.

    `onModel` gets the file of a new model and says whether it could choose it.
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
        self.onMissingPackage: Callable[[], None] = _unheard
        self._entered = False
        self._plot = TrainingPlot()
        self._epochsShown = 0
        self._stateShown = ""
        self._ready = False
        # Hundreds of epochs come at once when a training is resumed.
        self._timer = singleShotTimer(REST_MS)
        self.form = TrainForm(ui, self.refresh)
        self.unfinished = UnfinishedLine(ui, self._trainer, confirm, self._begin, self._discarded)
        self.scans = TrainScans(ui, self._trainer, self.refresh, self._looked)
        self._connections = (
            (self._timer.timeout, self._follow),
            (ui.modelsFolderEdit.currentPathChanged, self._modelsFolderChanged),
            (ui.trainLookButton.clicked, self._lookOrStop),
            (ui.trainButton.clicked, self._trainOrCancel),
            (ui.trainPauseButton.clicked, self._pauseOrGoOn),
            (ui.trainPlotButton.clicked, self._showPlot),
        )
        for signal, slot in self._connections:
            signal.connect(slot)
        self._ready = True
        self._trainer.worker.log = log
        self._trainer.onChange = self._trainingChanged
        self._trainer.confirmQuit = confirm
        self._modelsFolderChanged()
        self._follow()

    def cleanup(self) -> None:
        """Let go of the widgets; a training goes on."""
        self._trainer.detach()
        self._timer.stop()
        for signal, slot in self._connections:
            signal.disconnect(slot)
        self.form.cleanup()
        self.scans.cleanup()
        self.unfinished.cleanup()

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Work with the settings of a scene; None while there is none."""
        self.form.setParameters(parameters)
        self.refresh()

    def enter(self) -> None:
        """The user came to the module."""
        self._entered = True
        self.form.listEncoders()
        self._modelsFolderChanged()

    def encodersChanged(self) -> None:
        """An encoder has come or gone."""
        self.form.listEncoders()
        self.refresh()

    def exit(self) -> None:
        """The user went to another module; a training goes on."""
        self._entered = False

    def _modelsFolderChanged(self, *_unused: object) -> None:
        self.unfinished.look()
        self.refresh()

    def refresh(self, *_unused: object) -> None:
        """Show what can be done now, and why not what cannot."""
        if not self._ready:
            return
        ui, spec = self._ui, self.form.spec()
        training = self._trainer.training
        running = self._trainer.running
        looking = self.scans.looking
        isFree = not running and not looking
        ui.trainFolderEdit.setEnabled(isFree)
        ui.trainVolumesList.setEnabled(isFree)
        self.form.enable(isFree)
        ui.trainLookButton.setText(_("Stop looking") if looking else _("Look at the scans"))
        enable(
            ui.trainLookButton,
            None if looking else self._whyNotLook(spec),
            _("Stop; nothing is changed.")
            if looking
            else _("Find the scans, say which can be used, and how long a training would take."),
        )
        self.scans.showEstimate(None if running else spec)
        self.unfinished.refresh(busy=not isFree)
        self._refreshButtons(spec)
        ui.trainProgressBar.setVisible(not isFree)
        if looking:
            self._showProgress(self.scans.progress.share, self.scans.progress.text)
        enable(
            ui.trainPlotButton,
            None if training is not None and training.curve else _("No epoch is done yet."),
            _("Show the learning curve in a plot view."),
        )

    def _refreshButtons(self, spec: TrainSpec) -> None:
        ui, training = self._ui, self._trainer.training
        if training is None or not training.running:
            ui.trainButton.setText(_("Train"))
            enable(
                ui.trainButton,
                self._whyNotTrain(spec),
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

    def _whyNotLook(self, spec: TrainSpec) -> str | None:
        if self._trainer.running:
            return _("A training is running.")
        if not spec.encoder:
            return _("Choose the folder or file of the encoder.")
        return self.scans.whyNotLook()

    def _whyNotTrain(self, spec: TrainSpec) -> str | None:
        if self.scans.looking:
            return _("The scans are being looked at.")
        reason = self._whyNotLook(spec) or self.scans.whyNotTrain(spec)
        if reason is not None:
            return reason
        if not spec.name:
            return _("Give the model a name.")
        model = _modelFile(spec.name)
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
        self.scans.look(self.form.spec())

    def _looked(self, error: SpatialARError | None, found: bool) -> None:
        if error is not None:
            self._log(f"look at scans failed: {error.code}")
            self._tell("⚠ " + inOneLine(error))
            self._leadOn(error)
        else:
            self._tell("" if found else _("Stopped."))

    def _trainOrCancel(self, *_unused: object) -> None:
        training = self._trainer.training
        if training is not None and training.running:
            training.cancel()
            return
        spec, result = self.form.spec(), self.scans.result
        if self._whyNotTrain(spec) is not None or result is None:
            self.refresh()
            return
        self._begin(
            TrainingRequest(
                model=_modelFile(spec.name or ""),
                sources=tuple(result.sources),
                spec=replace(spec, modality=result.modality, fov_mm=result.fov_mm),
                files=self.scans.files(),
            )
        )

    def _discarded(self, text: str) -> None:
        self._tell(text)
        self.refresh()

    def _begin(self, request: TrainingRequest) -> None:
        self._epochsShown = 0
        self._log(f"training with {len(request.sources)} scans on {request.spec.device}")
        try:
            self._trainer.train(request)
        except SpatialARError as error:
            self._tell("⚠ " + inOneLine(error))
        self._follow()

    def _pauseOrGoOn(self, *_unused: object) -> None:
        training = self._trainer.training
        if training is None:
            return
        if training.state == State.RUNNING:
            training.pause()
        else:
            training.resume()

    def _showPlot(self, *_unused: object) -> None:
        training = self._trainer.training
        if training is not None:
            self._plot.show(training.curve, training.request.name)

    def _trainingChanged(self) -> None:
        training = self._trainer.training
        if training is not None and training.state != self._stateShown:
            self._follow()
        elif not self._timer.isActive():
            self._timer.start()

    def _follow(self, *_unused: object) -> None:
        """Show what the training does now."""
        training = self._trainer.training
        if training is None:
            return
        self._stateShown = training.state
        self._followCurve(training)
        if training.running:
            self._showProgress(training.progress.share, _stateText(training))
        elif not training.endShown:
            training.endShown = True
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
            elif model.parent != Settings.modelsFolder():
                text = _("The model {name} is ready, in the models folder of when it was begun.")
            self._tell(" ".join([text.format(name=name), *outcome.notices]))
            self._log("training finished")
            slicer.util.showStatusMessage(text.format(name=name), MESSAGE_MS)
            return
        text = _("Cancelled.")
        if outcome.error is not None:
            self._log(f"training failed: {outcome.error.code}")
            text = "⚠ " + inOneLine(outcome.error)
            slicer.util.showStatusMessage(_("The training failed."), MESSAGE_MS)
            self._leadOn(outcome.error)
        # The folder of models may be another one by now.
        if any(Path(one.model) == model for one in list_unfinished(model.parent)):
            text = _("{text} What was done is kept and can be resumed.").format(text=text)
            self.unfinished.choose(model)
        elif outcome.error is None:
            text = _("{text} Nothing had been done yet, nothing is kept.").format(text=text)
        self._tell(text)

    def _showProgress(self, share: float, text: str) -> None:
        showShare(self._ui.trainProgressBar, share)
        self._tell(text)

    def _leadOn(self, error: SpatialARError) -> None:
        if isMissingPackage(error):
            self.onMissingPackage()

    def _tell(self, text: str) -> None:
        self._ui.trainStatusLabel.setText(text)
        self._ui.trainStatusLabel.setVisible(bool(text))


def _unheard() -> None:
    """Where nobody can help."""


def _stateText(training: Training) -> str:
    text = training.progress.text
    return {
        State.PAUSING: _("Pausing after the current batch…"),
        State.PAUSED: _("Paused. {text}").format(text=text),
        State.CANCELLING: _("Cancelling…"),
    }.get(training.state, text)


def _modelFile(name: str) -> Path:
    """Return the file that a model of this name will be."""
    return model_path(Settings.modelsFolder() / fileName(name)[:LONGEST_NAME])
