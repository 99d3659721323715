"""The events of a job: the same for the terminal, for other programs and for Slicer.

As JSON, one object per line: `{"id": 7, "event": "progress", "done": 120, …}`.
Exactly one of `result`, `failed` and `cancelled` comes last. `as_user_error`, `missing_package`
and `internal_error` make the error of a `failed` event from any exception.
"""

import errno
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from SpatialARAnomalyLib.engine.device import is_out_of_memory
from SpatialARAnomalyLib.engine.errors import Cancelled, DeviceError, Fact, SpatialARError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.progress import EpochFigures

PROTOCOL = 1
"""Version of the messages and events."""

DISK_ERRORS = {errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Numbers of errors of a disk that is full, over a quota or read-only, wherever they come up."""

MIN_INTERVAL_S = 0.1
"""Seconds between two progress events, except for the last one of a stage."""


@dataclass(frozen=True, kw_only=True)
class HelloEvent:
    """The program is ready."""

    wire_name: ClassVar = "hello"
    protocol: int
    engine: str
    pid: int
    device: str


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """A stage begins."""

    wire_name: ClassVar = "stage"
    name: str
    index: int
    of: int


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """`done` of `total` units of the stage are done."""

    wire_name: ClassVar = "progress"
    done: int
    total: int
    unit: str
    eta_s: float | None
    """Seconds left of this stage; None until the speed is known."""


@dataclass(frozen=True, kw_only=True)
class EpochEvent:
    """An epoch of a training has ended (`EpochFigures`)."""

    wire_name: ClassVar = "epoch"
    epoch: int
    train_mse: float
    held_out_nll: float


@dataclass(frozen=True, kw_only=True)
class NoticeEvent:
    """A message that does not stop the job."""

    wire_name: ClassVar = "notice"
    code: str
    text: str


@dataclass(frozen=True, kw_only=True)
class ResultEvent:
    """The job is done."""

    wire_name: ClassVar = "result"
    result: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class FailedEvent:
    """The job failed; nothing was changed."""

    wire_name: ClassVar = "failed"
    code: str
    text: str
    facts: dict[str, Fact] = field(default_factory=dict)
    """Values for hints (`SpatialARError.facts`)."""
    hint: str | None = None
    """The command line's hint; the worker gives none."""


@dataclass(frozen=True, kw_only=True)
class CancelledEvent:
    """The user cancelled the job."""

    wire_name: ClassVar = "cancelled"


@dataclass(frozen=True, kw_only=True)
class PausedEvent:
    """The job waits between two of its steps."""

    wire_name: ClassVar = "paused"


@dataclass(frozen=True, kw_only=True)
class ContinuedEvent:
    """The job has resumed after a pause."""

    wire_name: ClassVar = "continued"


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
    """Return the event as a JSON object; `job` is the request's id."""
    values = event.result if isinstance(event, ResultEvent) else asdict(event)
    if isinstance(event, FailedEvent) and event.hint is None:
        del values["hint"]
    return ({} if job is None else {"id": job}) | {"event": event.wire_name} | values


class EventReporter:
    """A `Reporter` that turns the engine's reports into events and estimates the time left."""

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
        self._start: tuple[float, int] | None = None
        """Time and units done at the first progress of the stage."""
        self._emitted_s = float("-inf")

    def stage(self, name: str, index: int, of: int) -> None:
        """Emit the begin of a stage."""
        self._start = None
        self._emitted_s = float("-inf")
        self._emit(StageEvent(name=name, index=index, of=of))

    def progress(self, done: int, total: int, unit: str) -> None:
        """Emit progress and time left, at most every `MIN_INTERVAL_S` and at the stage's end."""
        now = self._clock()
        if self._start is None:
            # A resumed stage does not begin at zero.
            self._start = (now, done)
        if done < total and now - self._emitted_s < MIN_INTERVAL_S:
            return
        self._emitted_s = now
        start_s, start_done = self._start
        eta_s = None
        if done >= total:
            eta_s = 0.0
        elif done > start_done and now > start_s:
            eta_s = round((now - start_s) / (done - start_done) * (total - done), 1)
        self._emit(ProgressEvent(done=done, total=total, unit=unit, eta_s=eta_s))

    def epoch(self, figures: EpochFigures) -> None:
        """Emit the figures of an epoch."""
        self._emit(EpochEvent(**asdict(figures)))

    def notice(self, code: str, text: str) -> None:
        """Emit a notice."""
        self._emit(NoticeEvent(code=code, text=text))

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the user cancelled the job; block while it is paused."""
        if self._cancelled():
            raise Cancelled
        if self._paused():
            self._pause()

    def _pause(self) -> None:
        self._emit(PausedEvent())
        since_s = self._clock()
        self._wait_while_paused()
        if self._cancelled():
            raise Cancelled
        if self._start is not None:
            # The pause does not count as time of the stage.
            start_s, start_done = self._start
            self._start = (start_s + self._clock() - since_s, start_done)
        self._emit(ContinuedEvent())


def as_user_error(error: BaseException) -> SpatialARError | None:
    """Return the error as one that the user can act on, if it is one."""
    if isinstance(error, SpatialARError):
        return error
    if is_out_of_memory(error):
        return DeviceError("out-of-memory", "The device has too little free memory for this job.")
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        return unwritable("A file cannot be written", error)
    return None


def missing_package(error: BaseException) -> SpatialARError | None:
    """Return the error that names a third-party package which cannot be imported, if it is one."""
    if is_out_of_memory(error):  # a library could not be loaded into it
        return None
    if getattr(error, "code", "") == "torch-missing":
        name: str | None = "torch"
    elif isinstance(error, ImportError):
        name = (error.name or "").split(".")[0] or None
    else:
        return None
    if name is None or name == __name__.split(".")[0]:
        return None
    return SpatialARError(
        "package-missing",
        f"The Python package {name!r} is needed; it is not installed, or cannot be loaded.",
    )


def internal_error(error: BaseException) -> SpatialARError:
    """Return the error that is shown for a bug: the type of the exception, without its text."""
    return SpatialARError("internal", f"Internal error ({type(error).__name__}).")
