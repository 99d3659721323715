"""Trainings: one at a time, in a worker that outlives the panel, the scene and a module reload."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.model.model_file import model_path
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.slicerapp.QtHelpers import doNothing
from SpatialARAnomalyLib.slicerapp.scene.TrainingPlot import Epoch
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome, outcomeOf
from SpatialARAnomalyLib.slicerapp.tasks.Export import fileName
from SpatialARAnomalyLib.slicerapp.tasks.Survey import Source
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, stageName, timeLeft
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

STAGE_SHARES = {"read": 0.04, "embed": 0.44, "fit": 0.48, "calibrate": 0.04}
"""Share of the progress bar of each stage; how long a stage takes is not known in advance."""

TRAINER_ATTRIBUTE = "spatialARAnomalyTrainer"
"""Attribute of `slicer.modules` that holds the trainer, so that it survives a module reload."""


LONGEST_NAME = 60
"""Characters of a model file's name, without the suffix."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """A training to be run."""

    model: Path
    """The model file to be written."""
    sources: Sequence[Source]
    spec: TrainSpec
    files: WorkFolder | None = None
    """Folder of those sources that come from the scene."""

    @property
    def name(self) -> str:
        """The model's name in messages."""
        return self.spec.name or self.model.name


class State(StrEnum):
    """State of a training.

    Compared by value: after a module reload, a running training still has the old class's states.
    """

    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    ENDED = "ended"


class Training:
    """One training; `onChange` is called whenever one of its attributes has changed."""

    def __init__(
        self, request: TrainingRequest, worker: WorkerProcess, onChange: Callable[[], None]
    ) -> None:
        self.request = request
        self.state = State.RUNNING
        self.progress = Progress(0.0, "")
        self.curve: list[Epoch] = []
        self.outcome: Outcome | None = None
        """Set at the end; without an error, the training is `finished` or was cancelled."""
        self.finished = False
        self.endShown = False
        """Set by the panel that showed the outcome to the user."""
        self._notices: list[str] = []
        self._stage, self._index, self._count = "", 1, 1
        self._worker = worker
        self._onChange = onChange
        self._job = worker.submit(
            "train",
            inputs={"normals": list(request.sources)},
            spec=request.spec.to_dict(),
            output=request.model,
            onEvent=self._onWorkerEvent,
            onEnd=self._onAnswer,
        )

    @property
    def running(self) -> bool:
        """True until the training has ended, also while it is paused."""
        return self.state != State.ENDED

    def pause(self) -> None:
        """Pause after the current batch."""
        if self.state == State.RUNNING:
            self.state = State.PAUSING
            self._worker.pause(self._job)
            self._onChange()

    def resume(self) -> None:
        """Continue after a pause."""
        if self.state in (State.PAUSING, State.PAUSED):
            self.state = State.RUNNING
            self._worker.resume(self._job)
            self._onChange()

    def cancel(self) -> None:
        """Stop after the current batch; the training can be resumed later."""
        if self.running and self.state != State.CANCELLING:
            self.state = State.CANCELLING
            self._worker.cancel(self._job)
            self._onChange()

    def _onWorkerEvent(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "stage":
                self._stage = str(event["name"])
                self._index, self._count = int(event["index"]), max(1, int(event["of"]))
                self._setProgress(0.0)
            case "progress":
                done, total = int(event["done"]), max(1, int(event["total"]))
                left = timeLeft(float(event["eta_s"])) if event.get("eta_s") else ""
                self._setProgress(done / total, self._countText(done, total), left)
            case "epoch":
                epoch = Epoch(
                    int(event["epoch"]), float(event["train_mse"]), float(event["held_out_nll"])
                )
                # A resumed training reports its earlier epochs again.
                known = {one.number: one for one in self.curve} | {epoch.number: epoch}
                self.curve = [known[number] for number in sorted(known)]
            case "notice":
                self._notices.append(str(event.get("text")))
            case "paused" if self.state == State.PAUSING:
                self.state = State.PAUSED
            case _:
                return
        self._onChange()

    def _countText(self, done: int, total: int) -> str:
        if self._stage == "fit":
            # The worker counts batches, the user epochs.
            epochs = self.request.spec.epochs
            current = min(epochs, done * epochs // total + 1)
            return _("epoch {number} of {count}").format(number=current, count=epochs)
        return _("{done} of {total}").format(done=done, total=total)

    def _setProgress(self, share: float, *details: str) -> None:
        stages = list(STAGE_SHARES)
        before = stages[: stages.index(self._stage)] if self._stage in stages else []
        whole = sum(STAGE_SHARES[name] for name in before)
        whole += share * STAGE_SHARES.get(self._stage, 0.0)
        text = _("Step {index} of {count}: {stage}").format(
            index=self._index, count=self._count, stage=stageName(self._stage)
        )
        self.progress = Progress(whole, ", ".join(filter(None, (text, *details))))

    def _onAnswer(self, event: dict[str, Any]) -> None:
        self.state = State.ENDED
        self.finished = event["event"] == "result"
        error = None if self.finished else outcomeOf(event).error
        self.outcome = Outcome(error=error, notices=tuple(self._notices))
        self._onChange()


class Trainer:
    """Runs one training at a time, in a worker process used only for trainings and surveys.

    `onChange` is the panel's, and `watchers` are the scripts': all are called whenever the training
    has changed or ended.
    """

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.onChange: Callable[[], None] = doNothing
        self.watchers: list[Callable[[], None]] = []
        self.confirmQuit: Callable[[str], bool] = slicer.util.confirmYesNoDisplay
        self.training: Training | None = None
        """The running or the last training."""
        self._question: QuitQuestion | None = None
        self._unusedFiles: WorkFolder | None = None

    @property
    def running(self) -> bool:
        """True while a training has not ended."""
        return self.training is not None and self.training.running

    def train(self, request: TrainingRequest) -> Training:
        """Start a training; raises `InputError` while another runs."""
        if self.running:
            raise InputError("busy", _("Another training is running."))
        window = slicer.util.mainWindow()
        if self._question is None and window is not None:
            self._question = QuitQuestion(window, self._mayQuit)
        self.training = None
        self.training = Training(request, self.worker, self._onTrainingChanged)
        return self.training

    def detach(self) -> None:
        """Disconnect the panel; the training continues."""
        self.onChange = doNothing
        self.worker.log = doNothing

    def stop(self) -> None:
        """End the worker when Slicer quits; the training can be resumed later."""
        self.detach()
        self.worker.stop()

    def releaseFiles(self, files: WorkFolder) -> None:
        """Remove files of the scene's scans, after the training that reads them."""
        if self.running and self.training.request.files is files:
            self._unusedFiles = files
        else:
            files.remove()

    def _onTrainingChanged(self) -> None:
        if not self.running and self._unusedFiles is not None:
            self._unusedFiles.remove()
            self._unusedFiles = None
        for watcher in (self.onChange, *self.watchers):
            watcher()

    def _mayQuit(self) -> bool:
        return not self.running or self.confirmQuit(
            _("A training is running and will stop. It can be resumed under Train. Quit?")
        )


def modelFile(name: str, folder: Path) -> Path:
    """Return the file of a model with this name."""
    return model_path(folder / fileName(name)[:LONGEST_NAME])


def sharedTrainer() -> Trainer:
    """Return the trainer of this Slicer; its process starts with its first job."""
    trainer = getattr(slicer.modules, TRAINER_ATTRIBUTE, None)
    if trainer is None:
        trainer = Trainer(WorkerProcess())
        setattr(slicer.modules, TRAINER_ATTRIBUTE, trainer)
        slicer.app.connect("aboutToQuit()", trainer.stop)
    return trainer


class QuitQuestion(qt.QObject):
    """Confirms that a window may close while a training runs; a child of that window.

    Qt passes the window's events to this object first: after the answer no, the
    close event ends here, before Slicer asks about the scene.
    """

    def __init__(self, window: "qt.QWidget", mayClose: Callable[[], bool]) -> None:
        qt.QObject.__init__(self, window)
        self._mayClose = mayClose
        self._asking = False
        window.installEventFilter(self)

    def eventFilter(self, watched: "qt.QObject", event: "qt.QEvent") -> bool:
        """Keep the close event from the window if the answer is no."""
        if event.type() != qt.QEvent.Close:
            return False
        # Further close events are ignored while the question is shown.
        if not self._asking:
            self._asking = True
            try:
                if self._mayClose():
                    return False
            finally:
                self._asking = False
        event.ignore()
        return True
