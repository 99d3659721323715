"""The worker as a child process of Slicer: started when needed, kept running, ended as a whole.

QProcess delivers the worker's output to Slicer's event loop. A Python thread
would stand still: PythonQt holds the interpreter's lock while Qt idles.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.service.events import PROTOCOL
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.QtHelpers import doNothing, singleShotTimer

LIBRARY_FOLDER = Path(__file__).resolve().parents[3]
"""Folder that holds the package `SpatialARAnomalyLib`."""

BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from SpatialARAnomalyLib.service.worker.main import main; main()"
)
"""Program of the child's Python. The library's folder is an argument, so any path will do."""

IDLE_S = 600.0
"""Seconds after which an unused worker is ended, because it holds memory, perhaps a GPU's."""

CANCEL_GRACE_S = 10.0
"""Seconds that a cancelled job has to stop before its process is ended."""

SILENCE_S = 1800.0
"""Seconds without an event after which a job has failed.

One batch of the largest encoder on a slow CPU takes about half of it.
"""

MAX_LINE_BYTES = 1 << 26
"""Longest event accepted; 65,535 findings take about 20 MB."""

LOG_TAIL = 600
"""Characters of the worker's log that are reported when it dies."""

END_EVENTS = ("result", "failed", "cancelled")
"""Events of which exactly one ends a job."""

Event = dict[str, Any]


@dataclass
class _Job:
    onEvent: Callable[[Event], None]
    onEnd: Callable[[Event], None]
    cancelled: bool = False
    paused: bool = False


def pythonSlicer() -> str:
    """Return Slicer's own Python, or the running interpreter outside Slicer."""
    return shutil.which("PythonSlicer") or sys.executable


def workerPython() -> str:
    """Return the Python that runs the worker: the one the user chose, else Slicer's own."""
    return Settings.workerPython() or pythonSlicer()


def hidePaths(text: str) -> str:
    """Replace the user's folders in a text by placeholders."""
    # The longest first: the temporary folder may lie in the home folder.
    places = {
        slicer.app.temporaryPath: "<temporary folder>",
        tempfile.gettempdir(): "<temporary folder>",
        os.path.expanduser("~"): "<home>",
    }
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = text.replace(place, places[place])
    return text


class WorkerProcess:
    """Runs jobs in one child process, which starts with the first job.

    Every job ends with exactly one event passed to its `onEnd`: `result`,
    `failed` (`code`, `text`, `facts`) or `cancelled`, whatever happens to the process.
    """

    def __init__(
        self,
        log: Callable[[str], None] = doNothing,
        *,
        command: tuple[str, ...] | None = None,
        idleS: float = IDLE_S,
        cancelGraceS: float = CANCEL_GRACE_S,
        silenceS: float = SILENCE_S,
    ) -> None:
        self.log = log
        self._command = command
        self._process = None
        self._pid: int | None = None
        self._jobs: dict[int, _Job] = {}
        self._lastId = 0
        self._partialEvent, self._partialLog = b"", b""
        self._logTail = ""
        self._idle = self._timer(idleS, self.stop)
        self._grace = self._timer(cancelGraceS, self._endCancelled)
        self._silence = self._timer(silenceS, self._endSilent)
        self._refusal = self._timer(0, self._refuseJobs)
        self._heldFor = ""
        self._restartWhenIdle = False

    @staticmethod
    def _timer(seconds: float, slot: Callable[[], None]) -> "qt.QTimer":
        timer = singleShotTimer(int(seconds * 1000))
        timer.timeout.connect(slot)
        return timer

    @property
    def running(self) -> bool:
        """True while the child process exists."""
        return self._process is not None

    @property
    def busy(self) -> bool:
        """True while a job has not ended."""
        return bool(self._jobs)

    @property
    def pid(self) -> int | None:
        """The worker's own process id (its launcher has another), known after its `hello`."""
        return self._pid

    def submit(
        self,
        job: str,
        *,
        inputs: dict[str, Any] | None = None,
        spec: dict[str, Any] | None = None,
        output: Path | None = None,
        onEnd: Callable[[Event], None],
        onEvent: Callable[[Event], None] = doNothing,
    ) -> int:
        """Send a job to the worker and return its id, for `cancel`."""
        self._lastId += 1
        number = self._lastId
        request = {"protocol": PROTOCOL, "id": number, "job": job}
        request |= {"inputs": inputs or {}, "spec": spec or {}}
        if output is not None:
            request["output"] = str(output)
        line = _encode(request)
        self._jobs[number] = _Job(onEvent, onEnd)
        if self._heldFor:
            self._refusal.start()
            return number
        self._idle.stop()
        self._watchSilence()
        if self._process is None:
            self._start()
        self._write(line)
        return number

    def cancel(self, number: int) -> None:
        """Request that a job stops; its process is ended if it does not stop in time."""
        job = self._jobs.get(number)
        if job is None or job.cancelled:
            return
        job.cancelled = True
        self._write(_encode({"cancel": number}))
        # Cancelling further jobs does not postpone the end of the first.
        if not self._grace.isActive():
            self._grace.start()

    def pause(self, number: int) -> None:
        """Request that a job pauses between two steps; it then sends the event `paused`."""
        if number in self._jobs:
            self._write(_encode({"pause": number}))

    def resume(self, number: int) -> None:
        """Resume a paused job; it then sends the event `continued`."""
        job = self._jobs.get(number)
        if job is None:
            return
        job.paused = False
        self._write(_encode({"continue": number}))
        self._watchSilence()

    def stop(self) -> None:
        """End the worker at once, and cancel every job."""
        self._finish(lambda job: {"event": "cancelled"})

    def restartWhenIdle(self) -> None:
        """Run later jobs in a new process; present jobs end in the present one."""
        if self._jobs:
            self._restartWhenIdle = True
        else:
            self.stop()

    def hold(self, reason: str) -> None:
        """End the worker and fail every job with this reason until `release`.

        A running worker would keep the files of its packages from being replaced.
        """
        self.stop()
        self._heldFor = reason

    def release(self) -> None:
        """Accept jobs again, in a new process."""
        self._heldFor = ""

    def _refuseJobs(self) -> None:
        self._fail("worker-held", self._heldFor)

    def _start(self) -> None:
        # With a parent, Qt deletes the process, and not while it emits a signal.
        process = qt.QProcess(self._idle)
        # Slicer's own environment leads another Python to Slicer's library.
        foreign = self._command is None and Settings.workerPython()
        environment = (
            slicer.app.startupEnvironment()
            if foreign
            else qt.QProcessEnvironment.systemEnvironment()
        )
        environment.insert("PYTHONUNBUFFERED", "1")
        environment.insert("PYTHONUTF8", "1")
        # Slicer's ITK plugins fit Slicer's ITK, not SimpleITK's.
        environment.insert("ITK_AUTOLOAD_PATH", "")
        process.setProcessEnvironment(environment)
        process.readyReadStandardOutput.connect(self._readEvents)
        process.readyReadStandardError.connect(self._readLog)
        process.finished.connect(self._onFinished)
        process.errorOccurred.connect(self._onError)
        self._process = process
        self._partialEvent, self._partialLog, self._logTail = b"", b"", ""
        # -P: modules in Slicer's current folder must not shadow installed ones.
        command = self._command or (workerPython(), "-P", "-c", BOOT, str(LIBRARY_FOLDER))
        process.start(command[0], list(command[1:]))

    def _write(self, line: bytes) -> None:
        if self._process is not None:
            self._process.write(qt.QByteArray(line))

    def _readEvents(self) -> None:
        process = self._process
        if process is None:
            return
        fresh = bytes(process.readAllStandardOutput().data())
        lines, self._partialEvent = _splitLines(self._partialEvent, fresh)
        for line in lines:
            self._handleLine(line)
            # A callback may have stopped this process, and even started another.
            if self._process is not process:
                return
        if len(self._partialEvent) > MAX_LINE_BYTES:
            self._failForGarbage()

    def _handleLine(self, line: bytes) -> None:
        try:
            event = json.loads(line.decode("utf-8"))
            kind = event["event"]
            job = self._jobs.get(event.get("id"))
        except (ValueError, TypeError, KeyError, RecursionError):
            self._failForGarbage()
            return
        if kind == "hello":
            self._handleHello(event)
            return
        if job is None:
            if kind == "failed":
                self._fail(str(event.get("code")), str(event.get("text")))
            return
        if kind in ("paused", "continued"):
            job.paused = kind == "paused"
        self._watchSilence()
        if kind in END_EVENTS:
            del self._jobs[event["id"]]
            self._resetTimers()
            _call(job.onEnd, event)
        else:
            _call(job.onEvent, event)

    def _failForGarbage(self) -> None:
        self._fail(
            "worker-garbage",
            _("The worker process sent a line outside its protocol; it was ended."),
        )

    def _handleHello(self, hello: Event) -> None:
        pid = hello.get("pid")
        # Signals to the process groups 0 and 1 would reach Slicer and every process.
        if hello.get("protocol") != PROTOCOL or type(pid) is not int or pid <= 1:
            self._fail(
                "protocol-unknown",
                _("The worker process and the panel have different versions; it was ended."),
            )
            return
        self._pid = pid
        self.log(f"worker {pid} of version {hello.get('engine')} is ready")

    def _readLog(self) -> None:
        if self._process is None:
            return
        fresh = bytes(self._process.readAllStandardError().data())
        # Whole lines: half a path would not be recognized and hidden.
        lines, self._partialLog = _splitLines(self._partialLog, fresh)
        self._appendLog(b"".join(line + b"\n" for line in lines))

    def _appendLog(self, output: bytes) -> None:
        text = hidePaths(output.decode("utf-8", "replace"))
        self._logTail = (self._logTail + text)[-2 * LOG_TAIL :]
        if text.strip():
            self.log(text.rstrip())

    def _onError(self, error: object) -> None:
        if error == qt.QProcess.FailedToStart:
            self._fail(
                "worker-missing",
                _("The worker process could not be started: its Python was not found."),
            )

    def _onFinished(self, *_exit: object) -> None:
        # Qt 5 passes the exit code only, Qt 6 also the status: read both from the process.
        process = self._process
        if process is None:
            return
        self._readLog()
        self._readEvents()
        if self._process is not process:
            return
        self._appendLog(self._partialLog)
        crashed = process.exitStatus() == qt.QProcess.CrashExit
        how = _("crashed") if crashed else _("ended without a result")
        tail = self._logTail.strip()[-LOG_TAIL:]
        text = _("The worker process {how}.").format(how=how)
        self._fail("worker-died", text, **({"logTail": tail} if tail else {}))

    def _endCancelled(self) -> None:
        if any(job.cancelled for job in self._jobs.values()):
            self.log("the worker did not stop in time after a cancellation; it was ended")
            self._fail(
                "worker-ended",
                _("The worker process was ended because another of its jobs did not stop."),
            )

    def _endSilent(self) -> None:
        if self._jobs:
            self._fail(
                "worker-silent",
                _("The worker process did not respond for too long; it was ended."),
            )

    def _fail(self, code: str, text: str, **facts: str) -> None:
        """End the process; cancelled jobs end as cancelled, the others have failed."""
        failed = {"event": "failed", "code": code, "text": text, "facts": facts}
        self._finish(lambda job: {"event": "cancelled"} if job.cancelled else failed)

    def _finish(self, endEvent: Callable[[_Job], Event]) -> None:
        """End the process and then every job; their callbacks may submit new jobs."""
        process, self._process = self._process, None
        pid, self._pid = self._pid, None
        jobs, self._jobs = self._jobs, {}
        self._restartWhenIdle = False
        for timer in (self._idle, self._grace, self._silence, self._refusal):
            timer.stop()
        if process is not None:
            _endProcess(process, pid)
        for job in jobs.values():
            _call(job.onEnd, endEvent(job))

    def _watchSilence(self) -> None:
        """Restart the silence timer, unless a job is paused."""
        if any(job.paused for job in self._jobs.values()):
            self._silence.stop()
        else:
            self._silence.start()

    def _resetTimers(self) -> None:
        """Set the timers after the end of a job."""
        self._grace.stop()
        if any(job.cancelled for job in self._jobs.values()):
            self._grace.start()
        if self._jobs:
            self._watchSilence()
        elif self._restartWhenIdle:
            self.stop()
        else:
            self._silence.stop()
            self._idle.start()


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message, allow_nan=False).encode("utf-8") + b"\n"


def _splitLines(partial: bytes, fresh: bytes) -> tuple[list[bytes], bytes]:
    """Return the complete lines, and the beginning of the next."""
    if b"\n" not in fresh:
        return [], partial + fresh
    first, *lines = fresh.split(b"\n")
    return [partial + first, *lines[:-1]], lines[-1]


def _call(callback: Callable[[Event], None], event: Event) -> None:
    """Call a callback; report its error like a slot's, so that the other jobs get their events."""
    try:
        callback(event)
    except Exception:
        sys.excepthook(*sys.exc_info())


def _endProcess(process: "qt.QProcess", pid: int | None) -> None:
    """End the worker and all its child processes, not only the launcher that Slicer started."""
    for sig in (
        process.readyReadStandardOutput,
        process.readyReadStandardError,
        process.finished,
        process.errorOccurred,
    ):
        sig.disconnect()
    # The end of its input stops the worker even where the calls below fail.
    process.closeWriteChannel()
    if pid is not None and os.name == "posix":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
    elif pid is not None:
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(pid)],
            capture_output=True,
            check=False,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    if process.state() != qt.QProcess.NotRunning:
        process.kill()
        process.waitForFinished(1000)
    process.deleteLater()


_worker: WorkerProcess | None = None
_batchWorker: WorkerProcess | None = None


def sharedWorker() -> WorkerProcess:
    """Return the worker of the panel; its process starts with its first job."""
    global _worker
    if _worker is None:
        _worker = WorkerProcess()
        slicer.app.connect("aboutToQuit()", stopSharedWorker)
    return _worker


def sharedBatchWorker() -> WorkerProcess:
    """Return the worker of batches: a review does not wait for the hours that one takes."""
    global _batchWorker
    if _batchWorker is None:
        sharedWorker()
        _batchWorker = WorkerProcess()
    return _batchWorker


def stopSharedWorker() -> None:
    """End the panel's workers when Slicer quits or the module is unloaded."""
    global _worker, _batchWorker
    if _worker is not None:
        slicer.app.disconnect("aboutToQuit()", stopSharedWorker)
        _worker.stop()
        _worker = None
    if _batchWorker is not None:
        _batchWorker.stop()
        _batchWorker = None
