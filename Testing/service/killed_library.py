"""Imports a model, and is killed at the given check for a cancel."""

import os
import signal
import sys
from pathlib import Path


class Killed:
    """A reporter that kills the process."""

    def __init__(self, at: int) -> None:
        self._left = at

    def stage(self, name: str, index: int, of: int) -> None:
        """Ignore it."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Ignore it."""

    def notice(self, code: str, text: str) -> None:
        """Ignore it."""

    def epoch(self, figures: object) -> None:
        """Ignore it."""

    def check_cancelled(self) -> None:
        """Kill the process at the given check."""
        self._left -= 1
        if self._left < 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    from SpatialARAnomalyLib.service.models.library import import_model

    import_model(Path(sys.argv[1]), Path(sys.argv[2]), Killed(int(sys.argv[3])))
