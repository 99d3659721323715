"""The jobs `detect` and `find` (findings at another threshold); arrays are passed in files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt16

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.device import require_torch, start_imports
from SpatialARAnomalyLib.engine.errors import InputError, SpecError
from SpatialARAnomalyLib.engine.model.model_file import ModelCard, read_card
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.scoring.findings import Finding, LabelBox, find_in_box
from SpatialARAnomalyLib.engine.specs import FindingsSpec, Modality, Spec
from SpatialARAnomalyLib.engine.volumes.dicom import check_positions
from SpatialARAnomalyLib.engine.volumes.geometry import check_ras_from_voxel
from SpatialARAnomalyLib.engine.volumes.volume import Volume, finite_scan
from SpatialARAnomalyLib.service.array_files import (
    Affine,
    affine_array,
    check_same_size,
    read_mask_array,
    read_nll,
    read_voxels,
    write_arrays,
)
from SpatialARAnomalyLib.service.detection.detect import Clock, DetectSpec, prepare_scan, refine
from SpatialARAnomalyLib.service.detection.detect import detect as detect_in_memory
from SpatialARAnomalyLib.service.detection.findings_table import finding_row
from SpatialARAnomalyLib.service.detection.model_cache import MODELS
from SpatialARAnomalyLib.service.detection.review_case import card_facts, card_notices
from SpatialARAnomalyLib.service.outputs import check_names

NLL_FILE = "nll.npy"
LABELS_FILE = "labels.npy"

GRID_TOLERANCE = 0.01
"""Relative difference of squared lengths, and of angles, that is rounding."""


@dataclass(frozen=True, kw_only=True)
class DetectInputs(Spec):
    """A scan and a model."""

    voxels: str
    """A `.npy` file of an array [k, j, i]."""
    ras_from_voxel: Affine
    modality: Modality | None = None
    mask: str | None = None
    """A `.npy` file of the mask [k, j, i], whose nonzero voxels count; None for the whole scan."""
    model: str
    """Path of the model's file."""
    dicom_files: tuple[str, ...] = ()
    """The DICOM files that the scan was loaded from: their positions must be those of the scan."""
    dicom_volume: int | None = None
    """Number of the scan from 1, where its DICOM files hold several volumes."""


@dataclass(frozen=True, kw_only=True)
class FindInputs(Spec):
    """An NLL volume and the calibration of its model."""

    nll: str
    """A `.npy` file of an array [k, j, i]."""
    ras_from_voxel: Affine
    calibration: Calibration
    voxels: str | None = None
    """A `.npy` file of the scan [k, j, i]; needed, as the next, to refine outlines."""
    token_mm: float | None = None
    """Side of a token in mm."""


def detect(
    inputs: DetectInputs, spec: DetectSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Detect anomalies in a scan, and write the NLL volume and the label map.

    Raises:
        SpatialARError: The scan, model or output cannot be used; nothing is written.
        Cancelled: Through `report`; nothing is written.
    """
    clock = Clock()
    report.stage("read", 1, 4)
    check_names(output, [NLL_FILE, LABELS_FILE], overwrite=False)
    require_torch()
    card = read_card(Path(inputs.model))
    start_imports()
    volume = Volume(
        read_voxels(Path(inputs.voxels)), affine_array(inputs.ras_from_voxel), inputs.modality
    )
    if inputs.mask is not None:
        volume = volume.masked(read_mask_array(Path(inputs.mask)))
    files = [Path(one) for one in inputs.dicom_files]
    if all(file.is_file() for file in files):
        if files:
            check_source(volume, files, inputs.dicom_volume, report.check_cancelled)
    else:
        report.notice(
            "dicom-unchecked", "The scan's DICOM files are gone: its positions were not checked."
        )
    report.check_cancelled()
    scan = prepare_scan(volume, card, spec.allow_mismatch, report)
    report.check_cancelled()
    model = MODELS.load(
        inputs.model, spec.device, encoder=spec.encoder, allow_download=spec.allow_download
    )
    clock.lap("read")
    detection = detect_in_memory(scan, model, spec, report=report, clock=clock)

    report.stage("write", 4, 4)
    box = detection.label_box
    write_arrays(output, {NLL_FILE: detection.nll} | _label_file(box))
    clock.lap("write")
    values = _common_values(output, detection.findings, box, card.calibration, spec)
    values["files"]["nll"] = str(output / NLL_FILE)
    return values | {
        "outside_nll": detection.outside_nll,
        "case_score": detection.case_score,
        "case_p_value": detection.case_p_value,
        **detection.caution_values(),
        "model": model_values(card),
        "calibration": card.calibration.to_dict(),
        "token_mm": card.token_mm,
        "device": detection.device,
        "seconds": detection.seconds,
        "mismatches": list(detection.mismatches),
        "warm": dict(MODELS.reused),
    }


def model_values(card: ModelCard) -> dict[str, Any]:
    """Return what a result says of its model."""
    return {
        "name": card.name,
        "weights_sha256": card.weights_sha256,
        "modality": card.modality.value,
        "plane": card.slices.plane.value,
        "card": card_facts(card),
        "notices": list(card_notices(card)),
    }


def check_source(
    volume: Volume,
    files: list[Path],
    number: int | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> None:
    """Raise `InputError` unless a volume has the grid that its DICOM files state.

    Slicer shows a gap as thick slices, and several times as several slices. Lengths and angles
    are compared, so the volume may have been moved, cropped or flipped since. `number` is that of
    the volume, where the files hold several.
    """
    placed = check_positions(files, check_cancelled, volume=number)
    shape = (placed.depth, *placed.frames[0].file.size)
    if shape != volume.voxels.shape:
        return
    found, stated = (
        np.abs(one[:3, :3].T @ one[:3, :3])
        for one in (volume.ras_from_voxel, placed.ras_from_voxel)
    )
    if not np.allclose(found, stated, rtol=GRID_TOLERANCE, atol=GRID_TOLERANCE * stated.max()):
        raise InputError(
            "dicom-grid",
            "Expected the volume on the grid of its DICOM files, of slices "
            f"{np.sqrt(stated[2, 2]):.2f} mm apart{' and tilted' * (placed.tilt_degrees > 0.5)}; "
            f"its own are {np.sqrt(found[2, 2]):.2f} mm apart.",
        )


def find(inputs: FindInputs, spec: FindingsSpec, output: Path, report: Reporter) -> dict[str, Any]:
    """Find anomalies in an NLL volume, without torch, and write their label map.

    Raises:
        SpatialARError: An input or the output cannot be used; nothing is written.
        Cancelled: Through `report`; nothing is written.
    """
    report.stage("find", 1, 1)
    check_names(output, [LABELS_FILE], overwrite=False)
    ras_from_voxel = affine_array(inputs.ras_from_voxel)
    check_ras_from_voxel(ras_from_voxel)
    nll = read_nll(Path(inputs.nll))
    threshold = inputs.calibration.threshold(spec.false_positive_rate)
    findings, box = find_in_box(
        nll, ras_from_voxel, inputs.calibration, threshold, spec.min_volume_ml
    )
    report.check_cancelled()
    if spec.refine_outlines:
        if inputs.voxels is None or inputs.token_mm is None:
            raise SpecError("spec-value", "To refine outlines, voxels and token_mm must be given.")
        volume = finite_scan(Volume(read_voxels(Path(inputs.voxels)), ras_from_voxel))
        check_same_size(nll.shape, volume.voxels, "scan")
        findings, box = refine(findings, box, nll, volume, threshold, inputs.token_mm, report)
    write_arrays(output, _label_file(box))
    return _common_values(output, findings, box, inputs.calibration, spec)


def finding_values(finding: Finding) -> dict[str, Any]:
    """Return a row of the findings table with the voxel index (i, j, k) of the peak."""
    return finding_row(finding) | {"peak_ijk": list(finding.peak_ijk)}


def _label_file(box: LabelBox | None) -> dict[str, UInt16[np.ndarray, "k j i"]]:
    """Return the part of the label map that holds all findings, by the name of its file."""
    return {} if box is None else {LABELS_FILE: box.labels}


def _common_values(
    output: Path,
    findings: list[Finding],
    box: LabelBox | None,
    calibration: Calibration,
    spec: FindingsSpec,
) -> dict[str, Any]:
    """Return the values that the results of `detect` and `find` have in common."""
    return label_values(output, box) | {
        "findings": [finding_values(finding) for finding in findings],
        "threshold_nll": calibration.threshold(spec.false_positive_rate),
        "false_positive_rate": spec.false_positive_rate,
        "supported": calibration.supports(spec.false_positive_rate),
    }


def label_values(output: Path, box: LabelBox | None) -> dict[str, Any]:
    """Return the file of the label map, and its place in the scan."""
    return {
        "files": {"labels": None if box is None else str(output / LABELS_FILE)},
        "labels_start_kji": None if box is None else list(box.start_kji),
    }
