"""The demo: train on seeded normal anatomy, find a lesion, keep everything."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from SpatialARAnomalyLib.engine.device import Device, require_torch
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.files import unwritable
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.volumes.files import write_nifti, write_nifti_labels
from SpatialARAnomalyLib.service.demo.sample_scans import (
    NORMALS,
    head_with_lesion,
    train_demonstration,
    write_normals,
)
from SpatialARAnomalyLib.service.detection.detect import Detection
from SpatialARAnomalyLib.service.detection.result_files import DetectRequest, detect_to_files
from SpatialARAnomalyLib.service.outputs import is_marked, make_folder, write_marker
from SpatialARAnomalyLib.service.training.folder import TrainingFolder

MARKER_FILE = "demo.json"
MARKER = "SpatialARAnomaly demo"
"""Only where a folder's marker says so does `--overwrite` remove anything from it."""


@dataclass(frozen=True, kw_only=True)
class DemoOutcome:
    """What the demo made and found."""

    detection: Detection
    files: dict[str, Path]
    """The detection's files."""
    more_files: dict[str, Path]
    """Volumes and model."""
    lesion_rank: int | None
    """The finding that covers most of the lesion, if any."""
    dice: float
    """Overlap of that finding with the true lesion."""
    lesion_ml: float


def run_demo(
    out: Path, seed: int, device: Device, overwrite: bool, report: Reporter
) -> DemoOutcome:
    """Make normal heads and one with a lesion, train, detect; all of it stays in `out`.

    Raises `OutputError` where `out` holds something already, unless that is an
    earlier demo and `overwrite`.
    """
    require_torch()
    volumes, model, results = (out / name for name in ("volumes", "model.safetensors", "results"))
    if _is_taken(out):
        _check_replaceable(out, overwrite)
        _remove_demo((volumes, results), TrainingFolder(model))
    make_folder(out)
    try:
        write_marker(out / MARKER_FILE, MARKER)
    except OSError as error:
        raise unwritable("The demo cannot be written", error) from None
    make_folder(volumes)
    report.stage("make", 1, 1)

    def told(done: int) -> None:
        report.check_cancelled()
        if done:
            report.progress(done, NORMALS + 1, "scan")

    normals = write_normals(volumes, seed, told)
    report.progress(NORMALS, NORMALS + 1, "scan")
    head, lesion = head_with_lesion(seed)
    with_lesion, truth = volumes / "lesion.nii.gz", volumes / "lesion_truth.nii.gz"
    write_nifti(with_lesion, head)
    write_nifti_labels(truth, lesion.astype(np.uint8), head.ras_from_voxel)
    report.progress(NORMALS + 1, NORMALS + 1, "scan")

    train_demonstration(normals, model, device, report)
    detection, files = detect_to_files(
        DetectRequest(
            input=with_lesion,
            model=model,
            out=results,
            device=device,
        ),
        report,
    )
    rank, dice = best_overlap(detection, lesion)
    return DemoOutcome(
        detection=detection,
        files=files,
        more_files={"volumes": volumes, "lesion scan": with_lesion, "truth": truth, "model": model},
        lesion_rank=rank,
        dice=dice,
        lesion_ml=float(np.count_nonzero(lesion)) * head.voxel_ml,
    )


def _is_taken(out: Path) -> bool:
    try:
        return out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise unwritable(f"The folder {out.name!r} cannot be looked into", error) from None


def _check_replaceable(out: Path, overwrite: bool) -> None:
    if not overwrite:
        raise OutputError(
            "output-exists", f"The folder {out.name!r} must be new or empty; it is not."
        )
    if not is_marked(out / MARKER_FILE, MARKER):
        raise OutputError(
            "output-not-a-demo",
            f"Only an earlier demo is replaced; {out.name!r} is none (no {MARKER_FILE} of ours).",
        )


def _remove_demo(folders: tuple[Path, ...], training: TrainingFolder) -> None:
    try:
        # First: it refuses where an interrupted demo's training still runs.
        if training.path.exists():
            with training.hold():
                training.clear()
        for folder in folders:
            if folder.exists():
                shutil.rmtree(folder)
        training.model.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable("The earlier demo cannot be removed", error) from None


def best_overlap(
    detection: Detection, lesion: Bool[np.ndarray, "k j i"]
) -> tuple[int | None, float]:
    """The rank of the finding that covers most of the lesion, and their Dice coefficient."""
    ranks = detection.labels[lesion]
    if not ranks.any():
        return None, 0.0
    rank = int(np.bincount(ranks[ranks > 0]).argmax())
    found = detection.labels == rank
    both = np.count_nonzero(found & lesion)
    return rank, 2.0 * both / (np.count_nonzero(found) + np.count_nonzero(lesion))
