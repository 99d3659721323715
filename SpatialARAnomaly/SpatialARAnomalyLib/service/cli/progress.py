"""Progress for a person: stage, bar and time left on stderr."""

import sys
import time
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from SpatialARAnomalyLib.service.events import (
    EpochEvent,
    Event,
    NoticeEvent,
    ProgressEvent,
    StageEvent,
)

LINE_INTERVAL_S = 5.0
"""Least seconds between two lines of progress where stderr is no terminal (a log file)."""

_STAGE_WORDS = {
    "make": "Making scans",
    "list": "Looking for scans",
    "estimate": "Estimating",
    "read": "Reading",
    "detect": "Detecting",
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

_PLURALS = {"batch": "batches", "MiB": "MiB"}


class AmountColumn(ProgressColumn):
    """Column of amounts: downloads in rich's form, other units as `120/155 slices`."""

    def render(self, task: Task) -> Text:
        """Render the amount of a task."""
        unit = task.fields["unit"]
        if unit == "byte":
            return DownloadColumn().render(task)
        return Text.assemble(MofNCompleteColumn().render(task), f" {_plural(unit)}")


def _plural(unit: str) -> str:
    return _PLURALS.get(unit, f"{unit}s")


class TerminalProgress:
    """Shows the events of a job on stderr: a live bar at a terminal, lines elsewhere."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr)
        self._live: Progress | None = None
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                AmountColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", style="dim"),
                console=self._console,
            )
        self._task: TaskID | None = None
        self._stage = ""
        self._figures = ""
        self._printed_s = time.monotonic()

    def __enter__(self) -> "TerminalProgress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
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
                    self._printed_s = time.monotonic()
            case ProgressEvent():
                self._progress(event)
            case EpochEvent():
                self._figures = f"epoch {event.epoch}: held-out NLL {event.held_out_nll:.4f}"
            case NoticeEvent():
                self._line(f"Note: {event.text}", style="yellow")

    def _progress(self, event: ProgressEvent) -> None:
        done, total = event.done, event.total
        if self._live is not None:
            if self._task is None:
                self._task = self._live.add_task(
                    self._stage.replace("[", r"\["), unit=event.unit, figures=""
                )
            self._live.update(self._task, completed=done, total=total, figures=self._figures)
        elif done >= total or time.monotonic() - self._printed_s >= LINE_INTERVAL_S:
            parts = [f"{self._stage}: {done}/{total} {_plural(event.unit)}"]
            if event.unit == "byte":
                parts = [f"{self._stage}: {done / 1e6:.0f}/{total / 1e6:.0f} MB"]
            if done < total and event.eta_s is not None:
                parts.append(f"{timedelta(seconds=round(event.eta_s))} left")
            if self._figures:
                parts.append(self._figures)
            self._line(", ".join(parts))
            self._printed_s = time.monotonic()

    def _line(self, text: str, style: str | None = None) -> None:
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
