"""The worker: a process that does jobs for the panel and stays warm between them.

    python -m SpatialARAnomalyLib.service.worker

Requests come as lines of JSON on standard input, events leave as such on
standard output, the log goes to standard error (`worker_protocol`, `events`).
Needs no package of others until a job does.
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterable

from .. import __version__
from ..engine.errors import Cancelled, SpatialARError
from .events import (
    PROTOCOL,
    CancelledEvent,
    Event,
    EventReporter,
    FailedEvent,
    HelloEvent,
    ResultEvent,
    to_json,
)
from .redaction import without_places, without_secrets
from .user_errors import as_user_error, internal_error, missing_package
from .worker_ending import Ending, end_now, lead_group
from .worker_inbox import Inbox
from .worker_jobs import Workbench
from .worker_protocol import (
    Cancel,
    Continue,
    Pause,
    Request,
    RequestError,
    Shutdown,
    read_line,
)
from .worker_streams import EventPipe, take_streams


def main() -> None:
    """Do jobs until standard input ends; never returns."""
    lead_group()
    lines, events = take_streams()
    worker = Worker(events)
    worker.ending.on_termination()
    worker.greet()
    threading.Thread(target=worker.listen, args=(lines,), daemon=True).start()
    worker.serve()
    end_now(worker.ending.exit_code)


class Worker:
    """Hears requests in one thread and does them in another, one after the other."""

    def __init__(self, events: EventPipe) -> None:
        self._inbox = Inbox()
        self._events = events
        self._bench = Workbench()
        self.ending = Ending(self._close)
        events.broken = self.ending.begin

    def greet(self) -> None:
        """Say that the worker is ready, before anything else."""
        self._tell(
            HelloEvent(protocol=PROTOCOL, engine=__version__, pid=os.getpid(), device="auto")
        )

    def listen(self, lines: Iterable[bytes]) -> None:
        """Hear all lines; where they end, so does the worker: nobody waits for it any more."""
        for line in lines:
            try:
                said = read_line(line)
                if isinstance(said, Shutdown):
                    break
                self._take(said)
            except RequestError as error:
                self._fail(error, error.id)
        self.ending.begin()

    def _take(self, said: Request | Cancel | Pause | Continue) -> None:
        match said:
            case Cancel():
                waiting = self._inbox.cancel(said.id)
                if waiting is not None:
                    self._tell(CancelledEvent(), waiting.id)
            case Pause():
                self._inbox.pause(said.id)
            case Continue():
                self._inbox.go_on(said.id)
            case Request() if not self._inbox.put(said):
                raise RequestError(
                    "request-unreadable",
                    f"The id of a request must be new; {said.id} is that of one not done yet.",
                )

    def serve(self) -> None:
        """Do requests in order until the end has begun."""
        while (request := self._inbox.next()) is not None:
            last = self._outcome(request)
            self._inbox.done()
            try:
                self._tell(last, request.id)
            except (TypeError, ValueError) as error:  # the result holds what JSON cannot
                self._fail(internal_error(error), request.id)

    def _outcome(self, request: Request) -> Event:
        """Do a request; its last event."""
        report = EventReporter(
            lambda event: self._tell(event, request.id),
            cancelled=self._inbox.cancelled,
            paused=self._inbox.paused,
            wait_while_paused=self._inbox.wait_while_paused,
        )
        try:
            report.check_cancelled()
            return ResultEvent(result=self._bench.do(request, report))
        except Cancelled:
            return CancelledEvent()
        except Exception as error:
            known = missing_package(error) or as_user_error(error)
            if known is None:
                known = internal_error(error)
                told = "".join(traceback.format_exception(error))
                print(without_places(told, request), file=sys.stderr, flush=True)
            if known.code == "out-of-memory":
                self._bench.release()
            return FailedEvent(
                code=known.code,
                text=without_secrets(known.message, request),
                facts={
                    name: without_secrets(fact, request) if isinstance(fact, str) else fact
                    for name, fact in known.facts.items()
                },
            )

    def _close(self) -> None:
        for request in self._inbox.close():
            self._tell(CancelledEvent(), request.id)

    def _fail(self, error: SpatialARError, id_: int | None) -> None:
        self._tell(FailedEvent(code=error.code, text=error.message, facts=error.facts), id_)

    def _tell(self, event: Event, id_: int | None = None) -> None:
        said = to_json(event, job=id_)
        if isinstance(event, FailedEvent):
            said = {"id": id_} | said
        self._events.send(said)


if __name__ == "__main__":
    main()
