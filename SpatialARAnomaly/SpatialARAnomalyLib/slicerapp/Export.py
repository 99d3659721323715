"""A result as files: label map, segmentation, table and NLL volume, together or one of them."""

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from .Detection import Outcome, outcomeOf, placeBeside
from .ErrorWords import asUserError
from .FindingsTable import COLUMNS, REJECTED, Row, readRows
from .NllFiles import NllFiles
from .NodeConversion import rasFromVoxel
from .Result import Result
from .Segments import binaryLabelmap, labelArray, newSegmentation, rankOf, segmentId
from .WorkerProcess import WorkerProcess
from .WorkFolder import WorkFolder

LABELS_FILE = "labels.npy"

ALIGNED = 0.01
"""Voxels of two grids that lie within this share of a voxel are the same."""


class ExportFormat(Enum):
    """What can be exported; the value names the worker's formats."""

    EVERYTHING = ("labels_nifti", "segmentation", "findings", "nll")
    LABELS_NIFTI = ("labels_nifti",)
    LABELS_NRRD = ("labels_nrrd",)
    SEGMENTATION = ("segmentation",)
    FINDINGS = ("findings",)
    NLL = ("nll",)
    DICOM_SEG = ("dicom_seg",)

    def label(self) -> str:
        """The format in the user's words."""
        return {
            ExportFormat.EVERYTHING: _("Everything (NIfTI, .seg.nrrd, CSV, NRRD)"),
            ExportFormat.LABELS_NIFTI: _("Label map (NIfTI)"),
            ExportFormat.LABELS_NRRD: _("Label map (NRRD)"),
            ExportFormat.SEGMENTATION: _("Segmentation (.seg.nrrd)"),
            ExportFormat.FINDINGS: _("Findings (CSV)"),
            ExportFormat.NLL: _("NLL volume (NRRD)"),
            ExportFormat.DICOM_SEG: _("DICOM SEG"),
        }[self]


def fileName(name: str) -> str:
    """A node's name as one that every file system takes."""
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "scan"


class Export:
    """Writes one result through the worker, on the scan's own grid; all files appear at once.

    Edited segments are exported as they are now; rejected ones only if `withRejected`.
    """

    def __init__(
        self,
        result: Result,
        format_: ExportFormat,
        folder: Path,
        worker: WorkerProcess,
        files: NllFiles,
        onEnd: Callable[[Outcome, list[Path]], None],
        *,
        withRejected: bool,
        overwrite: bool,
    ) -> None:
        self._worker = worker
        self._onEnd = onEnd
        self._work = WorkFolder()
        scan = result.scan if result.scan is not None else result.volume
        rows = readRows(result.table)
        skipped = set() if withRejected else _rejected(rows)
        try:
            labels, start, segments = exportedSegments(result, skipped)
            np.save(self._work.path / LABELS_FILE, labels, allow_pickle=False)
        except BaseException:
            self._work.remove()
            raise
        request = {
            "labels": str(self._work.path / LABELS_FILE),
            "labels_start_kji": start,
            "size_kji": list(slicer.util.arrayFromVolume(result.volume).shape),
            "nll": None,
            "ras_from_voxel": rasFromVoxel(result.volume).tolist(),
            "findings": rows,
            "columns": list(COLUMNS),
            "segments": segments,
        }
        spec = {
            "formats": list(format_.value),
            "name": fileName(scan.GetName()),
            "overwrite": overwrite,
        }

        def submit(nll: Path | None) -> None:
            worker.submit(
                "export",
                inputs=request | {"nll": str(nll) if nll is not None else None},
                spec=spec,
                output=folder,
                onEnd=self._answered,
            )

        def provided(file: Path | None, error: Exception | None) -> None:
            if file is not None:
                submit(file)
            else:
                self._end(Outcome(error=asUserError(error) if error is not None else None), [])

        if "nll" not in format_.value:
            submit(None)
            return
        try:
            files.provide(result.volume, provided)
        except OSError as problem:  # no folder for its file
            provided(None, problem)

    def _answered(self, event: dict[str, Any]) -> None:
        if event["event"] == "result":
            self._end(Outcome(), [Path(file) for file in event["files"].values()])
        else:
            self._end(outcomeOf(event), [])

    def _end(self, outcome: Outcome, files: list[Path]) -> None:
        self._work.remove()
        self._onEnd(outcome, files)


def _rejected(rows: Sequence[Row]) -> set[str]:
    """The segments of rejected findings."""
    return {segmentId(row["rank"]) for row in rows if row["status"] == REJECTED}


def exportedSegments(
    result: Result, skipped: set[str]
) -> tuple[np.ndarray, list[int], list[dict[str, Any]]]:
    """Label map [k, j, i] on the result's grid, where it begins in it, and its segments.

    A finding's value is its rank; segments that a user added get the numbers after.
    """
    segmentation = result.segmentation
    container = segmentation.GetSegmentation() if segmentation is not None else None
    count = container.GetNumberOfSegments() if container is not None else 0
    ids = [container.GetNthSegmentID(index) for index in range(count)]
    ids = [segment for segment in ids if segment not in skipped]
    if not ids:
        return np.zeros((1, 1, 1), np.uint16), [0, 0, 0], []
    values = _values(ids)
    labels, start = _mergedLabels(result, values)
    segments = [
        {
            "value": value,
            "id": segment,
            "name": container.GetSegment(segment).GetName(),
            "color": list(container.GetSegment(segment).GetColor()),
        }
        for segment, value in values.items()
    ]
    return labels, start, segments


def _values(ids: Sequence[str]) -> dict[str, int]:
    """The label value of every segment."""
    ranks = {segment: rank for segment in ids if (rank := rankOf(segment)) is not None}
    others = [segment for segment in ids if segment not in ranks]
    first = max(ranks.values(), default=0) + 1
    return ranks | {segment: first + index for index, segment in enumerate(others)}


def _mergedLabels(result: Result, values: dict[str, int]) -> tuple[np.ndarray, list[int]]:
    """The segments as one label map on the result's grid, cropped to them; its start [k, j, i].

    Segment by segment, as Slicer's own merging does it, hundreds of findings
    on a large scan would take minutes; most share one image, which is one look-up.
    """
    size = np.asarray(slicer.util.arrayFromVolume(result.volume).shape)
    layers = [
        _onGrid(*layer, rasFromVoxel(result.volume), size) for layer in _layers(result, values)
    ]
    layers = [(labels, start) for labels, start in layers if labels.size]
    if not layers:
        return np.zeros((1, 1, 1), np.uint16), [0, 0, 0]
    low = np.min([start for _labels, start in layers], axis=0)
    high = np.max([start + labels.shape for labels, start in layers], axis=0)
    merged = np.zeros(high - low, np.uint16)
    for labels, start in layers:
        box = tuple(
            slice(int(a), int(b))
            for a, b in zip(start - low, start - low + labels.shape, strict=True)
        )
        # Where segments overlap, the later layer is seen, as in Slicer's views.
        np.copyto(merged[box], labels, where=labels > 0)
    return merged, low.tolist()


def _layers(result: Result, values: dict[str, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Label maps of the segments with their final values, and the affine of each."""
    container = result.segmentation.GetSegmentation()
    shared: dict[object, list[str]] = {}
    for segment in values:
        image = container.GetSegment(segment).GetRepresentation(binaryLabelmap())
        if image is not None:
            shared.setdefault(image, []).append(segment)
    for image, segments in shared.items():
        labels, affine = labelArray(image)
        if not labels.size:
            continue
        final = np.zeros(int(labels.max()) + 1, np.uint16)
        for segment in segments:
            value = container.GetSegment(segment).GetLabelValue()
            if value < final.size:
                final[value] = values[segment]
        yield final[labels], affine


def _onGrid(
    labels: np.ndarray, affine: np.ndarray, gridAffine: np.ndarray, sizeKji: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A label map on another grid, cropped to its labels and to the grid; where it begins there."""
    gridFromVoxel = np.linalg.inv(gridAffine) @ affine
    used = _box(labels)
    if used is None:
        return labels[:0], np.zeros(3, int)
    offset = gridFromVoxel[2::-1, 3]
    aligned = np.abs(gridFromVoxel[:3, :3] - np.eye(3)).max() * max(labels.shape) < ALIGNED
    if aligned and np.abs(offset - np.rint(offset)).max() < ALIGNED:
        labels, start = labels[used], np.rint(offset).astype(int) + [one.start for one in used]
    else:
        labels, start = _resampled(labels, gridFromVoxel, sizeKji), np.zeros(3, int)
    low, high = np.maximum(-start, 0), np.minimum(sizeKji - start, labels.shape)
    if (low >= high).any():
        return labels[:0], start
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return labels[box], start + low


def _resampled(labels: np.ndarray, gridFromVoxel: np.ndarray, sizeKji: np.ndarray) -> np.ndarray:
    """A label map painted on a grid of the user's own: the nearest voxel counts.

    Slice by slice, since the places of all voxels would take gigabytes.
    """
    voxelFromGrid = np.linalg.inv(gridFromVoxel)
    resampled = np.zeros(tuple(sizeKji), labels.dtype)
    j, i = np.indices(tuple(sizeKji[1:])).reshape(2, -1)
    for k, one in enumerate(resampled):
        ijk1 = np.stack([i, j, np.full_like(i, k), np.ones_like(i)])
        nearest = np.rint(voxelFromGrid @ ijk1).astype(int)[2::-1]
        inside = ((nearest >= 0) & (nearest < np.array(labels.shape)[:, None])).all(axis=0)
        one.reshape(-1)[inside] = labels[tuple(nearest[:, inside])]
    return resampled


def _box(labels: np.ndarray) -> tuple[slice, slice, slice] | None:
    """The box of what is not zero."""
    used = [np.flatnonzero(labels.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    if not used[0].size:
        return None
    k, j, i = (slice(int(one[0]), int(one[-1]) + 1) for one in used)
    return k, j, i


def dicomSegProblem(result: Result) -> str | None:
    """Why the result cannot be exported as DICOM SEG, as a sentence; None if it can."""
    scan = result.scan
    if scan is None or not scan.GetAttribute("DICOM.instanceUIDs"):
        return _("DICOM SEG needs a scan that was loaded from Slicer's DICOM database.")
    if getattr(slicer, "dicomDatabase", None) is None:
        return _("DICOM SEG needs Slicer's DICOM database, which is not open.")
    if (
        result.segmentation is None
        or result.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    ):
        return _("DICOM SEG needs at least one finding.")
    try:
        import DICOMSegmentationPlugin  # noqa: F401
    except ImportError:
        return _("DICOM SEG needs Slicer's DICOM segmentation exporter, which is not installed.")
    return None


def exportDicomSeg(result: Result, folder: Path, *, withRejected: bool) -> None:
    """Write DICOM SEG by Slicer's own exporter; raises `OSError` with what it says.

    The exporter writes a whole segmentation: without the rejected findings it is another one.
    """
    segmentation = result.segmentation
    skipped = set() if withRejected else _rejected(readRows(result.table))
    segments = segmentation.GetSegmentation()
    kept = [
        (segment, segments.GetSegment(segment))
        for index in range(segments.GetNumberOfSegments())
        if (segment := segments.GetNthSegmentID(index)) not in skipped
    ]
    if not kept:
        raise OSError(_("All findings were rejected; there is none to write."))
    folder.mkdir(parents=True, exist_ok=True)
    if len(kept) == segments.GetNumberOfSegments():
        _writeDicomSeg(segmentation, folder)
        return
    part = newSegmentation(segmentation.GetName(), result.scan)
    placeBeside(part, result.scan)
    try:
        images = {}  # one copy of what segments share
        for segment, original in kept:
            image = original.GetRepresentation(binaryLabelmap())
            if image is None:
                continue
            if image not in images:
                images[image] = slicer.vtkOrientedImageData()
                images[image].DeepCopy(image)
            copied = slicer.vtkSegment()
            copied.DeepCopyMetadata(original)
            copied.SetLabelValue(original.GetLabelValue())
            copied.AddRepresentation(binaryLabelmap(), images[image])
            part.GetSegmentation().AddSegment(copied, segment)
        _writeDicomSeg(part, folder)
    finally:
        slicer.mrmlScene.RemoveNode(part)


def _writeDicomSeg(segmentation: "slicer.vtkMRMLSegmentationNode", folder: Path) -> None:
    import DICOMSegmentationPlugin

    plugin = DICOMSegmentationPlugin.DICOMSegmentationPluginClass()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    exportables = plugin.examineForExport(hierarchy.GetItemByDataNode(segmentation))
    if not exportables:
        raise OSError(_("The DICOM files of the scan are no longer in the database."))
    for exportable in exportables:
        exportable.directory = str(folder)
    problem = plugin.export(exportables)  # says nothing when all is well
    if problem:
        raise OSError(problem)
