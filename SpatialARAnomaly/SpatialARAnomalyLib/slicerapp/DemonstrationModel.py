"""A model of the sample heads, trained on this machine in about a minute."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine.device import Device
from .Detection import Outcome, outcomeOf
from .Progress import Progress, hearing
from .WorkerProcess import WorkerProcess

FILE = "demonstration-head.safetensors"
"""Its file among the user's models."""


class DemonstrationModel:
    """Trains the model in the worker; it appears in the folder only when complete."""

    def __init__(
        self,
        models: Path,
        device: Device,
        worker: WorkerProcess,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._worker = worker
        self._onEnd = onEnd
        self._job: int | None = worker.submit(
            "demonstration_model",
            spec={"device": device.value},
            output=models / FILE,
            onEvent=hearing(onProgress),
            onEnd=self._answered,
        )

    def cancel(self) -> None:
        """Stop; nothing of the model stays."""
        if self._job is not None:
            self._worker.cancel(self._job)

    def _answered(self, event: dict[str, Any]) -> None:
        self._job = None
        self._onEnd(Outcome() if event["event"] == "result" else outcomeOf(event))
