"""The requests that wait, the one that runs, and which of them shall stop or pause."""

from collections import deque
from threading import Condition

from .worker_protocol import Request


class Inbox:
    """Handed from the thread that reads requests to the one that does them."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: deque[Request] = deque()
        self._running: Request | None = None
        self._stop = False
        self._paused: set[int] = set()
        self._closed = False

    def put(self, request: Request) -> bool:
        """Let a request wait for its turn; False where its id is another's."""
        with self._changed:
            known = [*self._waiting, *([self._running] if self._running else [])]
            if self._closed or any(one.id == request.id for one in known):
                return False
            self._waiting.append(request)
            self._changed.notify_all()
            return True

    def next(self) -> Request | None:
        """Wait for the next request, which then is the running one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._running, self._stop = self._waiting.popleft(), False
            return self._running

    def done(self) -> None:
        """Note that the running one is over: it cannot be stopped any more."""
        with self._changed:
            if self._running is not None:
                self._paused.discard(self._running.id)
            self._running, self._stop = None, False

    def cancel(self, id_: int) -> Request | None:
        """Take a waiting request out and return it, or ask the running one to stop.

        One that is over already is left alone: its last event is on its way.
        """
        with self._changed:
            for request in self._waiting:
                if request.id == id_:
                    self._waiting.remove(request)
                    self._paused.discard(id_)
                    return request
            if self._running is not None and self._running.id == id_:
                self._stop = True
                self._changed.notify_all()
            return None

    def pause(self, id_: int) -> None:
        """Ask a request to hold; one that waits holds when its turn has come."""
        with self._changed:
            known = [*self._waiting, *([self._running] if self._running else [])]
            if any(one.id == id_ for one in known):
                self._paused.add(id_)

    def go_on(self, id_: int) -> None:
        """Let a paused request go on."""
        with self._changed:
            self._paused.discard(id_)
            self._changed.notify_all()

    def cancelled(self) -> bool:
        """Whether the running request shall stop."""
        return self._stop or self._closed

    def paused(self) -> bool:
        """Whether the running request shall hold."""
        return self._running is not None and self._running.id in self._paused

    def wait_while_paused(self) -> None:
        """Return when the running request may go on, or shall stop; computes nothing meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self.cancelled() or not self.paused())

    def close(self) -> list[Request]:
        """Take no more, ask the running one to stop; the ones that waited."""
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
            self._closed = True
            self._changed.notify_all()
            return left
