"""The job `export`: reviewed findings in the formats of other programs."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, UInt16

from SpatialARAnomalyLib.engine.errors import InputError, SpecError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.scoring.findings import LabelBox
from SpatialARAnomalyLib.engine.specs import FindingsSpec, Spec
from SpatialARAnomalyLib.engine.volumes.dicom import read_series
from SpatialARAnomalyLib.engine.volumes.dicom_series import choose_series, list_series
from SpatialARAnomalyLib.engine.volumes.files import write_nifti_labels, write_nrrd
from SpatialARAnomalyLib.engine.volumes.geometry import check_ras_from_voxel
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.array_files import (
    Affine,
    Three,
    affine_array,
    check_same_size,
    read_labels,
    read_nll,
    read_voxels,
)
from SpatialARAnomalyLib.service.csv_files import write_table
from SpatialARAnomalyLib.service.detection.dicom_results import reviewed_segmentation
from SpatialARAnomalyLib.service.detection.dicom_source import read_source, require_dicom_packages
from SpatialARAnomalyLib.service.detection.report import (
    ReportFacts,
    case_from_facts,
    write_report,
)
from SpatialARAnomalyLib.service.detection.segmentation_file import Segment, write_segmentation
from SpatialARAnomalyLib.service.outputs import write_atomically, write_each

VOXEL_TOLERANCE = 0.1
"""Distance that is rounding, between a voxel and that of the images, in voxels."""


class ExportFormat(StrEnum):
    """File formats."""

    LABELS_NIFTI = "labels_nifti"
    LABELS_NRRD = "labels_nrrd"
    SEGMENTATION = "segmentation"
    FINDINGS = "findings"
    NLL = "nll"
    REPORT = "report"
    DICOM_SEG = "dicom_seg"


SUFFIXES = {
    ExportFormat.LABELS_NIFTI: "_labels.nii.gz",
    ExportFormat.LABELS_NRRD: "_labels.nrrd",
    ExportFormat.SEGMENTATION: "_anomalies.seg.nrrd",
    ExportFormat.FINDINGS: "_findings.csv",
    ExportFormat.NLL: "_nll.nrrd",
    ExportFormat.REPORT: "_report.html",
    ExportFormat.DICOM_SEG: "_seg.dcm",
}
"""Endings of the files' names, after the name of the scan."""


@dataclass(frozen=True, kw_only=True)
class DicomFacts(Spec):
    """The images that a result refers to, and what made it."""

    files: tuple[str, ...]
    """The DICOM files that the scan was loaded from."""
    volume: int | None = None
    """Number of the scan from 1, where these hold several volumes."""
    model: str
    weights_sha256: str
    false_positive_rate: float
    min_volume_ml: float


@dataclass(frozen=True, kw_only=True)
class ExportInputs(Spec):
    """Label map, findings and NLL volume."""

    labels: str | None = None
    """A `.npy` file of the part of the label map that holds all segments; None without segments."""
    labels_start_kji: Three = (0, 0, 0)
    size_kji: Three
    """Size of the scan in voxels."""
    nll: str | None = None
    """A `.npy` file of an array [k, j, i]."""
    ras_from_voxel: Affine
    findings: tuple[dict[str, Any], ...] = ()
    """Rows of the table of findings."""
    columns: tuple[str, ...] = ()
    """Columns of the table, in the order of the file."""
    segments: tuple[Segment, ...] = ()
    voxels: str | None = None
    """A `.npy` file of the scan [k, j, i]; needed, as the NLL and the next, for a report."""
    report: ReportFacts | None = None
    dicom: DicomFacts | None = None
    """What DICOM SEG needs."""

    def __post_init__(self) -> None:
        self._require(min(self.size_kji) > 0, "size_kji must be positive")
        for what in ("value", "id"):
            found = [getattr(segment, what) for segment in self.segments]
            self._require(len(set(found)) == len(found), f"no two segments may share a {what}")
        self._require(len(set(self.columns)) == len(self.columns), "columns must differ")


@dataclass(frozen=True, kw_only=True)
class ExportSpec(Spec):
    """Formats, and the name of the files."""

    formats: tuple[ExportFormat, ...] = tuple(
        one for one in ExportFormat if one not in ("nll", "report", "dicom_seg")
    )
    name: str = "scan"
    """Name of the scan, the beginning of the files' names."""
    overwrite: bool = False

    def __post_init__(self) -> None:
        self._require(
            len(set(self.formats)) == len(self.formats) >= 1,
            "formats must be at least one, each once",
        )
        self._require(bool(self.name.strip()), "name must not be empty")


def export(
    inputs: ExportInputs, spec: ExportSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Write the files.

    Raises:
        SpatialARError: The inputs do not fit together, or the output cannot be used; nothing
            is written.
        Cancelled: Through `report`; nothing is written.
    """
    report.stage("write", 1, 1)
    ras_from_voxel = affine_array(inputs.ras_from_voxel)
    check_ras_from_voxel(ras_from_voxel)
    labels = _whole_labels(inputs)
    writers: dict[ExportFormat, Callable[[Path], None]] = {
        ExportFormat.LABELS_NIFTI: lambda path: write_nifti_labels(path, labels, ras_from_voxel),
        ExportFormat.LABELS_NRRD: lambda path: write_nrrd(path, labels, ras_from_voxel),
        ExportFormat.SEGMENTATION: lambda path: write_segmentation(
            path, labels, ras_from_voxel, inputs.segments
        ),
        ExportFormat.FINDINGS: lambda path: write_table(path, inputs.columns, inputs.findings),
        ExportFormat.NLL: lambda path: _write_nll(path, inputs),
        ExportFormat.REPORT: lambda path: _write_report(path, inputs, labels),
        ExportFormat.DICOM_SEG: lambda path: _write_dicom_seg(path, inputs, labels, report),
    }
    names = {one: spec.name + SUFFIXES[one] for one in spec.formats}
    with write_atomically(output, list(names.values()), overwrite=spec.overwrite) as partial:
        write_each(partial, {name: writers[one] for one, name in names.items()}, report)
    return {"files": {one.value: str(output / name) for one, name in names.items()}}


def _whole_labels(inputs: ExportInputs) -> UInt16[np.ndarray, "k j i"]:
    """Return the label map on the scan's grid."""
    if inputs.labels is None:
        return np.zeros(inputs.size_kji, dtype=np.uint16)
    box = LabelBox(read_labels(Path(inputs.labels)), inputs.labels_start_kji)
    ends = [a + b for a, b in zip(box.start_kji, box.labels.shape, strict=True)]
    if min(box.start_kji) < 0 or any(a > b for a, b in zip(ends, inputs.size_kji, strict=True)):
        raise InputError("array-size", "The label map must lie within the scan; it does not.")
    return box.on_grid(inputs.size_kji)


def _read_nll(inputs: ExportInputs) -> Float[np.ndarray, "k j i"]:
    if inputs.nll is None:
        raise InputError(
            "nll-missing", "The NLL volume is to be written, and is not among the inputs."
        )
    nll = read_nll(Path(inputs.nll))
    check_same_size(inputs.size_kji, nll)
    return nll


def _write_nll(path: Path, inputs: ExportInputs) -> None:
    write_nrrd(path, _read_nll(inputs), affine_array(inputs.ras_from_voxel))


def _write_report(path: Path, inputs: ExportInputs, labels: UInt16[np.ndarray, "k j i"]) -> None:
    facts = inputs.report
    if inputs.voxels is None or facts is None:
        raise SpecError("spec-value", "For a report, voxels and report must be given.")
    volume = Volume(
        read_voxels(Path(inputs.voxels)), affine_array(inputs.ras_from_voxel), facts.modality
    )
    nll = _read_nll(inputs)
    check_same_size(nll.shape, volume.voxels, "scan")
    case = case_from_facts(volume, nll, labels, inputs.findings, facts)
    write_report(path, case, facts.title, facts.space)


def _write_dicom_seg(
    path: Path, inputs: ExportInputs, labels: UInt16[np.ndarray, "k j i"], report: Reporter
) -> None:
    facts = inputs.dicom
    if facts is None or not inputs.segments:
        raise SpecError("spec-value", "For DICOM SEG, dicom and segments must be given.")
    require_dicom_packages(["highdicom"])
    series = choose_series(
        list_series([Path(one) for one in facts.files], report.check_cancelled), None
    )
    volume = read_series(series, report.check_cancelled, volume=facts.volume)
    result = reviewed_segmentation(
        labels_on_images(labels, affine_array(inputs.ras_from_voxel), volume),
        inputs.segments,
        facts.model,
        facts.weights_sha256,
        FindingsSpec(
            false_positive_rate=facts.false_positive_rate, min_volume_ml=facts.min_volume_ml
        ),
        read_source(volume),
    )
    result.save_as(path, enforce_file_format=True)


def labels_on_images(
    labels: UInt16[np.ndarray, "k j i"], ras_from_voxel: Float64[np.ndarray, "4 4"], volume: Volume
) -> UInt16[np.ndarray, "K J I"]:
    """Return a label map on the grid of the images that its scan was loaded from.

    The scan's axes may be in another order or direction, and it may be a part of the images.
    Raises `InputError` where its voxels are not those of the images.
    """
    to_images = np.linalg.inv(volume.ras_from_voxel) @ ras_from_voxel
    steps = np.rint(to_images)
    ends = np.array([0.0, 1.0])[:, None] * (np.array(labels.shape[::-1]) - 1)
    corners = np.array([[*one, 1.0] for one in itertools.product(*ends.T)]).T
    apart = np.abs((to_images - steps) @ corners).max()
    if apart > VOXEL_TOLERANCE or not (np.abs(steps[:3, :3]).sum(axis=0) == 1).all():
        raise InputError(
            "dicom-grid",
            "Expected the scan on the grid of its DICOM images; its voxels lie between theirs.",
        )
    k, j, i = np.nonzero(labels)
    places = (steps[:3, :3] @ [i, j, k] + steps[:3, 3:]).astype(int)[::-1]
    size = np.array(volume.voxels.shape)[:, None]
    inside = ((places >= 0) & (places < size)).all(axis=0)
    placed = np.zeros(volume.voxels.shape, np.uint16)
    placed[tuple(places[:, inside])] = labels[k, j, i][inside]
    return placed
