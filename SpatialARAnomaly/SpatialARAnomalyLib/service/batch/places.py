"""Where the scans of a batch are computed: in this process, in several, or on a cluster."""

import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from SpatialARAnomalyLib.engine.errors import Cancelled, SpatialARError
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.service.events import as_user_error, internal_error, missing_package
from SpatialARAnomalyLib.service.jobs import JOBS
from SpatialARAnomalyLib.service.redaction import redact_paths

DEATHS = 3
"""Processes that may die with a scan before it fails; Dask's `allowed-failures` is the same."""

POLL_S = 0.2
"""Seconds between two looks whether the user cancelled."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is done with every scan of a batch: a job of `service.jobs` and its settings."""

    job: str
    spec: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScanRequest:
    """One scan of a batch."""

    name: str
    inputs: dict[str, Any]
    """Inputs of the job, in the types of JSON."""
    output: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one scan: values, or an error."""

    values: dict[str, Any] | None = None
    """Result of the job."""
    error: SpatialARError | None = None
    notices: tuple[tuple[str, str], ...] = ()
    """Code and text of each notice."""
    seconds: float = 0.0


Outcomes = Generator[tuple[ScanRequest, Outcome], None, None]
"""Requests with their outcomes, in the order of their ends."""


@runtime_checkable
class Place(Protocol):
    """Somewhere to compute."""

    def run(self, work: Work, requests: Iterable[ScanRequest], report: Reporter) -> Outcomes:
        """Yield every request with its outcome, as they end; few are taken ahead.

        Raises `Cancelled` through `report`; what runs is stopped then, and when the iteration is
        given up.
        """


class Here:
    """The process itself: one scan after the other."""

    def run(self, work: Work, requests: Iterable[ScanRequest], report: Reporter) -> Outcomes:
        """Yield every request with its outcome."""
        for request in requests:
            report.check_cancelled()
            yield request, do(work, request, report.check_cancelled)


HERE = Here()


def do(
    work: Work, request: ScanRequest, check_cancelled: Callable[[], None] = lambda: None
) -> Outcome:
    """Do the work on a scan in this process; raises `Cancelled` through `check_cancelled`."""
    notices = Notices(check_cancelled)
    begun_s = time.perf_counter()
    values, known = None, None
    try:
        values = JOBS[work.job].run(request.inputs, work.spec, str(request.output), notices)
    except Cancelled:
        raise
    except Exception as error:
        known = missing_package(error) or as_user_error(error)
        if known is None:
            print(redact_paths(traceback.format_exc(), request), file=sys.stderr)
            known = internal_error(error)
    seconds = time.perf_counter() - begun_s
    return Outcome(values=values, error=known, notices=tuple(notices.found), seconds=seconds)


def died() -> SpatialARError:
    """Make the error of a scan whose processes were killed."""
    return SpatialARError(
        "process-died", f"The process of the scan must not be killed; {DEATHS} were."
    )


class Notices(SilentReporter):
    """Collects notices, and may cancel."""

    def __init__(self, check_cancelled: Callable[[], None]) -> None:
        self.found: list[tuple[str, str]] = []
        self.check_cancelled = check_cancelled  # type: ignore[method-assign]

    def notice(self, code: str, text: str) -> None:
        """Keep a notice."""
        self.found.append((code, text))
