"""The worker's jobs `train` and `training_discard`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.device import require_torch
from SpatialARAnomalyLib.engine.model.model_file import model_path
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.training.folder import discard
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.training.train import as_result, train


@dataclass(frozen=True, kw_only=True)
class TrainInputs(Spec):
    """The normal scans."""

    normals: tuple[ScanSource, ...]
    """Single scans, as the rows of a survey or an unfinished training have them."""


def train_model(
    inputs: TrainInputs, spec: TrainSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Train a model and write it as `output`, or resume its training; raises as `train` does."""
    require_torch()
    card = train(inputs.normals, output, spec, report)
    return as_result(card) | {"model": str(model_path(output)), "name": card.name}


@dataclass(frozen=True, kw_only=True)
class DiscardInputs(Spec):
    """An unfinished training."""

    folder: str
    """Its own folder, `<model>.training`."""


def discard_training(inputs: DiscardInputs) -> dict[str, Any]:
    """Remove the folder of an unfinished training; raises `OutputError` while it runs."""
    discard(Path(inputs.folder))
    return {}
