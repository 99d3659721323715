"""The section *Train*: survey scans, train a model, and resume unfinished trainings."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.training.folder import UnfinishedTraining, list_unfinished
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs
from SpatialARAnomalyLib.slicerapp.panels.TrainForm import TrainForm
from SpatialARAnomalyLib.slicerapp.panels.TrainScans import TrainScans
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import (
    Connections,
    doNothing,
    enable,
    pathChanges,
    singleShotTimer,
)
from SpatialARAnomalyLib.slicerapp.scene.TrainingPlot import TrainingPlot
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome, outcomeOf
from SpatialARAnomalyLib.slicerapp.tasks.Training import (
    State,
    Trainer,
    Training,
    TrainingRequest,
    modelFile,
    sharedTrainer,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import inOneLine, isMissingPackage
from SpatialARAnomalyLib.slicerapp.worker.Progress import showShare

RELOAD_MS = 3000
"""Milliseconds until unfinished trainings are listed again while another program runs one."""

REFRESH_MS = 40
"""Milliseconds between two updates of the progress."""

MESSAGE_MS = 10_000
"""Milliseconds of a message in Slicer's status bar, for users of another module."""


class UnfinishedTrainings:
    """Lists unfinished trainings; `onResume` gets a request, `onDiscarded` a status text."""

    def __init__(
        self,
        ui: object,
        trainer: Trainer,
        dialogs: Dialogs,
        onResume: Callable[[TrainingRequest], None],
        onDiscarded: Callable[[str], None],
    ) -> None:
        self._ui = ui
        self._trainer = trainer
        self._dialogs = dialogs
        self._onResume = onResume
        self._onDiscarded = onDiscarded
        self._busy = False
        self._discarding = False
        self._closed = False
        self.entries: list[UnfinishedTraining] = []
        """Unfinished trainings in the models folder, as last listed."""
        self._reloadTimer = singleShotTimer(RELOAD_MS)
        self._connections = Connections(
            (self._reloadTimer.timeout, self.reload),
            (
                ui.trainUnfinishedSelector.currentIndexChanged,
                lambda *_unused: self.refresh(self._busy),
            ),
            (ui.trainResumeButton.clicked, self._resume),
            (ui.trainDiscardButton.clicked, self._discard),
        )

    def cleanup(self) -> None:
        """Disconnect from the widgets."""
        self._closed = True
        self._reloadTimer.stop()
        self._connections.close()

    def reload(self) -> None:
        """List the unfinished trainings in the models folder."""
        chosen = self._chosen()
        self.entries = list_unfinished(Settings.modelsFolder())
        selector = self._ui.trainUnfinishedSelector
        blocked = selector.blockSignals(True)
        selector.clear()
        for entry in self.entries:
            selector.addItem(_describe(entry))
        selector.blockSignals(blocked)
        if chosen is not None:
            self.choose(chosen.model)
        # A process of ours may be about to end.
        if any(entry.running for entry in self.entries) and not self._trainer.running:
            self._reloadTimer.start()
        self.refresh(self._busy)

    def hasModel(self, model: Path) -> bool:
        """Return whether an unfinished training writes this model file."""
        return any(one.model == model for one in self.entries)

    def choose(self, model: Path) -> None:
        """Choose the training of a model file if there is one."""
        models = [one.model for one in self.entries]
        if model in models:
            self._ui.trainUnfinishedSelector.setCurrentIndex(models.index(model))

    def refresh(self, busy: bool) -> None:
        """Enable the buttons, or show their problems in tooltips; `busy`: a task runs here."""
        self._busy = busy
        ui, entry = self._ui, self._chosen()
        ui.trainUnfinishedBox.setVisible(bool(self.entries) and not self._trainer.running)
        if entry is None:
            return
        problem = None
        if busy or self._discarding:
            problem = _("Wait for the running task.")
        elif entry.running:
            problem = _("Another program is running it.")
        resumeProblem = problem
        if problem is None and entry.finished:
            resumeProblem = _("Its model already exists.")
        elif problem is None and entry.spec is None:
            resumeProblem = _("Its settings cannot be read: discard it.")
        enable(ui.trainResumeButton, resumeProblem, _("Resume the training from its checkpoint."))
        enable(ui.trainDiscardButton, problem, _("Delete its checkpoint and other files."))

    def _chosen(self) -> UnfinishedTraining | None:
        index = self._ui.trainUnfinishedSelector.property("currentIndex")
        return self.entries[index] if 0 <= index < len(self.entries) else None

    def _resume(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is None or entry.spec is None:
            return
        # The model does not depend on the device, which may be another one now.
        spec = replace(entry.spec, name=entry.name, device=Settings.device(), restart=False)
        self._onResume(TrainingRequest(model=entry.model, sources=tuple(entry.sources), spec=spec))

    def _discard(self, *_unused: object) -> None:
        entry = self._chosen()
        if entry is None or not self._dialogs.confirm(
            _("Discard the training of {name}? This cannot be undone.").format(name=entry.name)
        ):
            return
        self._discarding = True
        self.refresh(self._busy)

        def answered(event: dict[str, Any]) -> None:
            self._discarding = False
            if self._closed:
                return
            self.reload()
            error = outcomeOf(event).error if event["event"] != "result" else None
            self._onDiscarded(_("Discarded.") if error is None else "⚠ " + inOneLine(error))

        self._trainer.worker.submit(
            "training_discard", inputs={"folder": str(entry.folder)}, onEnd=answered
        )


def _describe(entry: UnfinishedTraining) -> str:
    if entry.finished:
        return _("{name} (finished, files left)").format(name=entry.name)
    if not entry.epochs_done:
        return _("{name} (embedding)").format(name=entry.name)
    return _("{name} ({done} of {epochs} epochs)").format(
        name=entry.name, done=entry.epochs_done, epochs=entry.epochs or "?"
    )


class TrainPanel:
    """Starts, pauses and cancels trainings, which continue without the panel.

    `onModel` gets the file of a new model and returns whether it could choose it;
    `onMissingPackage` is called when a job failed because a Python package is missing.
    """

    def __init__(
        self,
        ui: object,
        log: Callable[[str], None],
        onModel: Callable[[Path], bool],
        dialogs: Dialogs | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        self._ui = ui
        self._log = log
        self._onModel = onModel
        dialogs = dialogs or Dialogs(ui.trainSection)
        self.trainer = sharedTrainer() if trainer is None else trainer
        self.onMissingPackage: Callable[[], None] = doNothing
        self._entered = False
        self._plot = TrainingPlot()
        self._epochsShown = 0
        self._stateShown = ""
        self._ready = False
        # A resumed training reports hundreds of epochs at once.
        self._refreshTimer = singleShotTimer(REFRESH_MS)
        self.form = TrainForm(ui, self.refresh)
        self.unfinished = UnfinishedTrainings(
            ui, self.trainer, dialogs, self._begin, self._discarded
        )
        self.scans = TrainScans(ui, self.trainer, self.refresh, self._surveyed)
        self._connections = Connections(
            (self._refreshTimer.timeout, self._showTraining),
            *pathChanges(ui.modelsFolderEdit, self._reloadUnfinished),
            (ui.trainSurveyButton.clicked, self._surveyOrCancel),
            (ui.trainButton.clicked, self._trainOrCancel),
            (ui.trainPauseButton.clicked, self._pauseOrResume),
            (ui.trainPlotButton.clicked, self._showPlot),
        )
        self._ready = True
        self.trainer.worker.log = log
        self.trainer.onChange = self._trainingChanged
        self.trainer.confirmQuit = dialogs.confirm
        self._reloadUnfinished()
        self._showTraining()

    def cleanup(self) -> None:
        """Disconnect from the widgets."""
        self.trainer.detach()
        self._refreshTimer.stop()
        self._connections.close()
        self.form.cleanup()
        self.scans.cleanup()
        self.unfinished.cleanup()

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Set the parameters of the scene; None without a scene."""
        self.form.setParameters(parameters)
        self.refresh()

    def enter(self) -> None:
        """List encoders and unfinished trainings again when the module is opened."""
        self._entered = True
        self.form.listEncoders()
        self._reloadUnfinished()

    def encodersChanged(self) -> None:
        """List the encoders again."""
        self.form.listEncoders()
        self.refresh()

    def exit(self) -> None:
        """Note that another module is opened."""
        self._entered = False

    def _reloadUnfinished(self, *_unused: object) -> None:
        self.unfinished.reload()
        self.refresh()

    def refresh(self, *_unused: object) -> None:
        """Enable the widgets, or show their problems in tooltips."""
        if not self._ready:
            return
        ui, spec, training = self._ui, self.form.spec(), self.trainer.training
        surveying = self.scans.surveying
        idle = not self.trainer.running and not surveying
        ui.trainFolderEdit.setEnabled(idle)
        ui.trainVolumesList.setEnabled(idle)
        self.form.setEnabled(idle)
        if surveying:
            ui.trainSurveyButton.setText(_("Stop survey"))
            enable(ui.trainSurveyButton, None, _("Stop; nothing is changed."))
            self._showProgress(self.scans.progress.share, self.scans.progress.text)
        else:
            ui.trainSurveyButton.setText(_("Survey scans"))
            enable(
                ui.trainSurveyButton,
                self._nameSurveyProblem(spec),
                _("List the usable scans and estimate the training time."),
            )
        self.scans.showEstimate(None if self.trainer.running else spec)
        self.unfinished.refresh(busy=not idle)
        self._refreshButtons(spec)
        ui.trainProgressBar.setVisible(not idle)
        enable(
            ui.trainPlotButton,
            None if training is not None and training.curve else _("No epoch is done yet."),
            _("Show the learning curve in a plot view."),
        )

    def _refreshButtons(self, spec: TrainSpec) -> None:
        ui, training = self._ui, self.trainer.training
        if training is None or not training.running:
            ui.trainButton.setText(_("Train"))
            enable(
                ui.trainButton,
                self._nameTrainProblem(spec),
                _("Train a model on these scans. Slicer stays usable."),
            )
            ui.trainPauseButton.setText(_("Pause"))
            enable(ui.trainPauseButton, _("No training is running."), "")
            return
        cancelling = training.state == State.CANCELLING
        stopping = _("It stops after the current batch.") if cancelling else None
        ui.trainButton.setText(_("Cancel"))
        enable(ui.trainButton, stopping, _("Stop; the training can be resumed later."))
        paused = training.state in (State.PAUSING, State.PAUSED)
        ui.trainPauseButton.setText(_("Continue") if paused else _("Pause"))
        enable(
            ui.trainPauseButton,
            stopping,
            _("Continue training.") if paused else _("Pause training and free the computer."),
        )

    def _nameSurveyProblem(self, spec: TrainSpec) -> str | None:
        if self.trainer.running:
            return _("A training is running.")
        if not spec.encoder:
            return _("Choose the folder or file of the encoder.")
        return self.scans.nameSurveyProblem()

    def _nameTrainProblem(self, spec: TrainSpec) -> str | None:
        if self.scans.surveying:
            return _("The survey is running.")
        problem = self._nameSurveyProblem(spec) or self.scans.nameTrainProblem(spec)
        if problem is not None:
            return problem
        if not spec.name:
            return _("Give the model a name.")
        model = modelFile(spec.name, Settings.modelsFolder())
        if model.exists():
            return _("A model of this name exists: choose another name.")
        if self.unfinished.hasModel(model):
            return _("An unfinished training has this name: resume or discard it first.")
        return None

    def _surveyOrCancel(self, *_unused: object) -> None:
        if self.scans.surveying:
            self.scans.cancel()
            return
        self._showStatus("")
        self._log("survey of scans for a training")
        self.scans.survey(self.form.spec())

    def _surveyed(self, error: SpatialARError | None, found: bool) -> None:
        if error is not None:
            self._showError("survey", error)
        else:
            self._showStatus("" if found else _("Cancelled."))

    def _trainOrCancel(self, *_unused: object) -> None:
        training = self.trainer.training
        if training is not None and training.running:
            training.cancel()
            return
        spec, result = self.form.spec(), self.scans.result
        if self._nameTrainProblem(spec) is not None or result is None:
            self.refresh()
            return
        self._begin(
            TrainingRequest(
                model=modelFile(spec.name or "", Settings.modelsFolder()),
                sources=tuple(result.sources),
                spec=replace(spec, modality=result.modality, fov_mm=result.fov_mm),
                files=self.scans.files(),
            )
        )

    def _discarded(self, text: str) -> None:
        self._showStatus(text)
        self.refresh()

    def _begin(self, request: TrainingRequest) -> None:
        self._epochsShown = 0
        self._log(f"training with {len(request.sources)} scans on {request.spec.device}")
        try:
            self.trainer.train(request)
        except SpatialARError as error:
            self._showStatus("⚠ " + inOneLine(error))
        self._showTraining()

    def _pauseOrResume(self, *_unused: object) -> None:
        training = self.trainer.training
        if training is not None and training.state == State.RUNNING:
            training.pause()
        elif training is not None:
            training.resume()

    def _showPlot(self, *_unused: object) -> None:
        training = self.trainer.training
        if training is not None:
            self._plot.show(training.curve, training.request.name)

    def _trainingChanged(self) -> None:
        training = self.trainer.training
        if training is not None and training.state != self._stateShown:
            self._showTraining()
        elif not self._refreshTimer.isActive():
            self._refreshTimer.start()

    def _showTraining(self, *_unused: object) -> None:
        """Show the state of the training."""
        training = self.trainer.training
        if training is None:
            return
        self._stateShown = training.state
        self._showCurve(training)
        if training.running:
            self._showProgress(training.progress.share, _stateText(training))
        elif not training.endShown:
            training.endShown = True
            self._showEnd(training, training.outcome or Outcome())
        self.refresh()

    def _showCurve(self, training: Training) -> None:
        count = len(training.curve)
        if count == self._epochsShown:
            return
        first, self._epochsShown = not self._epochsShown, count
        # The layout changes only while the user has this module open.
        if first and training.running and self._entered:
            self._plot.show(training.curve, training.request.name)
        else:
            self._plot.update(training.curve, training.request.name)

    def _showEnd(self, training: Training, outcome: Outcome) -> None:
        """Show how a training ended, and choose a new model in *Detect*."""
        self.unfinished.reload()
        model, name = training.request.model, training.request.name
        if training.finished:
            text = _("The model {name} is ready.")
            if self._onModel(model):
                text = _("The model {name} is ready and chosen under Detect.")
            elif model.parent != Settings.modelsFolder():
                text = _("The model {name} is ready in the earlier models folder.")
            self._showStatus(" ".join([text.format(name=name), *outcome.notices]))
            self._log("training finished")
            slicer.util.showStatusMessage(text.format(name=name), MESSAGE_MS)
            return
        text = _("Cancelled.")
        if outcome.error is not None:
            text = "⚠ " + inOneLine(outcome.error)
            slicer.util.showStatusMessage(_("The training failed."), MESSAGE_MS)
            self._showError("training", outcome.error)
        # The user may have chosen another models folder meanwhile.
        if any(Path(one.model) == model for one in list_unfinished(model.parent)):
            text = _("{text} The training can be resumed.").format(text=text)
            self.unfinished.choose(model)
        elif outcome.error is None:
            text = _("{text} There is nothing to resume.").format(text=text)
        self._showStatus(text)

    def _showProgress(self, share: float, text: str) -> None:
        showShare(self._ui.trainProgressBar, share)
        self._showStatus(text)

    def _showError(self, task: str, error: SpatialARError) -> None:
        self._log(f"{task} failed: {error.code}")
        self._showStatus("⚠ " + inOneLine(error))
        if isMissingPackage(error):
            self.onMissingPackage()

    def _showStatus(self, text: str) -> None:
        self._ui.trainStatusLabel.setText(text)
        self._ui.trainStatusLabel.setVisible(bool(text))


def _stateText(training: Training) -> str:
    text = training.progress.text
    return {
        State.PAUSING: _("Pausing after the current batch…"),
        State.PAUSED: _("Paused. {text}").format(text=text),
        State.CANCELLING: _("Cancelling…"),
    }.get(training.state, text)
