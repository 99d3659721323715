"""Keeps the tests, and every Python process they start, on this machine."""

import os
import socket
from collections.abc import Callable

LOG = "SPATIAL_AR_ANOMALY_NETWORK_LOG"
"""Environment variable: the file in which a child process notes whom it tried to reach."""


def install(refuse: Callable[[object], None]) -> None:
    """Call `refuse` with every address that is not this machine's, instead of connecting."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def is_here(family: int, address: object) -> bool:
        if family == getattr(socket, "AF_UNIX", None):
            return True
        return isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1", "localhost")

    def guarded(self: socket.socket, address: object) -> None:
        if not is_here(self.family, address):
            refuse(address)
        connect(self, address)  # type: ignore[arg-type]

    def guarded_ex(self: socket.socket, address: object) -> int:
        if not is_here(self.family, address):
            refuse(address)
        return connect_ex(self, address)  # type: ignore[arg-type]

    socket.socket.connect = guarded  # type: ignore[method-assign]
    socket.socket.connect_ex = guarded_ex  # type: ignore[method-assign]


def note_and_refuse(address: object) -> None:
    """In a child process: leave a note for the test that started it, and be offline."""
    if log := os.environ.get(LOG):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{address}\n")
    raise OSError(101, "the tests may reach this machine only")
