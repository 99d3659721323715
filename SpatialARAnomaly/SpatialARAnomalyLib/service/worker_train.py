"""The worker's training: normal scans in, a model file out, and resumed where it stopped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.device import require_torch
from ..engine.model_store import model_path
from ..engine.progress import Reporter
from ..engine.specs import Spec
from .sources import SourceSpec
from .train_job import as_result, train
from .training_request import TrainSpec


@dataclass(frozen=True, kw_only=True)
class TrainInputs(Spec):
    """What to learn from."""

    normals: tuple[SourceSpec, ...]
    """Single scans, as the rows of a survey or an unfinished training name them."""


def train_model(
    inputs: TrainInputs, spec: TrainSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Train a model and write it as `output`; what the result says of it.

    What there is of an unfinished training of the same scans and settings is
    gone on with. Raises `SpatialARError` as `train_job.train` does, `Cancelled`
    through `report`; what can be resumed is then in `<output>.training`.
    """
    require_torch()
    card = train(spec.request([one.source() for one in inputs.normals], output), report)
    return as_result(card) | {"model": str(model_path(output)), "name": card.name}
