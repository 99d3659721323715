"""The worker's two pipes, kept where no other code of the process finds them.

Libraries in Python and C, and child processes, may print or read what they
like: their standard output is the log, their standard input is empty.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from threading import Lock
from typing import Any

LONGEST_LINE = 1 << 26
"""Bytes; a longer line is no request."""

_CHUNK = 1 << 16


class EventPipe:
    """Writes events, one JSON object a line, in UTF-8 whatever the locale."""

    def __init__(self, descriptor: int, broken: Callable[[], None] = lambda: None) -> None:
        self._file = os.fdopen(descriptor, "wb")
        self._lock = Lock()
        self._is_broken = False
        self.broken = broken
        """Called once when nobody reads on."""

    def send(self, event: dict[str, Any]) -> None:
        """Write an event whole; into a broken pipe nothing, in silence."""
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
        self.broken()


class LinePipe:
    """Reads lines without a lock that could hold up the end of the process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __iter__(self) -> Iterator[bytes]:
        """Every line but empty ones; of a far too long one its beginning, which is no JSON."""
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
    """Private copies of standard input and output, whose own numbers lose them."""
    lines, events = os.dup(0), os.dup(1)  # not inherited by children
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # there is no log
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    os.close(nowhere)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return LinePipe(lines), EventPipe(events)
