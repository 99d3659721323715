"""The worker as a child process of Slicer: started when needed, kept warm, ended as a whole.

QProcess delivers its lines to Slicer's own event loop. A Python thread would
not do: PythonQt holds the interpreter's lock while Qt idles.
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
from SpatialARAnomalyLib.slicerapp.QtHelpers import singleShotTimer


def hidePaths(text: str) -> str:
    """The text with the user's folders replaced by what they are."""
    # The deepest first: the temporary folder may lie in the user's.
    places = {
        slicer.app.temporaryPath: "<temporary folder>",
        tempfile.gettempdir(): "<temporary folder>",
        str(Path.home()): "<home>",
    }
    for place in sorted(places, key=len, reverse=True):
        if len(place) > 1:
            text = text.replace(place, places[place])
    return text


LIBRARY_FOLDER = Path(__file__).resolve().parents[3]
"""Where `SpatialARAnomalyLib` lies."""

BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from SpatialARAnomalyLib.service.worker.main import main; main()"
)
"""What the child's Python runs; the library's folder is its argument, so that any path will do."""

IDLE_S = 600.0
"""A worker unused for so long is ended: it holds memory, perhaps a GPU's."""

CANCEL_GRACE_S = 10.0
"""A job that does not stop within this time after a cancel is ended with its process."""

SILENCE_S = 1800.0
"""A job of which nothing is heard for so long has failed: one batch of the largest
encoder on a slow CPU takes about half of it."""

LONGEST_LINE = 1 << 26
"""Bytes of a line that is no event any more; 65,535 findings take about 20 MB."""

LAST_WORDS = 4000
"""Characters kept of what the worker last wrote to its log."""

ENDS = ("result", "failed", "cancelled")
"""The events of which exactly one ends a job."""

Event = dict[str, Any]


@dataclass
class _Job:
    onEvent: Callable[[Event], None]
    onEnd: Callable[[Event], None]
    cancelled: bool = False
    paused: bool = False


def pythonSlicer() -> str:
    """Slicer's own Python; in a plain interpreter that interpreter."""
    return shutil.which("PythonSlicer") or sys.executable


def workerPython() -> str:
    """The Python that computes: the one the user chose, else Slicer's own."""
    return Settings.workerPython() or pythonSlicer()


class WorkerProcess:
    """Runs jobs in one child process, which is started when the first is submitted.

    Every job ends with exactly one event given to its `onEnd`: `result`,
    `failed` (`code`, `text`, `facts`) or `cancelled`, whatever happens to the process.
    """

    def __init__(
        self,
        log: Callable[[str], None] = lambda text: None,
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
        self._unread, self._unreadLog = b"", b""
        self._lastWords = ""
        self._idle = self._timer(idleS, self.stop)
        self._grace = self._timer(cancelGraceS, self._endCancelled)
        self._silence = self._timer(silenceS, self._endSilent)
        self._held = ""
        self._outdated = False
        self._refusal = self._timer(0, self._refuse)

    @staticmethod
    def _timer(seconds: float, call: Callable[[], None]) -> "qt.QTimer":
        timer = singleShotTimer(int(seconds * 1000))
        timer.timeout.connect(call)
        return timer

    @property
    def running(self) -> bool:
        """Whether the child process is there."""
        return self._process is not None

    @property
    def busy(self) -> bool:
        """Whether a job has not ended yet."""
        return bool(self._jobs)

    @property
    def pid(self) -> int | None:
        """The worker's own process id (the launcher has another), once it said hello."""
        return self._pid

    def submit(
        self,
        job: str,
        *,
        inputs: dict[str, Any] | None = None,
        spec: dict[str, Any] | None = None,
        output: Path | None = None,
        onEnd: Callable[[Event], None],
        onEvent: Callable[[Event], None] = lambda event: None,
    ) -> int:
        """Give the worker a job; its id, for `cancel`."""
        self._lastId += 1
        number = self._lastId
        request = {"protocol": PROTOCOL, "id": number, "job": job}
        request |= {"inputs": inputs or {}, "spec": spec or {}}
        if output is not None:
            request["output"] = str(output)
        line = _lineOf(request)
        self._jobs[number] = _Job(onEvent, onEnd)
        if self._held:
            self._refusal.start()
            return number
        self._idle.stop()
        self._listen()
        if self._process is None:
            self._start()
        self._send(line)
        return number

    def cancel(self, number: int) -> None:
        """Ask a job to stop; if it does not, its process is ended."""
        job = self._jobs.get(number)
        if job is None or job.cancelled:
            return
        job.cancelled = True
        self._send(_lineOf({"cancel": number}))
        # Who cancels one job after the other must not put off the end of the first.
        if not self._grace.isActive():
            self._grace.start()

    def pause(self, number: int) -> None:
        """Ask a job to hold between two of its steps; `paused` is its event when it does."""
        if number in self._jobs:
            self._send(_lineOf({"pause": number}))

    def resume(self, number: int) -> None:
        """Let a paused job go on; `continued` is its event when it does."""
        job = self._jobs.get(number)
        if job is None:
            return
        job.paused = False
        self._send(_lineOf({"continue": number}))
        self._listen()

    def stop(self) -> None:
        """End the worker at once, and with it every job."""
        self._finish(lambda job: {"event": "cancelled"})

    def restartWhenIdle(self) -> None:
        """Do what comes next in a new process; what is under way ends in the present one."""
        if self._jobs:
            self._outdated = True
        else:
            self.stop()

    def hold(self, reason: str) -> None:
        """End the worker and start none until `release`: jobs fail meanwhile, for this reason.

        A running worker would keep the files of its packages from being replaced.
        """
        self.stop()
        self._held = reason

    def release(self) -> None:
        """Do jobs again, in a new process."""
        self._held = ""

    def _refuse(self) -> None:
        failed = {"event": "failed", "code": "worker-held", "text": self._held, "facts": {}}
        self._finish(lambda job: failed)

    def _start(self) -> None:
        # With a parent it is Qt's to delete, and not while it is in one of its signals.
        process = qt.QProcess(self._idle)
        environment = qt.QProcessEnvironment.systemEnvironment()
        environment.insert("PYTHONUNBUFFERED", "1")
        environment.insert("PYTHONUTF8", "1")
        # Slicer's ITK plugins belong to Slicer's ITK, not to SimpleITK's.
        environment.insert("ITK_AUTOLOAD_PATH", "")
        process.setProcessEnvironment(environment)
        process.readyReadStandardOutput.connect(self._readEvents)
        process.readyReadStandardError.connect(self._readLog)
        process.finished.connect(self._ended)
        process.errorOccurred.connect(self._couldNotStart)
        self._process = process
        self._unread, self._unreadLog, self._lastWords = b"", b"", ""
        # -P: the folder Slicer happens to run in must not shadow a module.
        command = self._command or (workerPython(), "-P", "-c", BOOT, str(LIBRARY_FOLDER))
        process.start(command[0], list(command[1:]))

    def _send(self, line: bytes) -> None:
        if self._process is not None:
            self._process.write(qt.QByteArray(line))

    def _readEvents(self) -> None:
        process = self._process
        if process is None:
            return
        lines, self._unread = _lines(self._unread, bytes(process.readAllStandardOutput().data()))
        for line in lines:
            self._hear(line)
            # An event's receiver may have stopped us, and even begun anew.
            if self._process is not process:
                return
        if len(self._unread) > LONGEST_LINE:
            self._failForGarbage()

    def _hear(self, line: bytes) -> None:
        try:
            event = json.loads(line.decode("utf-8"))
            kind = event["event"]
            job = self._jobs.get(event.get("id"))
        except (ValueError, TypeError, KeyError, RecursionError):
            self._failForGarbage()
            return
        if kind == "hello":
            self._greet(event)
            return
        if job is None:
            if kind == "failed":
                self._fail(str(event.get("code")), str(event.get("text")))
            return
        if kind in ("paused", "continued"):
            job.paused = kind == "paused"
        self._listen()
        if kind in ENDS:
            del self._jobs[event["id"]]
            self._rest()
            _tell(job.onEnd, event)
        else:
            _tell(job.onEvent, event)

    def _failForGarbage(self) -> None:
        self._fail(
            "worker-garbage",
            _("The worker process says what is not in its protocol; it was ended."),
        )

    def _greet(self, hello: Event) -> None:
        pid = hello.get("pid")
        # Process groups 0 and 1 are our own and everybody's.
        if hello.get("protocol") != PROTOCOL or type(pid) is not int or pid <= 1:
            self._fail(
                "protocol-unknown",
                _("The worker process is of another version than the panel; it was ended."),
            )
            return
        self._pid = pid
        self.log(
            "worker {pid} of version {version} is ready".format(
                pid=self._pid, version=hello.get("engine")
            )
        )

    def _readLog(self) -> None:
        if self._process is None:
            return
        fresh = bytes(self._process.readAllStandardError().data())
        # Whole lines: half a path would not be known as one.
        lines, self._unreadLog = _lines(self._unreadLog, fresh)
        self._note(b"".join(line + b"\n" for line in lines))

    def _note(self, said: bytes) -> None:
        text = hidePaths(said.decode("utf-8", "replace"))
        self._lastWords = (self._lastWords + text)[-LAST_WORDS:]
        if text.strip():
            self.log(text.rstrip())

    def _couldNotStart(self, error: object) -> None:
        if error == qt.QProcess.FailedToStart:
            self._fail(
                "worker-missing",
                _("The worker process could not be started: its Python was not found."),
            )

    def _ended(self, *exit_: object) -> None:
        # Qt 5 tells the code only, Qt 6 also the status: the process knows both.
        process = self._process
        if process is None:
            return
        self._readLog()
        self._readEvents()
        if self._process is not process:
            return
        self._note(self._unreadLog)
        crashed = process.exitStatus() == qt.QProcess.CrashExit
        how = _("crashed") if crashed else _("ended without a result")
        self._fail(
            "worker-died",
            _("The worker process {how}.").format(how=how),
            self._lastWords.strip()[-600:],
        )

    def _endCancelled(self) -> None:
        if any(job.cancelled for job in self._jobs.values()):
            self.log("the worker did not stop when asked; it was ended")
            self._fail(
                "worker-ended",
                _("The worker process was ended because another of its jobs did not stop."),
            )

    def _endSilent(self) -> None:
        if self._jobs:
            self._fail(
                "worker-silent",
                _("Nothing was heard of the worker process for too long; it was ended."),
            )

    def _fail(self, code: str, text: str, logTail: str = "") -> None:
        """End the process; its jobs have failed, those that were to be cancelled are cancelled."""
        facts = {"logTail": logTail} if logTail else {}
        failed = {"event": "failed", "code": code, "text": text, "facts": facts}
        self._finish(lambda job: {"event": "cancelled"} if job.cancelled else failed)

    def _finish(self, ending: Callable[[_Job], Event]) -> None:
        """End the process and then every job: whoever hears of it can begin anew."""
        process, self._process = self._process, None
        pid, self._pid = self._pid, None
        jobs, self._jobs = self._jobs, {}
        self._outdated = False
        for timer in (self._idle, self._grace, self._silence, self._refusal):
            timer.stop()
        if process is not None:
            _endProcess(process, pid)
        for job in jobs.values():
            _tell(job.onEnd, ending(job))

    def _listen(self) -> None:
        """Expect to hear something from now on; not of a job that is paused."""
        if any(job.paused for job in self._jobs.values()):
            self._silence.stop()
        else:
            self._silence.start()

    def _rest(self) -> None:
        """What to watch for now that a job has ended."""
        self._grace.stop()
        if any(job.cancelled for job in self._jobs.values()):
            self._grace.start()
        if self._jobs:
            self._listen()
        elif self._outdated:
            self.stop()
        else:
            self._silence.stop()
            self._idle.start()


def _lineOf(message: dict[str, Any]) -> bytes:
    return json.dumps(message, allow_nan=False).encode("utf-8") + b"\n"


def _lines(begun: bytes, fresh: bytes) -> tuple[list[bytes], bytes]:
    """The whole lines, and what is begun of the next."""
    if b"\n" not in fresh:
        return [], begun + fresh
    first, *lines = fresh.split(b"\n")
    return [begun + first, *lines[:-1]], lines[-1]


def _tell(receiver: Callable[[Event], None], event: Event) -> None:
    """What a receiver raises goes where a slot's errors go: the other jobs have theirs to hear."""
    try:
        receiver(event)
    except Exception:
        sys.excepthook(*sys.exc_info())


def _endProcess(process: "qt.QProcess", pid: int | None) -> None:
    """End the worker and all that it started, not only the launcher that is our child."""
    for told in (
        process.readyReadStandardOutput,
        process.readyReadStandardError,
        process.finished,
        process.errorOccurred,
    ):
        told.disconnect()
    # End of input stops the worker even where nothing below does.
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


def sharedWorker() -> WorkerProcess:
    """The worker; its process starts with its first job."""
    global _worker
    if _worker is None:
        _worker = WorkerProcess()
        slicer.app.connect("aboutToQuit()", stopSharedWorker)
    return _worker


def stopSharedWorker() -> None:
    """End the worker, when Slicer quits or the module is unloaded."""
    global _worker
    if _worker is not None:
        slicer.app.disconnect("aboutToQuit()", stopSharedWorker)
        _worker.stop()
        _worker = None
