"""The worker's two pipes, out of reach of all other code in the process.

Libraries in Python and C, and child processes, may print and read freely: their
standard output is the log, their standard input is empty.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from threading import Lock
from typing import Any

LONGEST_LINE = 1 << 26
"""Bytes; the rest of a longer line is dropped, which makes it unreadable."""

_CHUNK = 1 << 16
"""Bytes read at a time."""


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
