"""The worker's sample scans: made here, so that nothing need be downloaded."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.progress import Reporter
from ..engine.specs import Spec
from .outputs import appear_together
from .sample_scans import head_with_lesion, unseen_head

VOXELS_FILE = "voxels.npy"
TRUTH_FILE = "truth.npy"


class SampleKind(StrEnum):
    """Which sample."""

    NORMAL = "normal"
    LESION = "lesion"


@dataclass(frozen=True, kw_only=True)
class SampleSpec(Spec):
    """Which sample to make."""

    kind: SampleKind
    seed: int = 1

    def __post_init__(self) -> None:
        self._require(0 <= self.seed < 2**32, "seed must lie in [0, 2³²)")


def make_sample(spec: SampleSpec, output: Path, report: Reporter) -> dict[str, Any]:
    """Make a head and write its voxels, and its lesion's; what the result says of them.

    Raises `SpatialARError` where the output cannot be used, `Cancelled` through `report`.
    """
    report.stage("make", 1, 1)
    report.check_cancelled()
    arrays: dict[str, np.ndarray] = {}
    if spec.kind is SampleKind.LESION:
        head, lesion = head_with_lesion(spec.seed)
        arrays = {VOXELS_FILE: head.voxels, TRUTH_FILE: lesion.astype(np.uint8)}
    else:
        head = unseen_head(spec.seed)
        arrays = {VOXELS_FILE: head.voxels}
    report.check_cancelled()
    with appear_together(output, list(arrays), overwrite=False) as partial:
        for name, array in arrays.items():
            np.save(partial / name, array, allow_pickle=False)
    return {
        "files": {
            "voxels": str(output / VOXELS_FILE),
            "truth": str(output / TRUTH_FILE) if TRUTH_FILE in arrays else None,
        },
        "ras_from_voxel": head.ras_from_voxel.tolist(),
        "modality": head.modality.value if head.modality else None,
    }
