"""What a job says while it runs: the same events for a person, a program and Slicer.

As JSON, one object a line: `{"id": 7, "event": "progress", "done": 120, …}`.
Exactly one of `result`, `failed` and `cancelled` comes last.
"""

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..engine.errors import Cancelled, Fact
from ..engine.progress import EpochFigures

PROTOCOL = 1
"""Version of these events."""

MIN_INTERVAL_S = 0.1
"""Progress is told at most this often; the last of a stage always."""


@dataclass(frozen=True, kw_only=True)
class HelloEvent:
    """The program is ready."""

    protocol: int
    engine: str
    pid: int
    device: str


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A stage begins."""

    name: str
    index: int
    of: int


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """So many units of the stage are done."""

    done: int
    total: int
    unit: str
    eta_s: float | None
    """Seconds left of this stage, once that can be told."""


@dataclass(frozen=True, kw_only=True)
class EpochEvent:
    """An epoch of a training is over (`EpochFigures`)."""

    epoch: int
    train_mse: float
    held_out_nll: float


@dataclass(frozen=True, kw_only=True)
class NoticeEvent:
    """Something the user should know, which stops nothing."""

    code: str
    text: str


@dataclass(frozen=True, kw_only=True)
class ResultEvent:
    """The job is done."""

    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FailedEvent:
    """The job failed; nothing was changed."""

    code: str
    text: str
    facts: dict[str, Fact] = field(default_factory=dict)
    """Values of this failure for hints, as `SpatialARError.facts`."""
    hint: str | None = None
    """What to do, in the command line's words; the worker leaves it out."""


@dataclass(frozen=True, kw_only=True)
class CancelledEvent:
    """The job was stopped by the user."""


@dataclass(frozen=True, kw_only=True)
class PausedEvent:
    """The job holds between two of its steps, as the user asked."""


@dataclass(frozen=True, kw_only=True)
class ContinuedEvent:
    """The job goes on."""


Event = (
    HelloEvent
    | StageEvent
    | ProgressEvent
    | EpochEvent
    | NoticeEvent
    | PausedEvent
    | ContinuedEvent
    | ResultEvent
    | FailedEvent
    | CancelledEvent
)


def to_json(event: Event, job: int | None = None) -> dict[str, Any]:
    """The event as a JSON object; `job` is the request's id."""
    name = re.sub("Event$", "", type(event).__name__).lower()
    values = asdict(event)
    if isinstance(event, ResultEvent):
        values = event.result
    elif isinstance(event, FailedEvent) and event.hint is None:
        del values["hint"]
    return ({} if job is None else {"id": job}) | {"event": name} | values


class EventReporter:
    """Turns the engine's reports into events, with the time left of every stage."""

    def __init__(
        self,
        emit: Callable[[Event], None],
        cancelled: Callable[[], bool] = lambda: False,
        paused: Callable[[], bool] = lambda: False,
        wait_while_paused: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._emit = emit
        self._cancelled = cancelled
        self._paused = paused
        self._wait_while_paused = wait_while_paused
        self._clock = clock
        self._begun: tuple[float, int] | None = None
        self._told_s = float("-inf")

    def stage(self, name: str, index: int, of: int) -> None:
        """Tell that a stage begins."""
        self._begun = None
        self._told_s = float("-inf")
        self._emit(StageEvent(name=name, index=index, of=of))

    def progress(self, done: int, total: int, unit: str) -> None:
        """Tell how far the stage is and how long it will take, if it is time to."""
        now = self._clock()
        if self._begun is None:
            # A resumed stage does not begin at zero: its speed counts from here.
            self._begun = (now, done)
        if done < total and now - self._told_s < MIN_INTERVAL_S:
            return
        self._told_s = now
        begun_s, begun_at = self._begun
        eta_s = None
        if done >= total:
            eta_s = 0.0
        elif done > begun_at and now > begun_s:
            eta_s = round((now - begun_s) / (done - begun_at) * (total - done), 1)
        self._emit(ProgressEvent(done=done, total=total, unit=unit, eta_s=eta_s))

    def epoch(self, figures: EpochFigures) -> None:
        """Tell the figures of an epoch."""
        self._emit(EpochEvent(**asdict(figures)))

    def notice(self, code: str, text: str) -> None:
        """Tell something that stops nothing."""
        self._emit(NoticeEvent(code=code, text=text))

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the user asked to stop; hold while the job is paused."""
        if self._cancelled():
            raise Cancelled
        if self._paused():
            self._hold()

    def _hold(self) -> None:
        self._emit(PausedEvent())
        since_s = self._clock()
        self._wait_while_paused()
        if self._cancelled():
            raise Cancelled
        if self._begun is not None:
            # As if the stage had begun later: its speed is that of its work.
            begun_s, begun_at = self._begun
            self._begun = (begun_s + self._clock() - since_s, begun_at)
        self._emit(ContinuedEvent())
