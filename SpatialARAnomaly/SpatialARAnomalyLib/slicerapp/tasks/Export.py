"""A result as files: label map, segmentation, table and NLL volume, together or one of them."""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
    COLUMNS,
    REJECTED,
    Row,
    readRows,
)
from SpatialARAnomalyLib.slicerapp.scene.LabelsOnGrid import mergeLabels
from SpatialARAnomalyLib.slicerapp.scene.NllFiles import NllFiles
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    rasFromVoxel,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.Segments import (
    binaryLabelmap,
    addSegmentation,
    rankOf,
    segmentId,
)
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    Outcome,
    outcomeOf,
    placeBeside,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

LABELS_FILE = "labels.npy"


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
            labels, start, segments = collectSegments(result, skipped)
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


def collectSegments(
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
    labels, start = mergeLabels(
        segmentation, values, rasFromVoxel(result.volume), voxelsOf(result.volume).shape
    )
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


def nameDicomSegProblem(result: Result) -> str | None:
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
    part = addSegmentation(segmentation.GetName(), result.scan)
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
