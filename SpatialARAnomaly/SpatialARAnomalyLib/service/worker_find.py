"""The worker's second look: findings of an NLL volume at another threshold, without torch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..engine.calibration import Calibration
from ..engine.findings import find_in_box
from ..engine.geometry import check_ras_from_voxel
from ..engine.progress import Reporter
from ..engine.specs import FindingsSpec, Spec
from .array_files import Affine, affine_array, read_nll
from .outputs import appear_together, check_names
from .worker_findings import LABELS_FILE, finding_values, label_names, label_values, write_labels


@dataclass(frozen=True, kw_only=True)
class FindInputs(Spec):
    """An NLL volume and what it means."""

    nll: str
    """A `.npy` file of [k, j, i]."""
    ras_from_voxel: Affine
    calibration: Calibration


@dataclass(frozen=True, kw_only=True)
class FindSpec(FindingsSpec):
    """Which voxels make a finding."""


def find(inputs: FindInputs, spec: FindSpec, output: Path, report: Reporter) -> dict[str, Any]:
    """Gather findings and write their label map; what the result says of them.

    Raises `SpatialARError` for an input or output that cannot be used,
    `Cancelled` through `report`; nothing is written in either case.
    """
    report.stage("find", 1, 1)
    check_names(output, [LABELS_FILE], overwrite=False)
    ras_from_voxel = affine_array(inputs.ras_from_voxel)
    check_ras_from_voxel(ras_from_voxel)
    nll = read_nll(Path(inputs.nll))
    rate = spec.false_positive_rate
    threshold = inputs.calibration.threshold(rate)
    findings, box = find_in_box(
        nll, ras_from_voxel, inputs.calibration, threshold, spec.min_volume_ml
    )
    report.check_cancelled()
    with appear_together(output, label_names(box), overwrite=False) as partial:
        write_labels(partial, box)
    labels, start_kji = label_values(output, box)
    return {
        "files": {"labels": labels},
        "labels_start_kji": start_kji,
        "findings": [finding_values(finding) for finding in findings],
        "threshold_nll": threshold,
        "false_positive_rate": rate,
        "supported": inputs.calibration.supports(rate),
    }
