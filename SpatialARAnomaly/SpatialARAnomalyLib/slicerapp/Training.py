"""One training in the worker: what is known of it, for whoever wants to see it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from .Detection import Outcome, outcomeOf
from .Progress import Progress, stageName, timeLeft
from .SceneScans import Source
from .TrainingPlot import Epoch
from .WorkerProcess import WorkerProcess
from .WorkFolder import WorkFolder

SHARES = {"read": 0.04, "embed": 0.44, "fit": 0.48, "calibrate": 0.04}
"""Of the bar, for stages of unknown length."""


@dataclass(frozen=True, kw_only=True)
class TrainingRequest:
    """What is to be trained."""

    name: str
    model: Path
    """The file the model will be."""
    sources: Sequence[Source]
    spec: dict[str, Any]
    """Of the worker's job."""
    files: WorkFolder | None = None
    """Where the scans of the scene lie among the sources."""

    @property
    def epochs(self) -> int:
        """How many there will be."""
        return int(self.spec.get("epochs") or 0)


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
        self.isTold = False
        """Whether the user was told how it ended."""
        self._notices: list[str] = []
        self._stage, self._index, self._of = "", 1, 1
        self._worker = worker
        self._onChange = onChange
        self._job = worker.submit(
            "train",
            inputs={"normals": list(request.sources)},
            spec=request.spec,
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

    def goOn(self) -> None:
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
        if self._stage == "fit" and self.request.epochs:
            # Told in batches; people count epochs.
            epochs = self.request.epochs
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
