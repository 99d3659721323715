"""The queue of requests: those that wait, the one that runs, and their cancelling and pausing."""

from collections import deque
from threading import Condition

from SpatialARAnomalyLib.service.worker.protocol import Request


class RequestQueue:
    """Passes requests from the thread that reads them to the thread that runs them."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: deque[Request] = deque()
        self._running: Request | None = None
        self._stop = False
        self._paused: set[int] = set()
        self._closed = False

    def put(self, request: Request) -> bool:
        """Append a request; return False if its id is that of another one not done yet."""
        with self._changed:
            if self._closed or self._is_known(request.id):
                return False
            self._waiting.append(request)
            self._changed.notify_all()
            return True

    def next(self) -> Request | None:
        """Wait for the next request and mark it as running; return None once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if self._closed:
                return None
            self._running, self._stop = self._waiting.popleft(), False
            return self._running

    def done(self) -> None:
        """Mark the running request as over, so that it can no longer be cancelled."""
        with self._changed:
            if self._running is not None:
                self._paused.discard(self._running.id)
            self._running, self._stop = None, False

    def cancel(self, id_: int) -> Request | None:
        """Remove and return a waiting request, or stop the running one at its next step.

        A request that is over is ignored: its last event is being sent.
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
        """Pause a request at its next step; a waiting one at its first."""
        with self._changed:
            if self._is_known(id_):
                self._paused.add(id_)

    def resume(self, id_: int) -> None:
        """Resume a paused request."""
        with self._changed:
            self._paused.discard(id_)
            self._changed.notify_all()

    def cancelled(self) -> bool:
        """Return whether the running request is to stop."""
        return self._stop or self._closed

    def paused(self) -> bool:
        """Return whether the running request is to pause."""
        return self._running is not None and self._running.id in self._paused

    def wait_while_paused(self) -> None:
        """Block until the running request may resume or must stop."""
        with self._changed:
            self._changed.wait_for(lambda: self.cancelled() or not self.paused())

    def close(self) -> None:
        """Accept no more and stop the running request."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def clear(self) -> list[Request]:
        """Remove and return the requests that wait."""
        with self._changed:
            left = list(self._waiting)
            self._waiting.clear()
            return left

    def _is_known(self, id_: int) -> bool:
        running = [] if self._running is None else [self._running]
        return any(request.id == id_ for request in (*self._waiting, *running))
