"""The most memory that a process held: all of it, and its own."""

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

STATUS = Path("/proc/self/status")
SAMPLE_S = 0.02


@dataclass(frozen=True)
class Peak:
    """Peak memory in MB (10⁶ bytes)."""

    resident: float
    """Resident memory with pages of mapped files, which the system can reclaim."""
    own: float | None
    """Resident memory without mapped files; None where the system does not report it."""


class PeakMemory:
    """A context that records the peak of this process's memory; on Linux also of its own."""

    def __init__(self) -> None:
        self._own_mb = 0.0
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "PeakMemory":
        if STATUS.exists():
            self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        if STATUS.exists():
            self._sampler.join()

    def _sample(self) -> None:
        while not self._done.is_set():
            self._own_mb = max(self._own_mb, _status_mb()["RssAnon"])
            time.sleep(SAMPLE_S)

    def peak(self) -> Peak:
        """Return the peak since the process began (its own: since the context began)."""
        if STATUS.exists():
            # `ru_maxrss` would include the memory of the parent process.
            return Peak(_status_mb()["VmHWM"], self._own_mb)
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return Peak(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, None)


def _status_mb() -> dict[str, float]:
    """Read a field of this process's memory status in MB."""
    found = {}
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) * 1024 / 1e6
    return found
