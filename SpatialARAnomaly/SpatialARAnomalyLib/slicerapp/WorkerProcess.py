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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from ..service.events import PROTOCOL
from .Redaction import withoutPlaces

LIBRARY_FOLDER = Path(__file__).resolve().parents[2]
"""Where `SpatialARAnomalyLib` lies."""

BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from SpatialARAnomalyLib.service.worker import main; main()"
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


def pythonSlicer() -> str:
    """Slicer's own Python; in a plain interpreter that interpreter."""
    return shutil.which("PythonSlicer") or sys.executable


class WorkerProcess:
    """Runs jobs in one child process, which is started when the first is submitted.

    Every job ends with exactly one event given to its `onEnd`: `result`,
    `failed` (`code`, `text`, `hint`) or `cancelled`, whatever happens to the process.
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
        self._endedProcess = None
        self._pid: int | None = None
        self._jobs: dict[int, _Job] = {}
        self._lastId = 0
        self._unread = b""
        self._lastWords = ""
        self._idle = self._timer(idleS, self.stop)
        self._grace = self._timer(cancelGraceS, self._endCancelled)
        self._silence = self._timer(silenceS, self._endSilent)

    @staticmethod
    def _timer(seconds: float, call: Callable[[], None]) -> "qt.QTimer":
        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.setInterval(int(seconds * 1000))
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
        self._jobs[number] = _Job(onEvent, onEnd)
        request = {"protocol": PROTOCOL, "id": number, "job": job}
        request |= {"inputs": inputs or {}, "spec": spec or {}}
        if output is not None:
            request["output"] = str(output)
        self._idle.stop()
        if self._process is None:
            self._start()
        self._send(request)
        self._silence.start()
        return number

    def cancel(self, number: int) -> None:
        """Ask a job to stop; if it does not, its process is ended."""
        job = self._jobs.get(number)
        if job is None or job.cancelled:
            return
        job.cancelled = True
        self._send({"cancel": number})
        self._grace.start()

    def stop(self) -> None:
        """End the worker at once, and with it every job."""
        self._finish(lambda job: {"event": "cancelled"})

    def _start(self) -> None:
        process = qt.QProcess()
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
        self._unread, self._lastWords = b"", ""
        # -P: the folder Slicer happens to run in must not shadow a module.
        command = self._command or (pythonSlicer(), "-P", "-c", BOOT, str(LIBRARY_FOLDER))
        process.start(command[0], list(command[1:]))

    def _send(self, message: dict[str, Any]) -> None:
        if self._process is not None:
            line = json.dumps(message, allow_nan=False) + "\n"
            self._process.write(qt.QByteArray(line.encode("utf-8")))

    def _readEvents(self) -> None:
        if self._process is None:
            return
        self._unread += bytes(self._process.readAllStandardOutput().data())
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            if self._process is None:  # an event's receiver stopped us
                return
            self._hear(line)
        if len(self._unread) > LONGEST_LINE:
            self._failForGarbage()

    def _hear(self, line: bytes) -> None:
        try:
            event = json.loads(line.decode("utf-8"))
            kind = event["event"]
        except (ValueError, TypeError, KeyError, RecursionError):
            self._failForGarbage()
            return
        if kind == "hello":
            self._greet(event)
            return
        job = self._jobs.get(event.get("id"))
        if job is None:
            if kind == "failed":
                self._fail(str(event.get("code")), str(event.get("text")))
            return
        self._silence.start()
        if kind in ENDS:
            del self._jobs[event["id"]]
            self._rest()
            job.onEnd(event)
        else:
            job.onEvent(event)

    def _failForGarbage(self) -> None:
        self._fail(
            "worker-garbage",
            _("The worker process says what is not in its protocol; it was ended."),
        )

    def _greet(self, hello: Event) -> None:
        if hello.get("protocol") != PROTOCOL or type(hello.get("pid")) is not int:
            self._fail(
                "protocol-unknown",
                _("The worker process is of another version than the panel; it was ended."),
            )
            return
        self._pid = hello["pid"]
        self.log(
            "worker {pid} of version {version} is ready".format(
                pid=self._pid, version=hello.get("engine")
            )
        )

    def _readLog(self) -> None:
        if self._process is None:
            return
        text = bytes(self._process.readAllStandardError().data()).decode("utf-8", "replace")
        text = withoutPlaces(text)
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
        if self._process is None:
            return
        self._readEvents()
        self._readLog()
        if self._process is None:
            return
        crashed = self._process.exitStatus() == qt.QProcess.CrashExit
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

    def _fail(self, code: str, text: str, lastWords: str = "") -> None:
        """End the process; its jobs have failed, those that were to be cancelled are cancelled."""
        hint = _("Try again. The log below tells more.")
        if lastWords:
            hint = f"{hint}\n{lastWords}"
        failed = {"event": "failed", "code": code, "text": text, "hint": hint}
        self._finish(lambda job: {"event": "cancelled"} if job.cancelled else failed)

    def _finish(self, ending: Callable[[_Job], Event]) -> None:
        """End the process and then every job: whoever hears of it can begin anew."""
        process, self._process = self._process, None
        pid, self._pid = self._pid, None
        jobs, self._jobs = self._jobs, {}
        for timer in (self._idle, self._grace, self._silence):
            timer.stop()
        if process is not None:
            _endProcess(process, pid)
            # We may be in one of its own signals, in which it must not be deleted.
            self._endedProcess = process
        for job in jobs.values():
            job.onEnd(ending(job))

    def _rest(self) -> None:
        """What to watch for now that a job has ended."""
        if not any(job.cancelled for job in self._jobs.values()):
            self._grace.stop()
        if not self._jobs:
            self._silence.stop()
            self._idle.start()


def _endProcess(process: "qt.QProcess", pid: int | None) -> None:
    """End the worker and all that it started, not only the launcher that is our child."""
    for told in (
        process.readyReadStandardOutput,
        process.readyReadStandardError,
        process.finished,
        process.errorOccurred,
    ):
        told.disconnect()
    if process.state() == qt.QProcess.NotRunning:
        return
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
    process.kill()
    process.waitForFinished(1000)
