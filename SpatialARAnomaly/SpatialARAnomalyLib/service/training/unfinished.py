"""The unfinished trainings of a models folder; needs numpy alone."""

import json
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.errors import OutputError, SpecError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.progress import EpochFigures
from SpatialARAnomalyLib.service.training.folder import SUFFIX, TrainingFolder
from SpatialARAnomalyLib.service.training.request import TrainSpec

MAX_HEADER_BYTES = 1 << 27
"""Longest header of a checkpoint that is read."""


@dataclass(frozen=True, kw_only=True)
class UnfinishedTraining:
    """A training that can be resumed, or only be discarded."""

    folder: Path
    """The training's own, `<model>.training`."""
    model: Path
    """The model file that it was to write: the `output` of the job that resumes it."""
    name: str
    """Name of the model."""
    spec: TrainSpec | None
    """The `spec` of the job that resumes it; None where it can only be discarded."""
    sources: list[dict[str, Any]]
    """The scans: `normals` of the job that resumes it."""
    curve: list[EpochFigures]
    """Figures of the epochs in the checkpoint."""
    epochs: int | None
    """Number of epochs of the whole training."""
    touched: float
    """Time of the last write, in seconds as `time.time`."""
    running: bool
    """A process is working on it."""
    finished: bool
    """Its model exists: the rest can only be discarded."""

    @property
    def epochs_done(self) -> int:
        """Number of epochs in the checkpoint."""
        return len(self.curve)


def list_unfinished(models: Path) -> list[UnfinishedTraining]:
    """Return the unfinished trainings in a models folder, the last touched first."""
    try:
        inside = sorted(models.iterdir())
    except OSError:
        return []
    folders = [
        TrainingFolder(one.with_name(one.name.removesuffix(SUFFIX)))
        for one in inside
        if one.name.endswith(SUFFIX) and one.name != SUFFIX
    ]
    found = [_describe(folder) for folder in folders if folder.is_training]
    return sorted(found, key=lambda one: -one.touched)


def discard(folder: Path) -> None:
    """Remove what a training has written, so that it cannot be resumed; other files stay.

    `folder` is the training's own. Raises `OutputError` where the training runs, the folder is
    not a training's, or cannot be removed.
    """
    model = folder.name.removesuffix(SUFFIX)
    training = TrainingFolder(folder.with_name(model)) if model != folder.name and model else None
    if training is None or not training.is_training:
        raise OutputError(
            "output-not-a-training", f"{folder.name!r} is not the folder of an unfinished training."
        )
    try:
        with training.hold():
            training.clear()
    except OSError as error:
        raise unwritable("The training cannot be removed", error) from None


def _describe(folder: TrainingFolder) -> UnfinishedTraining:
    record = folder.read_record()
    spec = None if record is None else record.spec
    finished = folder.model.exists() and not (spec is not None and spec.overwrite)
    return UnfinishedTraining(
        folder=folder.path,
        model=folder.model,
        name=(spec and spec.name) or folder.model.stem,
        spec=None if finished else spec,
        sources=[] if record is None or finished else list(record.sources),
        curve=_read_curve(folder.checkpoint),
        epochs=None if spec is None else spec.epochs,
        touched=_last_write(folder),
        running=folder.is_held,
        finished=finished,
    )


def _read_curve(checkpoint: Path) -> list[EpochFigures]:
    """Read the figures of the epochs in a checkpoint; none where it is missing or damaged."""
    try:
        with checkpoint.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER_BYTES:
                return []
            about = json.loads(json.loads(file.read(length))["__metadata__"]["fit"])
        return [EpochFigures.from_dict(figures) for figures in about["curve"]]
    except (OSError, struct.error, ValueError, TypeError, KeyError, RecursionError, SpecError):
        return []


def _last_write(folder: TrainingFolder) -> float:
    latest = 0.0
    for file in (folder.path, folder.features, folder.checkpoint, folder.request):
        with suppress(OSError):
            latest = max(latest, file.stat().st_mtime)
    return latest
