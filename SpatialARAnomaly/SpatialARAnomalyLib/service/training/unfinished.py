"""The trainings of a folder that were begun and not finished; needs no package but numpy."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.errors import OutputError, SpecError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.progress import EpochFigures
from SpatialARAnomalyLib.service.training.folder import PLACES_ENDING, SUFFIX, TrainingFolder
from SpatialARAnomalyLib.service.training.request import TrainSpec

MAX_HEADER = 1 << 27
"""Bytes; a longer header of a checkpoint is none."""


@dataclass(frozen=True, kw_only=True)
class UnfinishedTraining:
    """A training that can be resumed, or only be discarded."""

    folder: Path
    """Its own, `<model>.training`."""
    model: Path
    """The model file it was to write: the `output` of the job that resumes it."""
    name: str
    """Of the model."""
    spec: TrainSpec | None
    """The `spec` of the job that resumes it; None where it can only be discarded."""
    sources: list[dict[str, Any]]
    """Its scans: `normals` of the job that resumes it."""
    curve: list[EpochFigures]
    """Of the epochs that are done and saved."""
    epochs: int | None
    """How many there shall be."""
    volumes_embedded: int
    touched: float
    """When something was last written, in seconds as `time.time` counts them."""
    running: bool
    """A process works on it now."""
    finished: bool
    """Its model is there: what is left of it can only be discarded."""

    @property
    def epochs_done(self) -> int:
        """How many epochs need not be done again."""
        return len(self.curve)


def list_unfinished(models: Path) -> list[UnfinishedTraining]:
    """The unfinished trainings in a models folder, the one last touched first."""
    try:
        inside = sorted(models.iterdir())
    except OSError:
        return []
    folders = [
        TrainingFolder(one.with_name(one.name.removesuffix(SUFFIX)))
        for one in inside
        if one.name.endswith(SUFFIX) and one.name != SUFFIX
    ]
    found = [_look(folder) for folder in folders if folder.is_training]
    return sorted(found, key=lambda one: -one.touched)


def discard(folder: Path) -> None:
    """Remove what a training has written: nothing of it can be resumed then.

    `folder` is the training's own. Raises `OutputError` where it runs, is not a
    training's, or cannot be removed. What others put there stays.
    """
    model = folder.name.removesuffix(SUFFIX)
    # Of no other folder than the one named, nor of none.
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


def _look(folder: TrainingFolder) -> UnfinishedTraining:
    record = folder.read_record()
    finished = folder.model.exists() and not (record is not None and record.spec.overwrite)
    resumable = record is not None and not finished
    return UnfinishedTraining(
        folder=folder.path,
        model=folder.model,
        name=(record.spec.name if record is not None else None) or folder.model.stem,
        spec=record.spec if record is not None and resumable else None,
        sources=list(record.sources) if record is not None and resumable else [],
        curve=_curve(folder.checkpoint),
        epochs=record.spec.epochs if record is not None else None,
        volumes_embedded=_volumes_embedded(folder),
        touched=_touched(folder),
        running=folder.is_held,
        finished=finished,
    )


def _volumes_embedded(folder: TrainingFolder) -> int:
    stored = folder.features.glob("*.npy")
    return sum(not file.stem.endswith(PLACES_ENDING) for file in stored)


def _curve(checkpoint: Path) -> list[EpochFigures]:
    """The figures of the epochs in a checkpoint, without its tensors; none where it is damaged."""
    try:
        with checkpoint.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > MAX_HEADER:
                return []
            about = json.loads(json.loads(file.read(length))["__metadata__"]["fit"])
        return [EpochFigures.from_dict(figures) for figures in about["curve"]]
    except (OSError, struct.error, ValueError, TypeError, KeyError, RecursionError, SpecError):
        return []


def _touched(folder: TrainingFolder) -> float:
    latest = 0.0
    for file in (folder.path, folder.features, folder.checkpoint, folder.request):
        try:
            latest = max(latest, file.stat().st_mtime)
        except OSError:
            continue
    return latest
