"""Workers forked from a process that has loaded torch already, so that each starts at once.

Environment variables control a worker: `EMBED_LOG` (a file in which it notes when the tokens of
a volume are begun and done), `KILL_AT` (`features 3`: it kills itself before it opens, renames
or removes the third file with that in its path) and `KILL_AFTER` (`fit 0.02`: it is killed when it
has computed so many seconds in that stage). The file `HOLD` names a stage or an `epoch 3`: having
told of it, a job waits for a cancel or a pause, so that none comes too late.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from service.worker_process import LIBRARY_FOLDER, WAIT_S, WorkerProcess

_NURSERY = """
import json, os, signal, sys, time
sys.path.insert(0, sys.argv.pop(1))
from SpatialARAnomalyLib.engine.model import checkpoint, training
from SpatialARAnomalyLib.engine.scoring import scoring
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.service.events import EventReporter
from SpatialARAnomalyLib.service.worker import main as worker
from SpatialARAnomalyLib.service.worker import training as jobs
import filelock, nibabel
load_encoder("demonstration")

write = FeatureStore.write

def logged(self, key, shape, batches):
    note("begun " + key)
    write(self, key, shape, batches)
    note("done " + key)

def note(text):
    if "EMBED_LOG" in os.environ:
        with open(os.environ["EMBED_LOG"], "a") as file:
            file.write(text + "\\n")

FeatureStore.write = logged

def kill_at(part, count):
    left = int(count)

    def hook(event, arguments):
        nonlocal left
        if event in ("open", "os.rename", "os.remove") and part in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)

stage, epoch = EventReporter.stage, EventReporter.epoch

def hold(reporter, told):
    with open(os.environ["HOLD"]) as file:
        wanted = file.read()
    while told == wanted and not reporter._cancelled() and not reporter._paused():
        time.sleep(0.002)

def tell_stage(self, name, index, of):
    stage(self, name, index, of)
    name_killed, _, seconds = os.environ.get("KILL_AFTER", "").partition(" ")
    if name == name_killed:
        signal.setitimer(signal.ITIMER_PROF, float(seconds))  # SIGPROF ends it
    hold(self, name)

def tell_epoch(self, figures):
    epoch(self, figures)
    hold(self, f"epoch {figures.epoch}")

EventReporter.stage, EventReporter.epoch = tell_stage, tell_epoch

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if os.fork() == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, (file, how) in enumerate(
            ((request["in"], os.O_RDONLY), (request["out"], os.O_WRONLY),
             (request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND))
        ):
            opened = os.open(file, how)
            os.dup2(opened, number)
            os.close(opened)
        os.environ.update(request["environment"])
        if "KILL_AT" in os.environ:
            kill_at(*os.environ["KILL_AT"].split())
        worker.main()
"""


class Nursery:
    """The process that workers are forked from."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "error", "-c", _NURSERY, str(LIBRARY_FOLDER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            text=True,
        )
        assert self._process.stdout.readline() == "ready\n"

    def worker(self, **environment: str) -> "ForkedWorker":
        """A worker that has greeted."""
        self._count += 1
        return ForkedWorker(self.folder / str(self._count), self._fork, environment)

    def _fork(self, request: dict) -> None:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End it; its workers end by themselves."""
        self._process.stdin.close()
        self._process.wait(WAIT_S)
        self._process.stdout.close()


class _Forked:
    """As much of a `Popen` as `WorkerProcess` needs, for the child of another process."""

    def __init__(self, stdin, stdout) -> None:
        self.stdin, self.stdout, self.pid = stdin, stdout, None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, 9)

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.002)
        raise TimeoutError


class ForkedWorker(WorkerProcess):
    """A worker without the seconds that its imports take."""

    def __init__(self, folder: Path, fork, environment: dict[str, str]) -> None:
        folder.mkdir()
        self.log_file = folder / "log.txt"
        self._hold = folder / "hold"
        self.hold_at("")
        environment = environment | {"HOLD": str(self._hold)}
        pipes = {name: folder / name for name in ("in", "out")}
        for pipe in pipes.values():
            os.mkfifo(pipe)
        request = {name: str(pipe) for name, pipe in pipes.items()}
        fork(request | {"log": str(self.log_file), "environment": environment})
        self._start_reading(_Forked(pipes["in"].open("wb"), pipes["out"].open("rb")))
        self.process.pid = self.event()["pid"]

    def hold_at(self, told: str) -> None:
        """Let jobs wait for a cancel or a pause when they have told of a stage or an epoch."""
        self._hold.write_text(told)

    def until(self, wanted) -> list[dict]:
        """Return the events up to the first that is wanted, or all of a killed worker's."""
        events = []
        while (event := self._events.get(timeout=WAIT_S)) is not None:
            events.append(event)
            if wanted(event):
                return events
        self._events.put(None)
        return events
