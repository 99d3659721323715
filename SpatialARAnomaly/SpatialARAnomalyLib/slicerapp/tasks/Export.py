"""Export of a result: label map, segmentation, table and NLL volume, together or one of them."""

import re
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.engine.file_names import make_file_name
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import COLUMNS, REJECTED, Row, readRows
from SpatialARAnomalyLib.slicerapp.scene.LabelsOnGrid import mergeLabels
from SpatialARAnomalyLib.slicerapp.scene.NllFiles import NllFiles
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    DICOM_INSTANCES,
    dicomFilesOf,
    dicomVolumeOf,
    rasFromVoxel,
    sceneFromLocal,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.Segments import (
    addSegmentation,
    binaryLabelmap,
    rankOf,
    segmentId,
)
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome, outcomeOf, placeBeside
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

LABELS_FILE = "labels.npy"

SPACE = "space"
"""Column of the table of findings: the space of its positions."""

SCAN_SPACE, SCENE_SPACE = "scan", "scene"
"""The scan's own space, as it was loaded, and that of the scene, under the scan's transform."""


class ExportFormat(Enum):
    """Formats of the panel; the value names the worker's formats."""

    EVERYTHING = ("labels_nifti", "segmentation", "findings", "nll")
    LABELS_NIFTI = ("labels_nifti",)
    LABELS_NRRD = ("labels_nrrd",)
    SEGMENTATION = ("segmentation",)
    FINDINGS = ("findings",)
    NLL = ("nll",)
    REPORT = ("report",)
    DICOM_SEG = ("dicom_seg",)

    def label(self) -> str:
        """Return the format's name in the panel."""
        return {
            ExportFormat.EVERYTHING: _("Everything (NIfTI, .seg.nrrd, CSV, NRRD)"),
            ExportFormat.LABELS_NIFTI: _("Label map (NIfTI)"),
            ExportFormat.LABELS_NRRD: _("Label map (NRRD)"),
            ExportFormat.SEGMENTATION: _("Segmentation (.seg.nrrd)"),
            ExportFormat.FINDINGS: _("Findings (CSV)"),
            ExportFormat.NLL: _("NLL volume (NRRD)"),
            ExportFormat.REPORT: _("Report with pictures (HTML)"),
            ExportFormat.DICOM_SEG: _("DICOM SEG"),
        }[self]


def fileName(name: str) -> str:
    """Make a file name for every file system from a node's name."""
    return make_file_name(re.sub(r"[^\w.-]+", "_", name).strip("._"))


class Export:
    """Writes one result through the worker, on the scan's grid; all files appear at once.

    Segments are exported as edited; those of rejected findings only if `withRejected`. Positions
    are those of the scan's own space, or with `inScene` those of the scene: the voxels are the
    same, under an affine that includes the scan's transform.
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
        inScene: bool,
    ) -> None:
        self._worker = worker
        self._onEnd = onEnd
        self._folder = folder
        self._work = WorkFolder()
        scan = result.scan if result.scan is not None else result.volume
        try:
            toSpace = sceneFromLocal(result.volume) if inScene else np.eye(4)
            labels, start, segments = collectSegments(
                result, set() if withRejected else _rejectedSegments(result)
            )
            if format_ is ExportFormat.DICOM_SEG and not segments:
                raise _allRejected()
            np.save(self._work.path / LABELS_FILE, labels, allow_pickle=False)
        except BaseException:
            self._work.remove()
            raise
        self._inputs = {
            "labels": str(self._work.path / LABELS_FILE),
            "labels_start_kji": start,
            "size_kji": list(voxelsOf(result.volume).shape),
            "nll": None,
            "ras_from_voxel": (toSpace @ rasFromVoxel(result.volume)).tolist(),
            "findings": [
                moveRow(row, toSpace) | {SPACE: SCENE_SPACE if inScene else SCAN_SPACE}
                for row in readRows(result.table)
            ],
            "columns": [*COLUMNS, SPACE],
            "segments": segments,
        }
        self._spec = {
            "formats": list(format_.value),
            "name": fileName(scan.GetName()),
            "overwrite": overwrite,
        }
        if format_ is ExportFormat.DICOM_SEG:
            self._inputs["dicom"] = dicomFacts(result)
        wanted = {"nll": result.volume} if "nll" in format_.value else {}
        if format_ is ExportFormat.REPORT:
            wanted = {"nll": result.volume, "voxels": scan}
            self._inputs["report"] = reportFacts(result, SCENE_SPACE if inScene else SCAN_SPACE)
        self._provide(files, wanted)

    def _provide(self, files: NllFiles, wanted: "dict[str, slicer.vtkMRMLVolumeNode]") -> None:
        """Write the volumes that are wanted to files, one after the other, then submit the job."""
        if not wanted:
            self._submit()
            return
        name, *others = wanted

        def provided(file: Path | None, error: Exception | None) -> None:
            if file is None:
                self._end(Outcome(error=asUserError(error) if error is not None else None), [])
                return
            self._inputs[name] = str(file)
            self._provide(files, {other: wanted[other] for other in others})

        try:
            files.provide(wanted[name], provided)
        except OSError as problem:  # no folder for the file
            provided(None, problem)

    def _submit(self) -> None:
        self._worker.submit(
            "export",
            inputs=self._inputs,
            spec=self._spec,
            output=self._folder,
            onEnd=self._onAnswer,
        )

    def _onAnswer(self, event: dict[str, Any]) -> None:
        if event["event"] == "result":
            self._end(Outcome(), [Path(file) for file in event["files"].values()])
        else:
            self._end(outcomeOf(event), [])

    def _end(self, outcome: Outcome, files: list[Path]) -> None:
        self._work.remove()
        self._onEnd(outcome, files)


def nameReportProblem(result: Result) -> str | None:
    """Say why no report of a result can be written; None if it can."""
    if result.scan is None:
        return _("The report needs the scan, which was deleted.")
    if not {"plane", "modality"} <= result.modelFacts.keys():
        return _("The report needs a result of this version: detect again.")
    return None


def reportFacts(result: Result, space: str) -> dict[str, Any]:
    """Return what the report says of model, threshold and cautions."""
    facts = result.modelFacts
    return {
        "plane": facts["plane"],
        "modality": facts["modality"],
        "calibration": result.calibration.to_dict(),
        "false_positive_rate": result.falsePositiveRate,
        "min_volume_ml": result.leastVolumeMl,
        "refine_outlines": result.tokenMm is not None,
        "case_score": result.caseScore,
        "model": facts.get("card", {}),
        "notices": [*result.cautions, *facts.get("mismatches", []), *facts.get("notices", [])],
        "space": space,
    }


def moveRow(row: Row, affine: np.ndarray) -> Row:
    """Return a row of findings with its positions transformed."""
    moved = dict(row)
    for point in ("centroid", "peak"):
        names = [f"{point}_{axis}_mm" for axis in "ras"]
        place = affine @ [*(row[name] for name in names), 1.0]
        moved |= {name: round(float(one), 3) for name, one in zip(names, place, strict=False)}
    return moved


def _rejectedSegments(result: Result) -> set[str]:
    """Ids of the segments of rejected findings."""
    rows = readRows(result.table)
    return {segmentId(row["rank"]) for row in rows if row["status"] == REJECTED}


def _segmentIds(result: Result) -> list[str]:
    if result.segmentation is None:
        return []
    segments = result.segmentation.GetSegmentation()
    return [segments.GetNthSegmentID(index) for index in range(segments.GetNumberOfSegments())]


def collectSegments(
    result: Result, skipped: set[str]
) -> tuple[np.ndarray, list[int], list[dict[str, Any]]]:
    """Return the cropped label map [k, j, i], its start in the result's grid, and its segments.

    The value of a finding is its rank; segments added by the user get the next numbers.
    """
    ids = [segment for segment in _segmentIds(result) if segment not in skipped]
    if not ids:
        return np.zeros((1, 1, 1), np.uint16), [0, 0, 0], []
    values = _labelValues(ids)
    labels, start = mergeLabels(
        result.segmentation, values, rasFromVoxel(result.volume), voxelsOf(result.volume).shape
    )
    container = result.segmentation.GetSegmentation()
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


def _labelValues(ids: Sequence[str]) -> dict[str, int]:
    ranks = {segment: rank for segment in ids if (rank := rankOf(segment)) is not None}
    others = [segment for segment in ids if segment not in ranks]
    first = max(ranks.values(), default=0) + 1
    return ranks | {segment: first + index for index, segment in enumerate(others)}


def nameDicomSegProblem(result: Result) -> str | None:
    """Say why the result cannot be exported as DICOM SEG; None if it can."""
    scan = result.scan
    if scan is None or not scan.GetAttribute(DICOM_INSTANCES):
        return _("DICOM SEG needs a scan that was loaded from Slicer's DICOM database.")
    if getattr(slicer, "dicomDatabase", None) is None:
        return _("DICOM SEG needs Slicer's DICOM database, which is not open.")
    if not _segmentIds(result):
        return _("DICOM SEG needs at least one finding.")
    if not hasDicomExporter() and "weights_sha256" not in result.modelFacts:
        return _("DICOM SEG needs a result of this version: detect again.")
    return None


def hasDicomExporter() -> bool:
    """Return whether Slicer's own exporter of DICOM SEG is installed (QuantitativeReporting)."""
    try:
        import DICOMSegmentationPlugin  # noqa: F401
    except ImportError:
        return False
    return True


def dicomFacts(result: Result) -> dict[str, Any]:
    """Return the scan's DICOM files, and what made the result, for the worker's DICOM SEG."""
    return {
        "files": dicomFilesOf(result.scan),
        "volume": dicomVolumeOf(result.scan),
        "model": result.modelName,
        "weights_sha256": str(result.modelFacts["weights_sha256"]),
        "false_positive_rate": result.falsePositiveRate,
        "min_volume_ml": result.leastVolumeMl,
    }


def checkDicomSeg(result: Result) -> None:
    """Raise `InputError` if the result cannot be exported as DICOM SEG."""
    problem = nameDicomSegProblem(result)
    if problem is not None:
        raise InputError("dicom-seg", problem)


def _allRejected() -> InputError:
    return InputError("dicom-seg", _("All findings were rejected; none is left to write."))


def exportDicomSeg(result: Result, folder: Path, *, withRejected: bool) -> None:
    """Write DICOM SEG with Slicer's own exporter; raises `SpatialARError` with its message."""
    try:
        _exportKeptSegments(result, folder, set() if withRejected else _rejectedSegments(result))
    except InputError:
        raise
    except Exception as error:
        raise SpatialARError(
            "dicom-seg-failed",
            _("Slicer's DICOM exporter failed ({reason}).").format(reason=error),
        ) from error


def _exportKeptSegments(result: Result, folder: Path, skipped: set[str]) -> None:
    """The exporter writes a whole segmentation, so a part is copied to another one first."""
    segmentation = result.segmentation
    ids = _segmentIds(result)
    kept = [segment for segment in ids if segment not in skipped]
    if not kept:
        raise _allRejected()
    folder.mkdir(parents=True, exist_ok=True)
    if kept == ids:
        _writeDicomSeg(segmentation, folder)
        return
    part = addSegmentation(segmentation.GetName(), result.scan)
    placeBeside(part, result.scan)
    try:
        images = {}  # one copy of each image that segments share
        for segment in kept:
            original = segmentation.GetSegmentation().GetSegment(segment)
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
    problem = plugin.export(exportables)  # empty on success
    if problem:
        raise OSError(problem)
