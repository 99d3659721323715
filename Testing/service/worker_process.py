"""The worker as the panel starts it: a child process behind two pipes."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import SpatialARAnomalyLib

LIBRARY_FOLDER = Path(SpatialARAnomalyLib.__file__).parents[1]
LAST = ("result", "failed", "cancelled")
WAIT_S = 120.0

BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from SpatialARAnomalyLib.service.worker.main import main; main()"
)
ODD_JOBS = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    f"sys.path.insert(0, {str(Path(__file__).parent)!r}); import odd_jobs; odd_jobs.install(); "
    "from SpatialARAnomalyLib.service.worker.main import main; main()"
)


def without(*modules: str) -> str:
    """The worker where these modules are not installed."""
    return f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {modules!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
sys.meta_path.insert(0, Absent())
{BOOT}"""


class WorkerProcess:
    """Sends requests and reads events, of which it keeps every line."""

    def __init__(self, folder: Path, code: str = BOOT, **environment: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log_file = folder / "log.txt"
        with self.log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-P", "-W", "error", "-c", code, str(LIBRARY_FOLDER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
                cwd=folder,
            )
        self._start_reading(process)

    def _start_reading(self, process) -> None:
        self.process = process
        self.lines: list[bytes] = []
        self._events: queue.Queue[dict | None] = queue.Queue()
        self._last_id = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            self._events.put(json.loads(line))
        self._events.put(None)

    def __enter__(self) -> "WorkerProcess":
        assert self.event()["event"] == "hello"
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> list[dict]:
        """End it; return the events that were not read."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(WAIT_S)
        finally:
            self.process.kill()
            self._reader.join(WAIT_S)
            self.process.stdout.close()
        return self.rest()

    def rest(self) -> list[dict]:
        """Return the remaining events."""
        left = list(iter(lambda: self._events.get(timeout=WAIT_S), None))
        self._events.put(None)  # the end stays the end
        return left

    @property
    def log(self) -> str:
        """The text on standard error."""
        return self.log_file.read_text(encoding="utf-8")

    def say(self, said: object) -> None:
        """Send a line: bytes as they are, anything else as JSON."""
        line = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def event(self) -> dict:
        """The next event."""
        event = self._events.get(timeout=WAIT_S)
        assert event is not None, f"the worker ended: {self.log}"
        return event

    def submit(self, job: str, inputs=None, spec=None, output: Path | None = None) -> int:
        """Send a request; its id."""
        self._last_id += 1
        request = {"protocol": 1, "id": self._last_id, "job": job}
        request |= {"inputs": inputs or {}, "spec": spec or {}}
        self.say(request | ({} if output is None else {"output": str(output)}))
        return self._last_id

    def events_of(self, number: int) -> list[dict]:
        """All events until that job's last; no other job says anything meanwhile."""
        events = [self.event()]
        while events[-1]["event"] not in LAST:
            events.append(self.event())
        assert {event["id"] for event in events} == {number}
        return events

    def ask(self, job: str, inputs=None, spec=None, output: Path | None = None) -> dict:
        """Do a job; its last event."""
        return self.events_of(self.submit(job, inputs, spec, output))[-1]

    def result(self, job: str, inputs=None, spec=None, output: Path | None = None) -> dict:
        """Do a job that must succeed; its result."""
        last = self.ask(job, inputs, spec, output)
        assert last["event"] == "result", (last, self.log)
        return last

    def failure(self, job: str, inputs=None, spec=None, output: Path | None = None) -> dict:
        """Do a job that must fail; return its last event."""
        last = self.ask(job, inputs, spec, output)
        assert last["event"] == "failed", last
        assert set(last) == {"id", "event", "code", "text", "facts"}
        return last


def group_members(leader: int) -> list[int]:
    """The living processes of a group."""
    listed = subprocess.run(
        ["ps", "-axo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split() for line in listed.splitlines())
    return [
        int(pid) for pid, group, state in rows if int(group) == leader and state[:1] not in "ZX"
    ]


def wait_until_gone(leader: int, seconds: float = 20.0) -> None:
    """Fail unless every process of a group ends in time."""
    until = time.monotonic() + seconds
    while group_members(leader):
        assert time.monotonic() < until, "processes of the worker are left"
        time.sleep(0.02)
