"""Seeded scans to try the program on: what the demonstration model learns, and what it never saw.

Of every seed there are a thousand heads: the first has a lesion, the next ten
train the demonstration model, and one in the middle is normal and unseen.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.service.demo.phantom import PhantomHead, add_lesion, normal_head
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.training.train import train

NORMALS = 10
"""Enough that two can be held out, few enough for a demo."""

CONTRAST = 0.6
"""Of the lesion, in units of white matter: a strongly enhancing mass."""

_UNSEEN = 500


def training_head(seed: int, number: int) -> PhantomHead:
    """A normal head that the demonstration model of this seed learns from (from 1)."""
    return normal_head(1000 * seed + number)


def unseen_head(seed: int) -> PhantomHead:
    """A normal head that no demonstration model learns from."""
    return normal_head(1000 * seed + _UNSEEN)


def head_with_lesion(seed: int) -> tuple[PhantomHead, Bool[np.ndarray, "k j i"]]:
    """A head that no demonstration model learns from, with a lesion, and the lesion's voxels."""
    return add_lesion(normal_head(1000 * seed), seed, contrast=CONTRAST)


EPOCHS = 12

NAME = "demonstration head"


def write_normals(folder: Path, seed: int, told: Callable[[int], None]) -> list[Path]:
    """Write the heads to learn from; `told` hears before each how many are done."""
    files = []
    for number in range(1, NORMALS + 1):
        told(number - 1)
        files.append(folder / f"normal_{number:02d}.nii.gz")
        write_nifti(files[-1], training_head(seed, number))
    return files


def train_demonstration(
    normals: list[Path], model: Path, device: Device, report: Reporter
) -> ModelCard:
    """Train on the heads and write the model's file; `train` says what it raises."""
    spec = TrainSpec(name=NAME, epochs=EPOCHS, batch_size=16, device=device)
    return train(normals, model, spec, report)
