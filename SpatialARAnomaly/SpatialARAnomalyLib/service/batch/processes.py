"""Several worker processes of this machine, each with the model in memory."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from SpatialARAnomalyLib.engine.errors import SetupError, SpatialARError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.batch.places import (
    DEATHS,
    POLL_S,
    Outcome,
    Outcomes,
    ScanRequest,
    Work,
    died,
)
from SpatialARAnomalyLib.service.events import PROTOCOL

COMMAND = [sys.executable, "-m", "SpatialARAnomalyLib.service.worker.main"]
"""Starts a worker, whose protocol is `Resources/Docs/worker.md`."""

END_S = 10.0
"""Seconds in which a worker ends by itself; it kills itself after four."""


class Processes:
    """Worker processes: a scan whose process dies is tried again in a new one."""

    def __init__(self, count: int) -> None:
        self._count = count

    def run(self, work: Work, requests: Iterable[ScanRequest], report: Reporter) -> Outcomes:
        """Yield every request with its outcome, as they end."""
        waiting, again = iter(requests), list[ScanRequest]()
        deaths: dict[str, int] = {}
        events: queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]] = queue.SimpleQueue()
        workers: list[_Worker] = []
        try:
            while True:
                idle = [one for one in workers if one.request is None]
                while len(workers) < self._count or idle:
                    request = again.pop() if again else next(waiting, None)
                    if request is None:
                        break
                    if not idle:
                        idle = [_Worker(events, self._count)]
                        workers += idle
                    idle.pop().send(work, request)
                if not any(one.request for one in workers):
                    return
                try:
                    worker, event = events.get(timeout=POLL_S)
                except queue.Empty:
                    event = {}
                report.check_cancelled()
                if event is None:
                    workers.remove(worker)
                    worker.end()
                    lost = worker.request
                    if not worker.greeted:
                        raise SetupError(
                            "process-start",
                            "A worker process must start; it ended at once "
                            f"(exit code {worker.exit_code}).",
                        )
                    if lost is not None:
                        deaths[lost.name] = deaths.get(lost.name, 0) + 1
                        if deaths[lost.name] < DEATHS:
                            again.append(lost)
                        else:
                            yield lost, worker.outcome(error=died())
                elif event and (ended := worker.take(event)) is not None:
                    yield ended
        finally:
            for one in workers:
                one.close()
            for one in workers:
                one.end()


class _Worker:
    """A worker process, and the request that it works on."""

    def __init__(
        self,
        events: "queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]",
        of: int,
    ) -> None:
        threads = max(1, (os.cpu_count() or 1) // of)
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"OMP_NUM_THREADS": str(threads)} | os.environ,
        )
        self.greeted = False
        self.request: ScanRequest | None = None
        self._notices: list[tuple[str, str]] = []
        self._begun_s = 0.0
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def _read(self, events: "queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]") -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with suppress(ValueError):  # cut off by the end of the process
                    events.put((self, json.loads(line)))
        events.put((self, None))

    def send(self, work: Work, request: ScanRequest) -> None:
        """Begin a scan."""
        self.request, self._notices, self._begun_s = request, [], time.perf_counter()
        message = {
            "protocol": PROTOCOL,
            "id": 1,
            "job": work.job,
            "spec": work.spec,
            "inputs": request.inputs,
            "output": str(request.output),
        }
        assert self._process.stdin is not None
        with suppress(OSError):  # it died: the end of its output says so
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def take(self, event: dict[str, Any]) -> tuple[ScanRequest, Outcome] | None:
        """Take an event; return the request with its outcome if it is the last one."""
        match event.pop("event"):
            case "hello":
                self.greeted = True
            case "notice":
                self._notices.append((event["code"], event["text"]))
            case "failed":
                error = SpatialARError(event["code"], event["text"], **event["facts"])
                return self._end_request(self.outcome(error=error))
            case "result":
                del event["id"]
                return self._end_request(self.outcome(values=event))
        return None

    def _end_request(self, outcome: Outcome) -> tuple[ScanRequest, Outcome]:
        request, self.request = self.request, None
        assert request is not None
        return request, outcome

    def outcome(
        self, values: dict[str, Any] | None = None, error: SpatialARError | None = None
    ) -> Outcome:
        """Return an outcome of the request with its time and notices."""
        seconds = time.perf_counter() - self._begun_s
        notices = tuple(self._notices)
        return Outcome(values=values, error=error, notices=notices, seconds=seconds)

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process; None while it runs."""
        return self._process.poll()

    def close(self) -> None:
        """Close its input, so that it stops and ends."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def end(self) -> None:
        """Wait for its end, and kill it if that does not come."""
        self.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(END_S)
