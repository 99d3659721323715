"""Faults that a process can meet, at moments that are counted in file operations and bytes.

Seconds would meet another moment on every machine. `Fault.begin` is called in the process that
is to fail, which must be a child process: most faults cannot be taken back.
"""

import ctypes
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
"""Audit events of Python for operations that change a folder; opening a file is one, too."""


@contextmanager
def watched_operations(folder: Path, callback: Callable[[str, object], None]) -> Iterator[None]:
    """Call `callback` before every operation that changes files below a folder, and every fsync.

    It gets the name of the operation and its path, or the descriptor of an fsync. Writes into
    open files are no operations; `Fault("write", …)` cuts those.
    """
    below, fsync, active = os.fspath(folder), os.fsync, True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and bool(flags & WRITING)
        else:
            path, changes = (arguments[0] if arguments else None), event in CHANGES
        changes = changes and active and isinstance(path, str | os.PathLike)
        if changes and os.fspath(path).startswith(below):
            callback(event, path)

    def watched_fsync(descriptor: int) -> None:
        callback("fsync", descriptor)
        fsync(descriptor)

    sys.addaudithook(hook)  # which stays
    os.fsync = watched_fsync
    try:
        yield
    finally:
        active, os.fsync = False, fsync


@dataclass(frozen=True)
class Fault:
    """A fault and its moment.

    Kinds:
        count: None; the number of operations is written to descriptor 3 at the end.
        signal: Operation `at` sends the process `number`, as SIGKILL or SIGSTOP.
        refuse: Operation `at` and all later ones but removals fail with errno `number`.
        clock: From operation `at` on, the clock is `number` seconds ahead.
        write: A file that grows beyond `at` bytes kills the process within the write.
        quota: A file that grows beyond `at` bytes makes the write fail (EFBIG).
        memory: The process may allocate `at` more bytes.
        vanish: At operation `at` the folder `place` is removed, or unmounted where it is a disk.
    """

    kind: str
    at: int = 0
    number: int = 0
    place: str = ""
    """A path within the folder of the operation."""

    def begin(self, folder: Path) -> None:
        """Let it happen to this process; operations below `folder` count."""
        if self.kind in ("write", "quota"):
            kills = self.kind == "write"
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL if kills else signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.at, self.at))
        elif self.kind == "memory":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + self.at
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        else:
            object.__setattr__(self, "_place", folder / self.place)
            watched = watched_operations(folder, self._meet)
            watched.__enter__()
            object.__setattr__(self, "_watched", watched)  # until the process ends

    # Set in spite of `frozen`: the count is not part of the fault.
    _done = 0
    _place = Path()

    def _meet(self, event: str, _: object) -> None:
        object.__setattr__(self, "_done", self._done + 1)
        if self.kind == "vanish" and self._done == self.at and self._place.exists():
            detach = 2  # as `umount -l`: files that are open stay so
            if ctypes.CDLL(None).umount2(os.fsencode(self._place), detach):
                shutil.rmtree(self._place)
        if self.kind == "signal" and self._done == self.at:
            os.kill(os.getpid(), self.number)
        if self.kind == "clock" and self._done == self.at:
            real = time.time
            time.time = lambda: real() + self.number
        if (
            self.kind == "refuse"
            and self._done >= self.at
            and event not in ("os.remove", "os.rmdir")
        ):
            raise OSError(self.number, os.strerror(self.number))

    @property
    def operations(self) -> int:
        """Number of operations so far."""
        return self._done
