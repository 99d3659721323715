"""Progress for a person at a terminal: stage, bar and time left on stderr."""

import json
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .events import EpochEvent, Event, NoticeEvent, ProgressEvent, StageEvent, to_json

LINE_INTERVAL_S = 5.0
"""Without a terminal (a log file), progress is told at most this often."""

_STAGE_WORDS = {
    "make": "Making scans",
    "list": "Looking for scans",
    "estimate": "Estimating",
    "read": "Reading",
    "embed": "Embedding slices",
    "fit": "Training",
    "calibrate": "Calibrating",
    "find": "Finding",
    "score": "Scoring scans",
    "resample": "Drawing patients",
    "write": "Writing",
    "copy": "Copying",
    "verify": "Verifying",
    "remove": "Removing",
    "download": "Downloading",
    "check": "Checking",
    "packages": "Collecting packages",
    "weights": "Weights",
    "manifest": "Hashing files",
}

_UNITS = {"batch": "batches", "MiB": "MiB"}


def time_left(seconds: float | None) -> str:
    """Seconds as a person says them: `1 min 20 s left`."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min left"
    if minutes:
        return f"{minutes} min {rest} s left"
    return f"{rest} s left"


class JsonLines:
    """Prints every event as one JSON object a line on stdout."""

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, event: Event) -> None:
        """Print the event."""
        print(json.dumps(to_json(event, job=1)), flush=True)


class TerminalProgress:
    """Shows the events of a job on stderr: a live bar at a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._live: Progress | None = None
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
                TextColumn("{task.fields[left]}"),
                TextColumn("{task.fields[figures]}", style="dim"),
                console=self._console,
            )
        self._task: TaskID | None = None
        self._stage = ""
        self._figures = ""
        self._told_s = time.monotonic()

    def __enter__(self) -> "TerminalProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show the event."""
        match event:
            case StageEvent():
                words = _STAGE_WORDS.get(event.name, event.name)
                self._stage, self._figures = f"[{event.index}/{event.of}] {words}", ""
                self._task = None
                if self._live is None:
                    self._line(self._stage)
            case ProgressEvent():
                self._progress(event)
            case EpochEvent():
                self._figures = f"epoch {event.epoch}: held-out NLL {event.held_out_nll:.4f}"
            case NoticeEvent():
                self._console.print(
                    f"Note: {event.text}",
                    style="yellow",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
            case _:
                pass

    def _progress(self, event: ProgressEvent) -> None:
        unit, scale = _UNITS.get(event.unit, f"{event.unit}s"), 1.0
        if event.unit == "byte":
            unit, scale = "MB", 1e6
        done, total = event.done / scale, event.total / scale
        left = time_left(event.eta_s)
        if self._live is not None:
            if self._task is None:
                self._task = self._live.add_task(
                    self._stage.replace("[", r"\["),
                    total=total,
                    unit=unit,
                    left="",
                    figures="",
                )
            self._live.update(
                self._task,
                completed=done,
                total=total,
                left=left if event.done < event.total else "",
                figures=self._figures,
            )
        elif event.done >= event.total or time.monotonic() - self._told_s >= LINE_INTERVAL_S:
            parts = [f"{self._stage}: {done:.0f}/{total:.0f} {unit}"]
            if event.done < event.total and left:
                parts.append(left)
            if self._figures:
                parts.append(self._figures)
            self._line(", ".join(parts))

    def _line(self, text: str) -> None:
        self._told_s = time.monotonic()
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)
