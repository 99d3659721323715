"""How the worker ends, with all its children: first politely, then by force."""

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
"""Seconds that the running job has to stop, before the process is killed."""

EXIT_TERMINATED = 128 + signal.SIGTERM
"""Exit code after SIGTERM, as shells report it."""


def lead_group() -> None:
    """Become the leader of a new process group, which children join (POSIX)."""
    if sys.platform != "win32":
        with suppress(PermissionError):  # already a leader
            os.setsid()


class Shutdown:
    """Begins once, whoever asks first; the process then ends in any case."""

    def __init__(self, cancel_jobs: Callable[[], None]) -> None:
        self._cancel_jobs = cancel_jobs
        self._lock = threading.Lock()
        self._begun = False
        self.exit_code = 0

    def begin(self, exit_code: int = 0) -> None:
        """Cancel all jobs, and kill the process if they do not stop in time."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
            self.exit_code = exit_code
        threading.Thread(target=_kill_late, daemon=True).start()
        self._cancel_jobs()

    def begin_at_sigterm(self) -> None:
        """Begin at SIGTERM, also while the main thread computes in C."""
        if sys.platform == "win32":
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Python's C-level handler writes the signal's number at once, in any thread.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)

        def wait() -> None:
            while os.read(reader, 1) != bytes([signal.SIGTERM]):
                pass
            self.begin(EXIT_TERMINATED)

        threading.Thread(target=wait, daemon=True).start()


def _kill_late() -> None:
    time.sleep(GRACE_S)
    print("The job did not stop in time; the worker is killed.", file=sys.stderr, flush=True)
    if sys.platform == "win32":
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(os.getpid())], capture_output=True, check=False
        )
        os._exit(1)
    _signal_group(signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _signal_group(number: int) -> None:
    """Signal this process and its children, if it leads its group."""
    if sys.platform != "win32" and os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), number)


def end_now(exit_code: int) -> NoReturn:
    """End this process and ask its children to, without waiting for libraries to clean up."""
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _signal_group(signal.SIGTERM)
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(exit_code)
