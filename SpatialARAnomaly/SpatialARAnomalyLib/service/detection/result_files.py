"""A detection from a scan's file to its result files.

They are the NLL volume, the segmentation, the label map, the table, the picture and the manifest.
"""

import dataclasses
import json
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.device import require_torch, start_imports
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.file_names import make_file_name
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.volumes.files import write_nifti_labels, write_nrrd
from SpatialARAnomalyLib.service.csv_files import write_table
from SpatialARAnomalyLib.service.detection.detect import (
    Clock,
    Detection,
    DetectSpec,
    detect,
    prepare_scan,
)
from SpatialARAnomalyLib.service.detection.dicom_results import DICOM_KINDS, SEG, dicom_results
from SpatialARAnomalyLib.service.detection.dicom_source import (
    SourceImages,
    read_source,
    require_dicom_packages,
)
from SpatialARAnomalyLib.service.detection.findings_table import (
    FINDING_COLUMNS,
    finding_row,
)
from SpatialARAnomalyLib.service.detection.model_cache import MODELS
from SpatialARAnomalyLib.service.detection.report import write_report
from SpatialARAnomalyLib.service.detection.review_case import case_of
from SpatialARAnomalyLib.service.detection.review_picture import write_review
from SpatialARAnomalyLib.service.detection.segmentation_file import (
    finding_segment,
    write_segmentation,
)
from SpatialARAnomalyLib.service.outputs import write_atomically, write_each
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.setup.packages import installed_version
from SpatialARAnomalyLib.service.text import RESEARCH_NOTICE

RESULT_SUFFIXES = {
    "nll": "_nll.nrrd",
    "segmentation": "_anomalies.seg.nrrd",
    "labels": "_labels.nii.gz",
    "findings": "_findings.csv",
    "review": "_review.png",
    "report": "_report.html",
    "dicom_seg": "_seg.dcm",
    "dicom_nll": "_nll.dcm",
    "dicom_review": "_review.dcm",
    "dicom_report": "_report.dcm",
}
"""Ends of the result files' names after the name of the scan, by kind."""

RUN_FILE = "run.json"
"""Name of the manifest."""

_PACKAGES = ("numpy", "torch", "transformers", "SimpleITK", "nibabel", "scipy")


@dataclass(frozen=True, kw_only=True)
class ResultsSpec(DetectSpec):
    """Settings of a detection from a scan's file to its result files."""

    model: Path
    """The model's file."""
    name: str | None = None
    """Name of the result files; by default that of the scan."""
    report: bool = False
    """Also write the report."""
    title: str = ""
    """Title of the report; by default one without a name."""
    dicom: bool = False
    """Also write the results as DICOM; the scan must be DICOM."""
    overwrite: bool = False
    """Replace existing results of the same name."""


def detect_scan(
    inputs: ScanSource, spec: ResultsSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Do the worker's job `detect_scan`; raises as `detect_to_files` does."""
    detection, files = detect_to_files(inputs, spec, output, report)
    return as_result(detection, files)


def detect_to_files(
    scan: ScanSource, spec: ResultsSpec, output: Path, report: Reporter
) -> tuple[Detection, dict[str, Path]]:
    """Detect anomalies in a scan and write the result files into `output`; return them by kind.

    The model is kept in memory for the next detection in this process.

    Raises:
        SpatialARError: The scan, model or output cannot be used; nothing is written.
        Cancelled: Through `report`; nothing is written.
    """
    if spec.name is not None and not spec.name.strip():
        raise SpecError("name-empty", "The name of the results must not be empty.")
    require_torch()
    if spec.dicom:
        require_dicom_packages()
    clock = Clock()
    report.stage("read", 1, 4)
    card = read_card(spec.model)
    start_imports()  # while the scan is read
    name, volume = scan.read(report.check_cancelled, report)
    prepared = prepare_scan(volume, card, spec.allow_mismatch, report)
    images = read_source(volume) if spec.dicom else None
    name = make_file_name(name) if spec.name is None else spec.name
    files = result_names(name, spec.report, spec.dicom)
    with write_atomically(
        output,
        list(files.values()),
        overwrite=spec.overwrite,
        optional=[files[SEG]] if spec.dicom else [],
    ) as new:
        model = MODELS.load(
            spec.model, spec.device, encoder=spec.encoder, allow_download=spec.allow_download
        )
        clock.lap("read")
        detection = detect(prepared, model, spec, report=report, clock=clock)
        report.stage("write", 4, 4)
        if spec.dicom and not detection.findings:
            del files[SEG]  # a segmentation has at least one segment
        write_results(detection, new, files, report, spec.title, images)
    return detection, {kind: output / file for kind, file in files.items()}


def result_names(name: str, report: bool = False, dicom: bool = False) -> dict[str, str]:
    """Return the names of the result files of a scan, by kind."""
    left_out = {"report"} if not report else set()
    left_out |= set(DICOM_KINDS) if not dicom else set()
    kinds = {kind: name + end for kind, end in RESULT_SUFFIXES.items() if kind not in left_out}
    return kinds | {"run": RUN_FILE}


def write_results(
    detection: Detection,
    folder: Path,
    files: dict[str, str],
    report: Reporter,
    title: str = "",
    images: SourceImages | None = None,
) -> None:
    """Write the result files `files` (name by kind) of a detection into `folder`.

    `images` are the scan's own, where results are written as DICOM.
    """
    ras_from_voxel = detection.volume.ras_from_voxel
    case = case_of(detection)
    writers: dict[str, Callable[[Path], object]] = {
        "nll": lambda path: write_nrrd(path, detection.nll, ras_from_voxel),
        "segmentation": lambda path: write_segmentation(
            path,
            detection.labels,
            ras_from_voxel,
            [finding_segment(one.rank) for one in detection.findings],
        ),
        "labels": lambda path: write_nifti_labels(
            path,
            detection.labels,
            ras_from_voxel,
            is_stated=detection.volume.is_oriented,
            unit_mm=detection.volume.unit_mm,
        ),
        "findings": lambda path: write_table(
            path, FINDING_COLUMNS, [finding_row(finding) for finding in detection.findings]
        ),
        "review": lambda path: write_review(path, case),
        "report": lambda path: write_report(path, case, title),
        "run": lambda path: _write_manifest(path, detection, files),
    }
    if images is not None:
        for kind, data_set in dicom_results(detection, case, images).items():
            writers[kind] = partial(data_set.save_as, enforce_file_format=True)
    write_each(folder, {file: writers[kind] for kind, file in files.items()}, report)


def _write_manifest(path: Path, detection: Detection, files: dict[str, str]) -> None:
    """Write versions, settings, hashes and results; no name of a scan or patient, no path."""
    card = detection.card
    k, j, i = detection.nll.shape
    manifest = {
        **run_values(_PACKAGES),
        "input": {
            "sha256": detection.volume.content_sha256(),
            "size_ijk": [i, j, k],
            "spacing_mm": list(detection.volume.spacing_mm),
        },
        "model": {
            "name": card.name,
            "weights_sha256": card.weights_sha256,
            "encoder": card.encoder.name,
            "encoder_weights_sha256": card.encoder.weights_sha256,
            "encoder_precision": card.encoder.precision.value,
            "encoder_notice": card.encoder.notice,
        },
        "mismatches_allowed": list(detection.mismatches),
        "region": region_values(detection),
        **detection.caution_values(),
        "device": detection.device,
        "false_positive_rate": detection.spec.false_positive_rate,
        "threshold_nll": detection.threshold_nll,
        **case_values(detection),
        "min_volume_ml": detection.spec.min_volume_ml,
        "refine_outlines": detection.spec.refine_outlines,
        "outside_nll": detection.outside_nll,
        "nll_unit": "nats per channel",
        "findings": [finding_row(finding) for finding in detection.findings],
        "outputs": {
            kind: f"<name>{RESULT_SUFFIXES[kind]}" if kind in RESULT_SUFFIXES else file
            for kind, file in files.items()
        },
        "seconds": detection.seconds,
    }
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def run_values(packages: Iterable[str]) -> dict[str, Any]:
    """Return versions, time and platform of a run, for its manifest."""
    return {
        "program": "SpatialARAnomaly",
        "version": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "notice": RESEARCH_NOTICE,
        "packages": {package: installed_version(package) for package in packages},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def region_values(detection: Detection) -> dict[str, Any]:
    """Return where the detection looked, and what a user should know about it."""
    plane_volume = detection.stack.plane_volume
    return {
        "kind": detection.card.region.value,
        "masked": detection.volume.mask is not None,
        "volume_ml": float(np.count_nonzero(plane_volume.counted) * detection.volume.voxel_ml),
        "notices": [text for _, text in plane_volume.notices],
    }


def case_values(detection: Detection) -> dict[str, Any]:
    """Return the values of the case, and the interval of the threshold's false-positive rate."""
    calibration = detection.calibration
    interval = calibration.rate_interval(detection.spec.false_positive_rate)
    return {
        "case_score": detection.case_score,
        "case_p_value": detection.case_p_value,
        "held_out_normals": calibration.volumes,
        "rate_interval": None if interval is None else dataclasses.asdict(interval),
        "rough": calibration.is_rough,
    }


def as_result(detection: Detection, files: dict[str, Path]) -> dict[str, Any]:
    """Return the values of the `result` event of a detection."""
    return {
        "threshold_nll": detection.threshold_nll,
        **case_values(detection),
        **detection.caution_values(),
        "findings": [finding_row(finding) for finding in detection.findings],
        "files": {kind: str(path) for kind, path in files.items()},
    }
