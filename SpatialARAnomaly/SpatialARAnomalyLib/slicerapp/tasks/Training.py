"""Trainings: one at a time, in a worker that outlives panel, scene and reload of the module."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.slicerapp.scene.SceneScans import Source
from SpatialARAnomalyLib.slicerapp.scene.TrainingPlot import Epoch
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    Outcome,
    outcomeOf,
)
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.Progress import (
    Progress,
    stageName,
    timeLeft,
)
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

SHARES = {"read": 0.04, "embed": 0.44, "fit": 0.48, "calibrate": 0.04}
"""Of the bar, for stages of unknown length."""

TRAINER_ATTRIBUTE = "spatialARAnomalyTrainer"
"""Where Slicer keeps the trainer: a reload forgets all our modules, and must not stop a training.
"""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What is to be trained."""

    model: Path
    """The file the model will be."""
    sources: Sequence[Source]
    spec: TrainSpec
    files: WorkFolder | None = None
    """Where the scans of the scene lie among the sources."""

    @property
    def name(self) -> str:
        """What messages call the model."""
        return self.spec.name or self.model.name


class State(StrEnum):
    """What a training does.

    Compared by value: after a reload of the module a running training has the old one's states.
    """

    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    ENDED = "ended"


class Training:
    """A training from its beginning to its end.

    `onChange` hears that something is different; what it is can be read here.
    """

    def __init__(
        self, request: TrainingRequest, worker: WorkerProcess, onChange: Callable[[], None]
    ) -> None:
        self.request = request
        self.state = State.RUNNING
        self.progress = Progress(0.0, "")
        self.curve: list[Epoch] = []
        self.outcome: Outcome | None = None
        """Once it has ended: with an error, or cancelled, or `finished`."""
        self.finished = False
        self.endShown = False
        """Whether the user was told how it ended."""
        self._notices: list[str] = []
        self._stage, self._index, self._of = "", 1, 1
        self._worker = worker
        self._onChange = onChange
        self._job = worker.submit(
            "train",
            inputs={"normals": list(request.sources)},
            spec=request.spec.to_dict(),
            output=request.model,
            onEvent=self._heard,
            onEnd=self._answered,
        )

    @property
    def running(self) -> bool:
        """Whether it has not ended, paused or not."""
        return self.state != State.ENDED

    def pause(self) -> None:
        """Stand still after the current batch."""
        if self.state == State.RUNNING:
            self.state = State.PAUSING
            self._worker.pause(self._job)
            self._onChange()

    def resume(self) -> None:
        """Go on after a pause."""
        if self.state in (State.PAUSING, State.PAUSED):
            self.state = State.RUNNING
            self._worker.resume(self._job)
            self._onChange()

    def cancel(self) -> None:
        """Stop after the current batch; what was done is kept."""
        if self.running and self.state != State.CANCELLING:
            self.state = State.CANCELLING
            self._worker.cancel(self._job)
            self._onChange()

    def _heard(self, event: dict[str, Any]) -> None:
        match event.get("event"):
            case "stage":
                self._stage = str(event["name"])
                self._index, self._of = int(event["index"]), max(1, int(event["of"]))
                self._progressed(0.0, "", None)
            case "progress":
                done, total = int(event["done"]), max(1, int(event["total"]))
                self._progressed(done / total, self._counted(done, total), event.get("eta_s"))
            case "epoch":
                self._epochDone(event)
            case "notice":
                self._notices.append(str(event.get("text")))
            case "paused" if self.state == State.PAUSING:
                self.state = State.PAUSED
            case _:
                return
        self._onChange()

    def _counted(self, done: int, total: int) -> str:
        if self._stage == "fit":
            # Counted in batches; people count epochs.
            epochs = self.request.spec.epochs
            current = min(epochs, done * epochs // total + 1)
            return _("epoch {number} of {count}").format(number=current, count=epochs)
        return _("{done} of {total}").format(done=done, total=total)

    def _progressed(self, share: float, counted: str, etaS: float | None) -> None:
        stages = list(SHARES)
        before = stages[: stages.index(self._stage)] if self._stage in SHARES else []
        whole = sum(SHARES[name] for name in before) + share * SHARES.get(self._stage, 0.0)
        text = _("Step {index} of {count}: {stage}").format(
            index=self._index, count=self._of, stage=stageName(self._stage)
        )
        if counted:
            text = f"{text}, {counted}"
        if etaS:
            text = f"{text}, {timeLeft(float(etaS))}"
        self.progress = Progress(whole, text)

    def _epochDone(self, event: dict[str, Any]) -> None:
        epoch = Epoch(int(event["epoch"]), float(event["train_mse"]), float(event["held_out_nll"]))
        # Those done before a resume are told again.
        known = {one.number: one for one in self.curve} | {epoch.number: epoch}
        self.curve = [known[number] for number in sorted(known)]

    def _answered(self, event: dict[str, Any]) -> None:
        self.state = State.ENDED
        self.finished = event["event"] == "result"
        ended = Outcome() if self.finished else outcomeOf(event)
        self.outcome = Outcome(error=ended.error, notices=tuple(self._notices))
        self._onChange()


def sharedTrainer() -> "Trainer":
    """The trainer; its process starts with its first job."""
    trainer = getattr(slicer.modules, TRAINER_ATTRIBUTE, None)
    if trainer is None:
        trainer = Trainer(WorkerProcess())
        setattr(slicer.modules, TRAINER_ATTRIBUTE, trainer)
        slicer.app.connect("aboutToQuit()", trainer.stop)
    return trainer


def _ignore(*_unused: object) -> None:
    """Do nothing, where there is no panel."""


class Trainer:
    """Runs one training at a time, in a worker process that does nothing else but surveys.

    `onChange` hears that something is different with the training, also that it has ended.
    """

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.onChange: Callable[[], None] = _ignore
        self.confirmQuit: Callable[[str], bool] = slicer.util.confirmYesNoDisplay
        self.training: Training | None = None
        """The one that runs, or the last one."""
        self._question: QuitQuestion | None = None
        self._left: WorkFolder | None = None

    @property
    def running(self) -> bool:
        """Whether a training has not ended."""
        return self.training is not None and self.training.running

    def train(self, request: TrainingRequest) -> Training:
        """Begin a training; raises `InputError` while another runs."""
        if self.running:
            raise InputError("busy", _("Another training is running."))
        self._watchWindow()
        self.training = None
        self.training = Training(request, self.worker, self._changed)
        return self.training

    def detach(self) -> None:
        """There is no panel to tell any more; the training goes on."""
        self.onChange = _ignore
        self.worker.log = _ignore

    def stop(self) -> None:
        """End the worker, when Slicer quits; what was done is kept."""
        self.detach()
        self.worker.stop()

    def releaseFiles(self, files: WorkFolder) -> None:
        """Remove files that nobody else needs, once the training that reads them has ended."""
        if self.running and self.training.request.files is files:
            self._left = files
        else:
            files.remove()

    def _changed(self) -> None:
        if not self.running and self._left is not None:
            self._left.remove()
            self._left = None
        self.onChange()

    def _watchWindow(self) -> None:
        window = slicer.util.mainWindow()
        if self._question is None and window is not None:
            self._question = QuitQuestion(window, self._mayQuit)

    def _mayQuit(self) -> bool:
        return not self.running or self.confirmQuit(
            _(
                "A training is running and will stop. What it has done is kept: it can be "
                "resumed under Train. Quit all the same?"
            )
        )


class QuitQuestion(qt.QObject):
    """Asks before a window closes while a training runs; lives as long as the window, its parent.

    Qt gives the window's events to this object first: an answer of no ends the
    close event here, before Slicer asks about the scene.
    """

    def __init__(self, window: "qt.QWidget", mayClose: Callable[[], bool]) -> None:
        qt.QObject.__init__(self, window)
        self._mayClose = mayClose
        self._asking = False
        window.installEventFilter(self)

    def eventFilter(self, watched: "qt.QObject", event: "qt.QEvent") -> bool:
        """Keep the close event from the window where the answer is no."""
        if event.type() != qt.QEvent.Close:
            return False
        # A second click on the cross while the question is shown is no answer.
        if not self._asking:
            self._asking = True
            try:
                if self._mayClose():
                    return False
            finally:
                self._asking = False
        event.ignore()
        return True
