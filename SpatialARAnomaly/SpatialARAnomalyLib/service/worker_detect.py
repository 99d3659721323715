"""The worker's detection: arrays in files in, arrays in files out; the panel knows the rest."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.device import Device, resolve_device
from ..engine.progress import Reporter
from ..engine.specs import FindingsSpec, Modality, Spec
from ..engine.volume import Volume, check_scan
from .array_files import Affine, affine_array, read_voxels
from .clock import Clock
from .find_anomalies import Detection, find_anomalies, suit
from .outputs import appear_together, check_names
from .warm import Warm
from .worker_findings import LABELS_FILE, finding_values, label_names, label_values, write_labels

NLL_FILE = "nll.npy"


@dataclass(frozen=True, kw_only=True)
class DetectInputs(Spec):
    """The scan and the model."""

    voxels: str
    """A `.npy` file of [k, j, i]."""
    ras_from_voxel: Affine
    modality: Modality | None = None
    model: str
    """The model's file."""


@dataclass(frozen=True, kw_only=True)
class DetectSpec(FindingsSpec):
    """How to detect."""

    device: Device = Device.AUTO
    encoder: str | None = None
    allow_download: bool = False
    allow_mismatch: bool = False


def detect(
    inputs: DetectInputs, spec: DetectSpec, output: Path, warm: Warm, report: Reporter
) -> dict[str, Any]:
    """Score a scan and find anomalies in it; what the result says of it.

    Raises `SpatialARError` for a scan, model or output that cannot be used,
    `Cancelled` through `report`; nothing is written in either case.
    """
    clock = Clock()
    report.stage("read", 1, 4)
    check_names(output, [NLL_FILE, LABELS_FILE], overwrite=False)
    device = resolve_device(spec.device)
    card, model, model_was_warm = warm.model(Path(inputs.model), device)
    report.check_cancelled()
    volume = Volume(
        read_voxels(Path(inputs.voxels)), affine_array(inputs.ras_from_voxel), inputs.modality
    )
    check_scan(volume)
    report.check_cancelled()
    scan = suit(volume, card, spec.allow_mismatch, report)
    encoder, encoder_was_warm = warm.encoder(card, spec.encoder, device, spec.allow_download)
    clock.lap("read")
    detection = find_anomalies(scan, model, encoder, spec, report, clock)

    report.stage("write", 4, 4)
    names = [NLL_FILE, *label_names(detection.label_box)]
    with appear_together(output, names, overwrite=False) as partial:
        np.save(partial / NLL_FILE, detection.nll, allow_pickle=False)
        report.check_cancelled()
        write_labels(partial, detection.label_box)
    clock.lap("write")
    return _values(detection, output) | {
        "warm": {"encoder": encoder_was_warm, "model": model_was_warm}
    }


def _values(detection: Detection, output: Path) -> dict[str, Any]:
    card, rate = detection.card, detection.spec.false_positive_rate
    labels, start_kji = label_values(output, detection.label_box)
    return {
        "files": {"nll": str(output / NLL_FILE), "labels": labels},
        "labels_start_kji": start_kji,
        "findings": [finding_values(finding) for finding in detection.findings],
        "threshold_nll": detection.threshold_nll,
        "outside_nll": detection.outside_nll,
        "false_positive_rate": rate,
        "supported": card.calibration.supports(rate),
        "case_score": detection.case_score,
        "case_p_value": detection.case_p_value,
        "model": {
            "name": card.name,
            "weights_sha256": card.weights_sha256,
            "modality": card.modality.value,
            "plane": card.slices.plane.value,
        },
        "calibration": card.calibration.to_dict(),
        "device": detection.device,
        "seconds": detection.seconds,
        "mismatches": list(detection.mismatches),
    }
