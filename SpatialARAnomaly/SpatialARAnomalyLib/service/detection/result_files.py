"""The files of a detection: volumes, segmentation, table, picture and manifest."""

import dataclasses
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.scoring.findings import Finding
from SpatialARAnomalyLib.engine.volumes.files import (
    write_nifti_labels,
    write_nrrd,
)
from SpatialARAnomalyLib.service.detection.findings_table import (
    FINDING_COLUMNS,
    finding_row,
    rank_color,
    write_table,
)
from SpatialARAnomalyLib.service.detection.review_picture import write_review
from SpatialARAnomalyLib.service.detection.segmentation_file import (
    Segment,
    write_segmentation,
)
from SpatialARAnomalyLib.service.setup.packages import installed_version
from SpatialARAnomalyLib.service.text import RESEARCH_NOTICE

if TYPE_CHECKING:
    from SpatialARAnomalyLib.service.detection.find_anomalies import Detection

RESULT_SUFFIXES = {
    "nll": "_nll.nrrd",
    "segmentation": "_anomalies.seg.nrrd",
    "labels": "_labels.nii.gz",
    "findings": "_findings.csv",
    "review": "_review.png",
}
"""What a detection writes: kind, and what follows the scan's name."""

RUN_FILE = "run.json"
"""The manifest of the run."""

_PACKAGES = ("numpy", "torch", "transformers", "SimpleITK", "nibabel", "scipy")


def result_names(name: str) -> dict[str, str]:
    """The files of a detection of a scan of this name, by what they hold."""
    return {kind: name + suffix for kind, suffix in RESULT_SUFFIXES.items()} | {"run": RUN_FILE}


def write_results(
    detection: "Detection", folder: Path, files: dict[str, str], report: Reporter
) -> None:
    """Write all files of a detection into `folder`, under the names of `files`."""
    ras_from_voxel = detection.volume.ras_from_voxel
    writers: dict[str, Callable[[Path], None]] = {
        "nll": lambda path: write_nrrd(path, detection.nll, ras_from_voxel),
        "segmentation": lambda path: write_segmentation(
            path, detection.labels, ras_from_voxel, _segments(detection.findings)
        ),
        "labels": lambda path: write_nifti_labels(path, detection.labels, ras_from_voxel),
        "findings": lambda path: write_table(
            path, FINDING_COLUMNS, [finding_row(finding) for finding in detection.findings]
        ),
        "review": lambda path: write_review(path, detection),
        "run": lambda path: _write_manifest(path, detection, files),
    }
    for done, (kind, write) in enumerate(writers.items(), start=1):
        report.check_cancelled()
        write(folder / files[kind])
        report.progress(done, len(writers), "file")


def _segments(findings: list[Finding]) -> list[Segment]:
    """One segment per finding."""
    return [
        Segment(
            value=finding.rank,
            id=f"Finding_{finding.rank}",
            name=f"Finding {finding.rank}",
            color=rank_color(finding.rank),
        )
        for finding in findings
    ]


def _write_manifest(path: Path, detection: "Detection", files: dict[str, str]) -> None:
    """Write what was run on what with which result; no name of a scan or patient, no path."""
    card = detection.card
    k, j, i = detection.nll.shape
    manifest = {
        "program": "SpatialARAnomaly",
        "version": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "notice": RESEARCH_NOTICE,
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
        "device": detection.device,
        "false_positive_rate": detection.spec.false_positive_rate,
        "threshold_nll": detection.threshold_nll,
        **case_values(detection),
        "min_volume_ml": detection.spec.min_volume_ml,
        "outside_nll": detection.outside_nll,
        "nll_unit": "nats per channel",
        "findings": [finding_row(finding) for finding in detection.findings],
        "outputs": {
            kind: f"<name>{RESULT_SUFFIXES[kind]}" if kind in RESULT_SUFFIXES else file
            for kind, file in files.items()
        },
        "seconds": detection.seconds,
        "packages": {package: installed_version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def case_values(detection: "Detection") -> dict[str, Any]:
    """What is said of the scan as a whole, and of the rate of its threshold."""
    calibration = detection.calibration
    interval = calibration.rate_interval(detection.spec.false_positive_rate)
    return {
        "case_score": detection.case_score,
        "case_p_value": detection.case_p_value,
        "held_out_normals": calibration.volumes,
        "rate_interval": None if interval is None else dataclasses.asdict(interval),
        "rough": calibration.is_rough,
    }


def as_result(detection: "Detection", files: dict[str, Path]) -> dict[str, Any]:
    """What the `result` event of a detection says."""
    return {
        "threshold_nll": detection.threshold_nll,
        **case_values(detection),
        "findings": [finding_row(finding) for finding in detection.findings],
        "files": {kind: str(path) for kind, path in files.items()},
    }
