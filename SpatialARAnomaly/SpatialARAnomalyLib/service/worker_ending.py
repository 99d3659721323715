"""How the worker ends: politely, or after a while by force, with all that it started."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

GRACE_S = 4.0
"""A job that does not stop within this time when the worker is to end is ended with it."""

EXIT_TERMINATED = 128 + 15
"""As a shell tells of a process that SIGTERM ended."""


def lead_group() -> None:
    """Become the leader of a process group of one's own, which children join."""
    if sys.platform != "win32":
        with suppress(PermissionError):  # it is a leader already
            os.setsid()


class Ending:
    """Begun once, by whoever is first; then the process ends in any case."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._lock = threading.Lock()
        self._begun = False
        self.exit_code = 0

    def begin(self, exit_code: int = 0) -> None:
        """Ask everything to stop, and see that it does."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
            self.exit_code = exit_code
        threading.Thread(target=_end_late, daemon=True).start()
        self._close()

    def on_termination(self) -> None:
        """Begin at SIGTERM, also while the main thread computes in C."""
        if sys.platform == "win32":
            return
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        # Python writes to the pipe in the handler of the system, at once.
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)

        def wait() -> None:
            while os.read(woken, 1) != bytes([signal.SIGTERM]):
                pass
            self.begin(EXIT_TERMINATED)

        threading.Thread(target=wait, daemon=True).start()


def _end_late() -> None:
    time.sleep(GRACE_S)
    print("The job did not stop in time; the worker is ended.", file=sys.stderr, flush=True)
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(os.getpid())], capture_output=True, check=False
        )
        os._exit(1)
    _signal_group(signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _signal_group(number: int) -> None:
    """Signal this process and its children, if the group is its own."""
    if sys.platform != "win32" and os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), number)


def end_now(exit_code: int) -> NoReturn:
    """End this process and ask its children to; nothing waits for a library to tidy up."""
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _signal_group(signal.SIGTERM)
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(exit_code)
