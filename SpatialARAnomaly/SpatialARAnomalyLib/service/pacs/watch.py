"""A watch: new series of a PACS are processed as they come, each exactly once."""

import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import Cancelled, OutputError, PacsError, SpatialARError
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.service.batch.batch import BREAKDOWNS, stops_all
from SpatialARAnomalyLib.service.batch.places import (
    HERE,
    POLL_S,
    Outcome,
    Place,
    ScanRequest,
    Work,
)
from SpatialARAnomalyLib.service.detection.result_files import ResultsSpec
from SpatialARAnomalyLib.service.outputs import make_folder
from SpatialARAnomalyLib.service.pacs.address import EVERY_S, PacsAddress
from SpatialARAnomalyLib.service.pacs.client import Pacs, PacsSeries
from SpatialARAnomalyLib.service.pacs.scans import store_results
from SpatialARAnomalyLib.service.pacs.watch_state import (
    ARRIVING,
    DONE,
    FAILED,
    REFUSED,
    WatchState,
    open_state,
)
from SpatialARAnomalyLib.service.scans import ScanSource

STATE_FILE = "watch.sqlite3"
LOCK_FILE = ".watch.lock"
INCOMING = ".watch-incoming"
"""Folder of the series that is processed; what a kill left there is removed at the next start."""

SETTLE_S = 60.0
"""Seconds for which a series must not have grown before it is taken: scanners send for minutes."""

MAX_TRIES = 3
"""Times that a series may break the program, or be broken off, before it has failed."""

_OF_ONE_SERIES = {"pacs-incomplete", "pacs-not-found", "pacs-store", "pacs-failed"}
"""Codes after which the PACS is asked for the next series all the same."""


@dataclass(frozen=True, kw_only=True)
class WatchRequest:
    """Which series a watch processes, and how."""

    address: PacsAddress
    spec: ResultsSpec
    out: Path
    """Folder of the state, with a folder of results for each series, named by its UID."""
    store: bool = False
    """Store the DICOM results in the PACS."""
    days: int | None = None
    """Only studies of the last days, 1 for those of today."""
    once: bool = False
    """End after one scan of the PACS."""
    every_s: float = EVERY_S
    settle_s: float = SETTLE_S
    place: Place = HERE
    """Where to compute."""


def watch(
    request: WatchRequest, report: Reporter, clock: Callable[[], float] = time.time
) -> dict[str, int]:
    """Process the series that a query finds, and those that come; return their numbers by state.

    A cancel is heeded between two series, and is no error; without `once` it is the only end.

    Raises:
        PacsError: The server cannot be reached at the first scan.
        SpatialARError: Model or output cannot be used.
    """
    from filelock import FileLock, Timeout

    card = read_card(request.spec.model)
    make_folder(request.out)
    lock = FileLock(request.out / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            "watch-running", f"Another watch is writing results into {request.out.name!r}."
        ) from None
    try:
        shutil.rmtree(request.out / INCOMING, ignore_errors=True)
        with open_state(request.out / STATE_FILE, card.weights_sha256) as state:
            with suppress(Cancelled):
                _Watch(request, state, report, clock).run()
            return state.counts()
    finally:
        shutil.rmtree(request.out / INCOMING, ignore_errors=True)
        lock.release()


class _Watch:
    def __init__(
        self,
        request: WatchRequest,
        state: WatchState,
        report: Reporter,
        clock: Callable[[], float],
    ) -> None:
        self._request = request
        self._state = state
        self._report = report
        self._clock = clock
        self._quiet = _Notices(report)
        spec = replace(request.spec, overwrite=True, name=None)
        spec_values = spec.to_dict() | {"model": os.path.abspath(spec.model)}
        self._work = Work(job="detect_scan", spec=spec_values)

    def run(self) -> None:
        """Scan the PACS until the end."""
        first = True
        while True:
            try:
                self._scan()
            except PacsError as error:
                if first or self._request.once:
                    raise
                self._report.notice(error.code, error.message)
            if self._request.once:
                return
            first = False
            self._wait(self._request.every_s)

    def _scan(self) -> None:
        """Look for series, and process those that have arrived."""
        self._see()
        if self._request.once:  # there is no next scan to see that they have
            arriving = self._state.list_ready(self._clock())
            if len(self._list_ready()) < len(arriving):
                self._wait(self._request.settle_s)
                self._see()
        ready = self._list_ready()
        if ready:
            self._process(ready)
        self._report.check_cancelled()

    def _process(self, ready: Sequence[PacsSeries]) -> None:
        begun: dict[str, PacsSeries] = {}
        scans = self._fetch(ready, begun)
        self._report.progress(0, len(ready), "scan")
        try:
            with closing(self._request.place.run(self._work, scans, self._quiet)) as outcomes:
                for number, (scan, outcome) in enumerate(outcomes, start=1):
                    self._take(begun[scan.name], outcome)
                    self._forget(begun.pop(scan.name))
                    self._report.progress(number, len(ready), "scan")
        except SpatialARError:  # which all would meet, and which says nothing of these
            for uid in begun:
                self._state.undo_begin(uid)
            raise
        finally:
            for series in begun.values():
                self._forget(series)

    def _see(self) -> None:
        address = self._request.address
        if self._request.days is not None:
            begin = date.fromtimestamp(self._clock()) - timedelta(days=self._request.days - 1)
            address = replace(address, filters={**address.filters, "StudyDate": f"{begin:%Y%m%d}-"})
        # A new connection for each scan: certificates and logins change in months of a watch.
        self._pacs = Pacs(address, self._quiet)
        try:
            found = self._pacs.find_series()
        except PacsError as error:
            if error.code != "pacs-no-scan":
                raise
            found = []
        self._state.see(found, self._clock())

    def _list_ready(self) -> list[PacsSeries]:
        return self._state.list_ready(self._clock() - self._request.settle_s)

    def _fetch(
        self, ready: Sequence[PacsSeries], begun: dict[str, PacsSeries]
    ) -> Iterator[ScanRequest]:
        """Fetch one series after the other, and note which; end early at a cancel."""
        for series in ready:
            try:
                self._report.check_cancelled()
            except Cancelled:
                return
            tries, code = self._state.begin(series.uid)
            if tries > MAX_TRIES:
                text = f"it broke off {MAX_TRIES} times"
                self._end(series.uid, FAILED, code or "process-died", text)
                continue
            begun[series.uid] = series
            folder = self._folder(series)
            folder.parent.mkdir(mode=stat.S_IRWXU, exist_ok=True)
            try:
                images = self._pacs.fetch(series, folder)
            except PacsError as error:
                if error.code not in _OF_ONE_SERIES:
                    raise
                self._try_again(series.uid, error)
                self._forget(begun.pop(series.uid))
                continue
            begun[series.uid] = replace(series, images=images)
            yield ScanRequest(
                name=series.uid,
                inputs=ScanSource(path=folder).to_dict(),
                output=Path(os.path.abspath(self._request.out)) / series.uid,
            )

    def _folder(self, series: PacsSeries) -> Path:
        return self._request.out / INCOMING / series.uid

    def _forget(self, series: PacsSeries) -> None:
        """Remove the images of a series."""
        shutil.rmtree(self._folder(series), ignore_errors=True)

    def _take(self, series: PacsSeries, outcome: Outcome) -> None:
        """Store the results of a series, and note its outcome; raises what all would meet."""
        uid = series.uid
        for code, text in outcome.notices:
            self._quiet.notice(code, text)
        try:
            if len(self._pacs.list_images(series.study, uid)) > series.images:
                self._state.undo_begin(uid)
                self._state.see([replace(series, images=-1)], self._clock())
                return
            if outcome.error is not None:
                raise outcome.error
            assert outcome.values is not None
            if self._request.store:
                files = {kind: Path(file) for kind, file in outcome.values["files"].items()}
                store_results(self._pacs, files, self._quiet)
        except PacsError as error:
            if error.code not in _OF_ONE_SERIES:
                raise
            self._try_again(uid, error)
        except SpatialARError as error:
            if stops_all(error.code):
                raise
            if error.code not in BREAKDOWNS:
                self._end(uid, REFUSED, error.code, error.message)
            else:
                self._try_again(uid, error)
        else:
            found = len(outcome.values["findings"])
            self._end(uid, DONE, "", f"{found} finding{'' if found == 1 else 's'}")

    def _try_again(self, uid: str, error: SpatialARError) -> None:
        self._state.note(uid, ARRIVING, error.code)
        self._report.notice(error.code, f"{uid}: {error.message} It is tried again.")

    def _end(self, uid: str, state: str, code: str, text: str) -> None:
        self._state.note(uid, state, code)
        self._report.notice(f"series-{state}", f"{uid}: {state}, {text}")

    def _wait(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self._report.check_cancelled()
            time.sleep(min(POLL_S, left_s))


class _Notices(SilentReporter):
    """Passes each kind of notice on once, and no cancel: a series is ended before the watch."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._told: set[str] = set()

    def notice(self, code: str, text: str) -> None:
        """Pass a notice on, if it is the first of its code."""
        if code not in self._told:
            self._told.add(code)
            self._report.notice(code, text)
