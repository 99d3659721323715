"""The demo and its seeded scans: train on normal heads, find a lesion, keep everything.

Every seed has a thousand heads: the first gets a lesion, the next sixteen train the demonstration
model, and number 500 is normal and not trained on.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from SpatialARAnomalyLib.engine.device import Device, require_torch
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.volumes.files import write_nifti, write_nifti_labels
from SpatialARAnomalyLib.service.demo.phantom import PhantomHead, add_lesion, normal_head
from SpatialARAnomalyLib.service.detection.detect import Detection
from SpatialARAnomalyLib.service.detection.result_files import ResultsSpec, detect_to_files
from SpatialARAnomalyLib.service.outputs import is_marked, make_folder, write_marker
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.training.folder import TrainingFolder
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.training.train import train

MARKER_FILE = "demo.json"
MARKER = "SpatialARAnomaly demo"
"""Content of the marker; a folder without it is not replaced."""

MODEL_NAME = "demonstration head"

NORMALS = 16
"""Normal heads to train on; a quarter of them is held out."""

SETTINGS = {
    "epochs": 16,
    "batch_size": 16,
    "hidden_channels": 64,
    "held_out_share": 0.25,
    "region": "head-interior",
}
"""Settings of the demonstration model: a small network for a training of a minute, which leaves
out scalp and skull."""

FALSE_POSITIVE_RATE = 0.0005
"""Rate at which the demo looks for findings: with four held-out heads, 0.001 is too rough."""

CONTRAST = 0.6
"""Contrast of the lesion in units of white matter: a strongly enhancing mass."""

_UNSEEN = 500


def unseen_head(seed: int) -> PhantomHead:
    """Return a normal head that no demonstration model is trained on."""
    return normal_head(1000 * seed + _UNSEEN)


def head_with_lesion(seed: int) -> tuple[PhantomHead, Bool[np.ndarray, "k j i"]]:
    """Return a head with a lesion, which no demonstration model is trained on, and its mask."""
    return add_lesion(normal_head(1000 * seed), seed, contrast=CONTRAST)


def write_normals(folder: Path, seed: int, progress_callback: Callable[[int], None]) -> list[Path]:
    """Write the heads to train on; before each, call back with the number that are done."""
    files = []
    for number in range(1, NORMALS + 1):
        progress_callback(number - 1)
        files.append(folder / f"normal_{number:02d}.nii.gz")
        write_nifti(files[-1], normal_head(1000 * seed + number))
    return files


def train_demonstration(
    normals: list[Path], model: Path, device: Device, report: Reporter
) -> ModelCard:
    """Train the demonstration model on the heads and write it; raises as `train` does."""
    spec = TrainSpec.from_dict({"name": MODEL_NAME, "device": device.value, **SETTINGS})
    return train(normals, model, spec, report)


@dataclass(frozen=True, kw_only=True)
class DemoOutcome:
    """The files and the result of a demo."""

    detection: Detection
    files: dict[str, Path]
    """The detection's files."""
    more_files: dict[str, Path]
    """Volumes and model."""
    lesion_rank: int | None
    """Rank of the finding that covers most of the lesion, if any."""
    dice: float
    """Dice coefficient of that finding and the true lesion."""
    lesion_ml: float


def run_demo(
    out: Path, seed: int, device: Device, overwrite: bool, report: Reporter
) -> DemoOutcome:
    """Make normal heads and one with a lesion, train and detect; all files stay in `out`.

    Raises `OutputError` unless `out` is new, empty, or an earlier demo and `overwrite` is set.
    """
    require_torch()
    volumes, model, results = (out / name for name in ("volumes", "model.safetensors", "results"))
    _prepare_folder(out, (volumes, results), TrainingFolder(model), overwrite)
    make_folder(volumes)
    report.stage("make", 1, 1)

    def progress_callback(done: int) -> None:
        report.check_cancelled()
        if done:
            report.progress(done, NORMALS + 1, "scan")

    normals = write_normals(volumes, seed, progress_callback)
    report.progress(NORMALS, NORMALS + 1, "scan")
    head, lesion = head_with_lesion(seed)
    with_lesion, truth = volumes / "lesion.nii.gz", volumes / "lesion_truth.nii.gz"
    write_nifti(with_lesion, head)
    write_nifti_labels(truth, lesion.astype(np.uint8), head.ras_from_voxel)
    report.progress(NORMALS + 1, NORMALS + 1, "scan")

    train_demonstration(normals, model, device, report)
    spec = ResultsSpec(
        model=model,
        device=device,
        refine_outlines=True,
        false_positive_rate=FALSE_POSITIVE_RATE,
    )
    detection, files = detect_to_files(ScanSource(path=with_lesion), spec, results, report)
    rank, dice = _best_overlap(detection, lesion)
    return DemoOutcome(
        detection=detection,
        files=files,
        more_files={"volumes": volumes, "lesion scan": with_lesion, "truth": truth, "model": model},
        lesion_rank=rank,
        dice=dice,
        lesion_ml=float(np.count_nonzero(lesion)) * head.voxel_ml,
    )


def _prepare_folder(
    out: Path, folders: tuple[Path, ...], training: TrainingFolder, overwrite: bool
) -> None:
    """Make the folder and mark it; remove an earlier demo from it."""
    try:
        taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise unwritable(f"The folder {out.name!r} cannot be read", error) from None
    if taken and not overwrite:
        raise OutputError(
            "output-exists", f"The folder {out.name!r} must be new or empty; it is not."
        )
    if taken and not is_marked(out / MARKER_FILE, MARKER):
        raise OutputError(
            "output-not-a-demo",
            f"Only an earlier demo is replaced; {out.name!r} was not written by this command (no "
            f"{MARKER_FILE}).",
        )
    make_folder(out)
    try:
        # First, because it raises where the training of an interrupted demo still runs.
        if training.path.exists():
            with training.hold():
                training.clear()
        for folder in folders:
            if folder.exists():
                shutil.rmtree(folder)
        training.model.unlink(missing_ok=True)
        write_marker(out / MARKER_FILE, MARKER)
    except OSError as error:
        raise unwritable("The folder of the demo cannot be changed", error) from None


def _best_overlap(
    detection: Detection, lesion: Bool[np.ndarray, "k j i"]
) -> tuple[int | None, float]:
    """Return the rank of the finding that covers most of the lesion, and their Dice coefficient."""
    ranks = detection.labels[lesion]
    if not ranks.any():
        return None, 0.0
    rank = int(np.bincount(ranks[ranks > 0]).argmax())
    found = detection.labels == rank
    both = np.count_nonzero(found & lesion)
    return rank, 2.0 * both / (np.count_nonzero(found) + np.count_nonzero(lesion))
