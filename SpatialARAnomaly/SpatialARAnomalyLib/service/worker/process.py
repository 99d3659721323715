"""The worker's process: its two pipes, its process group and its end.

The pipes are out of reach of all other code in the process. Libraries in Python and C, and child
processes, may print and read freely: their standard output is the log, their standard input is
empty.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import TextIOWrapper
from threading import Lock
from typing import Any, NoReturn

LONGEST_LINE = 1 << 26
"""Bytes of the longest line; the rest of a longer one is dropped, which makes it unreadable."""

_CHUNK = 1 << 16
"""Bytes read at a time."""

GRACE_S = 4.0
"""Seconds for the running job to stop before the process is killed."""


class EventPipe:
    """Writes events, one JSON object per line, in UTF-8 whatever the locale."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "wb")
        self._lock = Lock()
        self._is_broken = False
        self.on_broken: Callable[[], None] = lambda: None
        """Called once, when the reader has closed the pipe."""

    def send(self, event: dict[str, Any]) -> None:
        """Write one event at once; a broken pipe is ignored after `on_broken`."""
        line = json.dumps(event, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        with self._lock:
            if self._is_broken:
                return
            try:
                self._file.write(line)
                self._file.flush()
                return
            except (OSError, ValueError):
                self._is_broken = True
        self.on_broken()


class LinePipe:
    """Reads lines without a buffer's lock, which could delay the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __iter__(self) -> Iterator[bytes]:
        """Yield every line that is not blank, a too long one without its end."""
        line = bytearray()
        while chunk := self._read():
            *parts, rest = chunk.split(b"\n")
            for part in parts:
                line += part
                if line.strip():
                    yield bytes(line)
                line.clear()
            if len(line) <= LONGEST_LINE:
                line += rest

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError:
            return b""


def take_streams() -> tuple[LinePipe, EventPipe]:
    """Return private copies of standard input and output; detach the standard ones."""
    lines, events = os.dup(0), os.dup(1)  # not inherited by children
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # there is no log
        os.dup2(null, 1)
        os.dup2(null, 2)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return LinePipe(lines), EventPipe(events)


def lead_group() -> None:
    """Become the leader of a new process group, which children join (POSIX)."""
    if sys.platform != "win32":
        with suppress(PermissionError):  # already a leader
            os.setsid()


class Shutdown:
    """The end of the worker: it begins once, and the process then ends in any case."""

    def __init__(self, cancel_jobs: Callable[[], None]) -> None:
        self._cancel_jobs = cancel_jobs
        self._lock = threading.Lock()
        self._begun = False
        self.exit_code = 0
        """After a signal 128 more than its number, as shells report it."""

    def begin(self, exit_code: int = 0) -> None:
        """Cancel all jobs, and kill the process if they do not stop in time."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
            self.exit_code = exit_code
        threading.Thread(target=_kill_late, daemon=True).start()
        self._cancel_jobs()

    def begin_at_signals(self) -> None:
        """Begin at SIGTERM or SIGHUP, also while the main thread computes in C."""
        if sys.platform == "win32":
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # Python's C-level handler writes the signal's number at once, in any thread.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, frame: None)

        def wait() -> None:
            while (number := os.read(reader, 1)[0]) not in (signal.SIGTERM, signal.SIGHUP):
                pass
            self.begin(128 + number)

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
    """End this process and terminate its children, without waiting for libraries to clean up."""
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _signal_group(signal.SIGTERM)
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(exit_code)
