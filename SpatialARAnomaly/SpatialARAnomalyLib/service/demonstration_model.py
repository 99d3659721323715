"""How the demonstration model is made: normal heads in files, and a short training on them."""

from collections.abc import Callable
from pathlib import Path

from ..engine.device import Device
from ..engine.model_store import ModelCard
from ..engine.progress import Reporter
from ..engine.volume_files import write_nifti
from . import sample_scans
from .train_job import train
from .training_request import TrainSpec

EPOCHS = 12

NAME = "demonstration head"


def write_normals(folder: Path, seed: int, told: Callable[[int], None]) -> list[Path]:
    """Write the heads to learn from; `told` hears before each how many are done."""
    files = []
    for number in range(1, sample_scans.NORMALS + 1):
        told(number - 1)
        files.append(folder / f"normal_{number:02d}.nii.gz")
        write_nifti(files[-1], sample_scans.training_head(seed, number))
    return files


def train_demonstration(
    normals: list[Path], model: Path, device: Device, report: Reporter
) -> ModelCard:
    """Train on the heads and write the model's file; `train` says what it raises."""
    spec = TrainSpec(name=NAME, epochs=EPOCHS, batch_size=16, device=device)
    return train(normals, model, spec, report)
