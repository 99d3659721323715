"""The worker's clean-up: an unfinished training goes away, with all its tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.progress import Reporter
from ..engine.specs import Spec
from .unfinished_trainings import discard
from .worker_jobs import Empty


@dataclass(frozen=True, kw_only=True)
class DiscardInputs(Spec):
    """An unfinished training."""

    folder: str
    """Its own, `<model>.training`."""


def discard_training(
    inputs: DiscardInputs, spec: Empty, output: Path | None, report: Reporter
) -> dict[str, Any]:
    """Remove what a training has written; what the result says of it.

    Raises `OutputError` where it runs, or is no training.
    """
    discard(Path(inputs.folder))
    return {}
