"""The worker: a process that does the panel's jobs and stays warm between them.

    python -m SpatialARAnomalyLib.service.worker.main

Messages arrive as JSON lines on standard input (`protocol`), events leave as JSON lines on
standard output (`service.events`), the log goes to standard error. The worker imports no
third-party package before a job needs one.
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterable

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.device import choose_threads
from SpatialARAnomalyLib.engine.errors import Cancelled, SpatialARError
from SpatialARAnomalyLib.service.events import (
    PROTOCOL,
    CancelledEvent,
    Event,
    EventReporter,
    FailedEvent,
    HelloEvent,
    ResultEvent,
    as_user_error,
    internal_error,
    missing_package,
    to_json,
)
from SpatialARAnomalyLib.service.jobs import JOBS, release_models
from SpatialARAnomalyLib.service.redaction import redact_paths, redact_token
from SpatialARAnomalyLib.service.worker.process import (
    EventPipe,
    Shutdown,
    end_now,
    lead_group,
    take_streams,
)
from SpatialARAnomalyLib.service.worker.protocol import (
    Cancel,
    Continue,
    End,
    Pause,
    Request,
    RequestError,
    read_message,
)
from SpatialARAnomalyLib.service.worker.queue import RequestQueue


def main() -> None:
    """Do jobs until standard input ends; never returns."""
    lead_group()
    choose_threads()
    lines, events = take_streams()
    worker = Worker(events)
    worker.shutdown.begin_at_signals()
    worker.greet()
    threading.Thread(target=worker.read_messages, args=(lines,), daemon=True).start()
    worker.run_jobs()
    end_now(worker.shutdown.exit_code)


class Worker:
    """Reads messages in one thread and runs jobs in another, one after the other."""

    def __init__(self, events: EventPipe) -> None:
        self._queue = RequestQueue()
        self._events = events
        self.shutdown = Shutdown(self._queue.close)
        events.on_broken = self.shutdown.begin

    def greet(self) -> None:
        """Send `hello`, the first event."""
        self._send(
            HelloEvent(protocol=PROTOCOL, engine=__version__, pid=os.getpid(), device="auto")
        )

    def read_messages(self, lines: Iterable[bytes]) -> None:
        """Read all lines, then shut down: the end of input means that the parent has ended."""
        for line in lines:
            try:
                message = read_message(line)
                if isinstance(message, End):
                    break
                self._take(message)
            except RequestError as error:
                self._send_failure(error, error.id)
        self.shutdown.begin()

    def _take(self, message: Request | Cancel | Pause | Continue) -> None:
        match message:
            case Cancel():
                waiting = self._queue.cancel(message.id)
                if waiting is not None:
                    self._send(CancelledEvent(), waiting.id)
            case Pause():
                self._queue.pause(message.id)
            case Continue():
                self._queue.resume(message.id)
            case Request() if not self._queue.put(message):
                raise RequestError(
                    "request-unreadable",
                    f"The id of a request must be new; {message.id} is that of one not done yet.",
                )

    def run_jobs(self) -> None:
        """Run requests in order until the shutdown begins; cancel those that still wait."""
        while (request := self._queue.next()) is not None:
            last = self._run(request)
            self._queue.done()
            try:
                self._send(last, request.id)
            except (TypeError, ValueError) as error:  # JSON cannot hold the result
                self._send_failure(internal_error(error), request.id)
        for waiting in self._queue.clear():
            self._send(CancelledEvent(), waiting.id)

    def _run(self, request: Request) -> Event:
        """Run a request and return its last event."""
        report = EventReporter(
            lambda event: self._send(event, request.id),
            cancelled=self._queue.cancelled,
            paused=self._queue.paused,
            wait_while_paused=self._queue.wait_while_paused,
        )
        try:
            report.check_cancelled()
            job = JOBS[request.job]
            return ResultEvent(result=job.run(request.inputs, request.spec, request.output, report))
        except Cancelled:
            return CancelledEvent()
        except Exception as error:
            known = missing_package(error) or as_user_error(error)
            if known is None:
                known = internal_error(error)
                trace = "".join(traceback.format_exception(error))
                print(redact_paths(trace, request), file=sys.stderr, flush=True)
            if known.code == "out-of-memory":
                release_models()
            return FailedEvent(
                code=known.code,
                text=redact_token(known.message, request),
                facts={
                    name: redact_token(fact, request) if isinstance(fact, str) else fact
                    for name, fact in known.facts.items()
                },
            )

    def _send_failure(self, error: SpatialARError, id_: int | None) -> None:
        self._send(FailedEvent(code=error.code, text=error.message, facts=error.facts), id_)

    def _send(self, event: Event, id_: int | None = None) -> None:
        values = to_json(event, job=id_)
        if isinstance(event, FailedEvent):
            values = {"id": id_} | values
        self._events.send(values)


if __name__ == "__main__":
    main()
