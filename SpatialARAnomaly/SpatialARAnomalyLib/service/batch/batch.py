"""A batch: many scans, one after the other or side by side, resumed where it was interrupted."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.errors import Cancelled, OutputError
from SpatialARAnomalyLib.engine.files import remove_stale_partials, unwritable
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.batch.places import Outcome, Place, ScanRequest, Work
from SpatialARAnomalyLib.service.batch.table import (
    DONE,
    FAILED,
    REFUSED,
    STATES,
    Row,
    StatusTable,
    is_batch,
)
from SpatialARAnomalyLib.service.csv_files import cell
from SpatialARAnomalyLib.service.outputs import make_folder, remove_empty

LOCK_FILE = ".lock"

BREAKDOWNS = {
    *("internal", "out-of-memory", "cluster-memory", "process-died", "output-incomplete"),
}
"""Codes of what broke; any other error means that the scan cannot be used."""

_FOR_ALL = {
    *("device-missing", "torch-missing", "package-missing", "dicomweb-missing", "process-start"),
    *(
        "cluster-lost",
        "cluster-version",
        "output-unwritable",
        "training-unwritable",
        "output-folder",
    ),
}
_SCAN_AND_MODEL = {"model-geometry", "model-modality", "model-mask"}


def stops_all(code: str) -> bool:
    """Return True for an error that every further scan would meet, too."""
    return code in _FOR_ALL or (
        code.startswith(("encoder-", "model-", "spec-")) and code not in _SCAN_AND_MODEL
    )


@dataclass(frozen=True, kw_only=True)
class BatchScan:
    """A scan of a batch."""

    name: str
    """Path within the input: name of its row, and of its folder in the results."""
    inputs: dict[str, Any]
    """Inputs of the job."""
    files: tuple[Path, ...] = ()
    """Files and folders by whose sizes and times a change of the scan is noticed."""
    inside: tuple[str, ...] = ()
    """Paths within the folder that is the first of these, where it holds other scans, too."""


@dataclass(frozen=True)
class BatchOutcome:
    """The outcome of a batch."""

    table: Path
    """The table's file."""
    rows: list[Row]
    """The rows of the scans, in their order."""

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of scans by state."""
        return {state: sum(row["state"] == state for row in self.rows) for state in STATES}

    @property
    def is_complete(self) -> bool:
        """True if every scan is done."""
        return self.counts[DONE] == len(self.rows)

    def as_result(self) -> dict[str, Any]:
        """Return the values of the `result` event of a batch."""
        return {"scans": len(self.rows), **self.counts, "files": {"status": str(self.table)}}


def run_batch(
    work: Work,
    scans: Sequence[BatchScan],
    folder: Path,
    place: Place,
    settings: Any,
    report: Reporter,
    *,
    columns: Callable[[dict[str, Any]], Row] = lambda values: {},
    is_whole: Callable[[Path], bool] = Path.is_dir,
) -> BatchOutcome:
    """Do the work on every scan that is not done, and keep the table of the scans.

    Results lie in a folder per scan, the table in `folder`, which belongs to the batch: it must
    be new, empty, or that of an earlier run. A scan that is done stays if its files, `settings`
    and the version of this program are the same; refused and failed ones are tried again.

    Args:
        work: The job and its settings, which overwrite earlier results of the scan.
        scans: The scans; their names are different.
        folder: Folder of the results.
        place: Where to compute.
        settings: What decides about the results, in the types of JSON.
        report: Receives progress and each notice once; may cancel, which keeps what is done.
        columns: Returns the columns of the table from the result of the job.
        is_whole: Returns whether the folder of a scan that is done still has its results.

    Raises:
        SpatialARError: An error that every scan would meet; what is done is kept.
        Cancelled: Through `report`; what is done is kept.
    """
    with _hold(folder), _keeping():
        table = StatusTable(folder)
        fingerprints = {}
        for scan in scans:
            report.check_cancelled()
            remove_stale_partials(folder / scan.name)  # of processes that were killed
            fingerprint = _fingerprint(scan, settings)
            row = table.rows.get(str(cell(scan.name)), {})
            if (
                row.get("state") != DONE
                or row.get("fingerprint") != fingerprint
                or not is_whole(folder / scan.name)
            ):
                table.rows.pop(str(cell(scan.name)), None)
                fingerprints[scan.name] = fingerprint
        table.rewrite(scan.name for scan in scans)
        done = len(scans) - len(fingerprints)
        report.progress(done, len(scans), "scan")
        place_of = Path(os.path.abspath(folder))  # for processes with another working folder
        requests = (
            ScanRequest(name=scan.name, inputs=scan.inputs, output=place_of / scan.name)
            for scan in scans
            if scan.name in fingerprints
        )
        told: set[str] = set()
        with closing(place.run(work, requests, report)) as outcomes:
            for request, outcome in outcomes:
                if outcome.error is not None and stops_all(outcome.error.code):
                    raise outcome.error
                row = {"scan": request.name, "fingerprint": fingerprints[request.name]}
                table.add(row | _row(outcome, columns))
                for code, text in outcome.notices:
                    if code not in told:
                        report.notice(code, f"{request.name}: {text}")
                    told.add(code)
                done += 1
                report.progress(done, len(scans), "scan")
        table.rewrite(scan.name for scan in scans)
        for name in fingerprints:
            remove_stale_partials(folder / name)
        return BatchOutcome(table.path, [table.rows[str(cell(scan.name))] for scan in scans])


def _row(outcome: Outcome, columns: Callable[[dict[str, Any]], Row]) -> Row:
    row: Row = {
        "seconds": round(outcome.seconds, 3),
        "notices": " ".join(sorted({code for code, _ in outcome.notices})),
    }
    error = outcome.error
    if error is None:
        return row | {"state": DONE} | columns(outcome.values or {})
    state = FAILED if error.code in BREAKDOWNS else REFUSED
    return row | {"state": state, "code": error.code, "reason": " ".join(error.message.split())}


def _fingerprint(scan: BatchScan, settings: Any) -> str:
    """Return a hash of the scan's files (names, sizes, times), the settings and the version."""
    found = []
    for path in scan.files:
        if scan.inside and path is scan.files[0]:
            below = [path / name for name in scan.inside]
        elif path.is_dir():
            below = sorted(one for one in path.rglob("*") if one.is_file())
        else:
            below = [path]
        for one in below:
            try:
                about = one.stat()
            except OSError:
                continue  # reading the scan says what is wrong
            found.append([str(one.relative_to(path)), about.st_size, about.st_mtime_ns])
    values = [found, scan.inputs.get("series"), settings, __version__]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _keeping() -> Iterator[None]:
    """Say of a cancelled batch what is kept."""
    try:
        yield
    except Cancelled:
        raise Cancelled("Scans that are done are kept; repeat the command to resume.") from None


@contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Make and lock the folder of a batch; raises `OutputError` where it is none or in use."""
    from filelock import FileLock, Timeout

    made = make_folder(folder)
    try:
        held = set(os.listdir(folder)) - {LOCK_FILE}
        if held and not is_batch(folder):
            raise OutputError(
                "output-not-a-batch",
                f"The results of several scans need a new folder; {folder.name!r} holds other "
                "files.",
            )
        lock = FileLock(folder / LOCK_FILE, timeout=0)
        try:
            with lock:
                yield
        except Timeout:
            raise OutputError(
                "batch-running", f"Another command is writing results into {folder.name!r}."
            ) from None
    except OSError as error:
        raise unwritable("The folder of the results cannot be used", error) from None
    finally:
        remove_empty(made)
