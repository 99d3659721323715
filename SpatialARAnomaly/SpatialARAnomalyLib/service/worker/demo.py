"""The worker's jobs `sample` and `demonstration_model`, which need no download."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from SpatialARAnomalyLib.engine.device import Device, require_torch
from SpatialARAnomalyLib.engine.files import (
    move_new,
    partial_folder,
    remove_stale_partials,
    unwritable,
)
from SpatialARAnomalyLib.engine.model.model_file import check_free, model_path
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.array_files import write_arrays
from SpatialARAnomalyLib.service.demo import demo
from SpatialARAnomalyLib.service.outputs import make_folder

VOXELS_FILE = "voxels.npy"
TRUTH_FILE = "truth.npy"

SEED = 1
"""Seed of the heads that the demonstration model is trained on."""


class SampleKind(StrEnum):
    """Kinds of sample heads."""

    NORMAL = "normal"
    LESION = "lesion"


@dataclass(frozen=True, kw_only=True)
class SampleSpec(Spec):
    """Kind and seed of a sample head."""

    kind: SampleKind
    seed: int = 1

    def __post_init__(self) -> None:
        self._require(0 <= self.seed < 2**32, "seed must lie in [0, 2³²)")


@dataclass(frozen=True, kw_only=True)
class DemonstrationSpec(Spec):
    """Settings of the demonstration model's training."""

    device: Device = Device.AUTO


def make_sample(spec: SampleSpec, output: Path, report: Reporter) -> dict[str, Any]:
    """Make a head; write its voxels and, if it has a lesion, the lesion's mask."""
    report.stage("make", 1, 1)
    report.check_cancelled()
    arrays = {}
    if spec.kind is SampleKind.LESION:
        head, lesion = demo.head_with_lesion(spec.seed)
        arrays[TRUTH_FILE] = lesion.astype(np.uint8)
    else:
        head = demo.unseen_head(spec.seed)
    arrays[VOXELS_FILE] = head.voxels
    report.check_cancelled()
    write_arrays(output, arrays)
    return {
        "files": {
            "voxels": str(output / VOXELS_FILE),
            "truth": str(output / TRUTH_FILE) if TRUTH_FILE in arrays else None,
        },
        "ras_from_voxel": head.ras_from_voxel.tolist(),
        "modality": head.modality.value if head.modality else None,
    }


def make_model(spec: DemonstrationSpec, output: Path, report: Reporter) -> dict[str, Any]:
    """Train the demonstration model as the file `output`, in a temporary folder beside it.

    Raises:
        OutputError: The file exists, or cannot be written; nothing is left behind.
        Cancelled: Through `report`; nothing is left behind.
    """
    require_torch()
    output = model_path(output)
    check_free(output, overwrite=False)
    make_folder(output.parent)
    remove_stale_partials(output.parent)

    def progress_callback(done: int) -> None:
        report.check_cancelled()
        report.progress(done, demo.NORMALS, "scan")

    try:
        with partial_folder(output.parent) as work:
            new = work / "new"
            new.mkdir()
            report.stage("make", 1, 1)
            normals = demo.write_normals(new, SEED, progress_callback)
            report.progress(len(normals), len(normals), "scan")
            card = demo.train_demonstration(normals, new / output.name, spec.device, report)
            check_free(output, overwrite=False)
            move_new(new / output.name, output)
    except OSError as error:
        raise unwritable("The model cannot be written", error) from None
    return {"model": str(output), "name": card.name}
