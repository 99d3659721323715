"""The files of a detection: volumes, segmentation, table, picture and manifest."""

import csv
import json
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..engine.findings import Finding
from ..engine.geometry import LPS_FROM_RAS
from ..engine.progress import Reporter
from ..engine.volume_files import write_nifti_labels, write_nrrd
from .colors import rank_color
from .notices import RESEARCH_NOTICE
from .review_picture import write_review

if TYPE_CHECKING:
    from .detect_job import Detection

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

TERMINOLOGY: dict[str, Any] = {
    "contextName": "Segmentation category and type - DICOM master list",
    # SNOMED CT, DICOM PS3.16 CID 7150's carrier of what is not as it should be
    "category": ["SCT", "49755003", "Morphologically Altered Structure"],
    # DICOM PS3.16 annex D: says that a region is abnormal, and no more
    "type": ["DCM", "122451", "Abnormal Region"],
}
"""Neutral terms: a finding is never called more than is known of it."""

_PACKAGES = ("numpy", "torch", "transformers", "SimpleITK", "nibabel", "scipy")

FINDING_COLUMNS = (
    "rank",
    "volume_ml",
    "peak_nll",
    "mean_nll",
    "p_value",
    "centroid_r_mm",
    "centroid_a_mm",
    "centroid_s_mm",
    "peak_r_mm",
    "peak_a_mm",
    "peak_s_mm",
    "voxels",
)


def finding_row(finding: Finding) -> dict[str, float | int]:
    """A finding as a flat row of `FINDING_COLUMNS` (NLL in nats per channel, RAS mm)."""
    return dict(
        zip(
            FINDING_COLUMNS,
            (
                finding.rank,
                round(finding.volume_ml, 4),
                round(finding.peak_nll, 5),
                round(finding.mean_nll, 5),
                float(f"{finding.p_value:.4g}"),
                *(round(value, 3) for value in finding.centroid_ras),
                *(round(value, 3) for value in finding.peak_ras),
                finding.voxels,
            ),
            strict=True,
        )
    )


def write_results(
    detection: "Detection", folder: Path, files: dict[str, str], report: Reporter
) -> None:
    """Write all files of a detection into `folder`, under the names of `files`."""
    ras_from_voxel = detection.volume.ras_from_voxel
    writers: dict[str, Callable[[Path], None]] = {
        "nll": lambda path: write_nrrd(path, detection.nll, ras_from_voxel),
        "segmentation": lambda path: _write_segmentation(path, detection),
        "labels": lambda path: write_nifti_labels(path, detection.labels, ras_from_voxel),
        "findings": lambda path: _write_findings(path, detection.findings),
        "review": lambda path: write_review(path, detection),
        "run": lambda path: _write_manifest(path, detection, files),
    }
    for done, (kind, write) in enumerate(writers.items(), start=1):
        report.check_cancelled()
        write(folder / files[kind])
        report.progress(done, len(writers), "file")


def _write_segmentation(path: Path, detection: "Detection") -> None:
    """Write Slicer's segmentation format, one segment per finding."""
    import slicerio

    size_kji = detection.labels.shape
    segments = [
        {
            "id": f"Finding_{finding.rank}",
            "name": f"Finding {finding.rank}",
            "color": list(rank_color(finding.rank)),
            "labelValue": finding.rank,
            "layer": 0,
            "extent": [bound for size in size_kji[::-1] for bound in (0, size - 1)],
            "terminology": TERMINOLOGY,
        }
        for finding in detection.findings
    ]
    segmentation = {
        "voxels": detection.labels.T,
        "ijkToLPS": LPS_FROM_RAS @ detection.volume.ras_from_voxel,
        "containedRepresentationNames": ["Binary labelmap"],
        "segments": segments,
    }
    slicerio.write_segmentation(str(path), segmentation)


def _write_findings(path: Path, findings: list[Finding]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FINDING_COLUMNS)
        writer.writeheader()
        writer.writerows(finding_row(finding) for finding in findings)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
            "encoder_notice": card.encoder.notice,
        },
        "mismatches_allowed": list(detection.mismatches),
        "device": detection.device,
        "false_positive_rate": detection.spec.false_positive_rate,
        "threshold_nll": detection.threshold_nll,
        "min_volume_ml": detection.spec.min_volume_ml,
        "outside_nll": detection.outside_nll,
        "nll_unit": "nats per channel",
        "findings": [finding_row(finding) for finding in detection.findings],
        "outputs": {
            kind: f"<name>{RESULT_SUFFIXES[kind]}" if kind in RESULT_SUFFIXES else file
            for kind, file in files.items()
        },
        "seconds": detection.seconds,
        "packages": {package: _version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
    }
    path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def as_result(detection: "Detection", files: dict[str, Path]) -> dict[str, Any]:
    """What the `result` event of a detection says."""
    return {
        "threshold_nll": detection.threshold_nll,
        "findings": [finding_row(finding) for finding in detection.findings],
        "files": {kind: str(path) for kind, path in files.items()},
    }
