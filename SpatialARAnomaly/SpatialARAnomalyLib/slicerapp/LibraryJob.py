"""One job of the model library in the worker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .Progress import Progress, hearing
from .WorkerProcess import WorkerProcess


class LibraryJob:
    """Runs a job; `onEnd` gets its last event."""

    def __init__(
        self,
        worker: WorkerProcess,
        job: str,
        inputs: dict[str, Any],
        spec: dict[str, Any],
        output: Path | None,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[dict[str, Any]], None],
    ) -> None:
        self._worker = worker
        self._number = worker.submit(
            job, inputs=inputs, spec=spec, output=output, onEvent=hearing(onProgress), onEnd=onEnd
        )

    def cancel(self) -> None:
        """Ask it to stop; then nothing is changed."""
        self._worker.cancel(self._number)
