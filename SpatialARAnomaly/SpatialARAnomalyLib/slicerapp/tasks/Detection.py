"""Detection: from a volume node to a result in the scene, and the demonstration model."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import addTable, writeFindings
from SpatialARAnomalyLib.slicerapp.scene.LabelsOnGrid import voxelize
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    checkScan,
    dicomFilesOf,
    dicomVolumeOf,
    modalityOf,
    newImage,
    rasFromVoxel,
    setRasFromVoxel,
    volumeState,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.ResultsDisplay import prepareOverlay
from SpatialARAnomalyLib.slicerapp.scene.Segments import addSegmentation, writeSegments
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError, errorOf
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import (
    Transfer,
    WorkFolder,
    copyArray,
    inSequence,
    loadNpy,
    writeNpy,
)
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, progressCallback, stageName
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

VOXELS_FILE, MASK_FILE = "voxels.npy", "mask.npy"
NLL_FILE = "nll.npy"

DEMONSTRATION_FILE = "demonstration-head.safetensors"
"""File of the demonstration model in the user's folder of models."""


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """The user's choices for a detection."""

    model: Path
    falsePositiveRate: float = FindingsSpec.false_positive_rate
    leastVolumeMl: float = FindingsSpec.min_volume_ml
    device: Device = Device.AUTO
    allowMismatch: bool = False
    refineOutlines: bool = FindingsSpec.refine_outlines

    def spec(self) -> dict[str, Any]:
        """Return the settings of the worker's job."""
        return {
            "false_positive_rate": self.falsePositiveRate,
            "min_volume_ml": self.leastVolumeMl,
            "refine_outlines": self.refineOutlines,
            "device": self.device.value,
            "allow_mismatch": self.allowMismatch,
        }


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a task: a result or volume, an error, or nothing if it was cancelled."""

    result: Result | None = None
    volume: "slicer.vtkMRMLScalarVolumeNode | None" = None
    """A scan that was loaded."""
    error: SpatialARError | None = None
    notices: tuple[str, ...] = ()


def volumeDeleted() -> InputError:
    """Make the error of a detection whose volume was deleted."""
    return InputError(
        "volume-deleted", _("The volume was deleted during the detection; there is no result.")
    )


class Detection:
    """Sends a volume to the worker and adds the result to the scene, all of it or nothing.

    `onEnd` is called exactly once. The volume is known by its id only: if it is
    deleted or changed meanwhile, there is no result.
    Raises `InputError` at once for a volume that cannot be searched.
    """

    def __init__(
        self,
        volume: "slicer.vtkMRMLScalarVolumeNode | None",
        settings: DetectionSettings,
        worker: WorkerProcess,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[Outcome], None],
        mask: "slicer.vtkMRMLNode | None" = None,
    ) -> None:
        checkScan(volume)
        maskVoxels = None if mask is None else voxelize(mask, volume)
        if maskVoxels is not None and not maskVoxels.any():
            raise InputError("mask-empty", _("The mask covers nothing of the volume."))
        self.settings = settings
        self.volumeId: str = volume.GetID()
        self._state = volumeState(volume)
        self._worker = worker
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._reportProgress = progressCallback(onProgress)
        self._notices: list[str] = []
        self._job: int | None = None
        self._cancelled = False
        self._ended = False
        self.folder = WorkFolder()
        self._onProgress(Progress(0.0, stageName("send")))
        self._inputs: dict[str, Any] = {
            "voxels": str(self.folder.path / VOXELS_FILE),
            "ras_from_voxel": rasFromVoxel(volume).tolist(),
            "modality": modalityOf(volume),
            "model": str(settings.model),
            "dicom_files": dicomFilesOf(volume),
            "dicom_volume": dicomVolumeOf(volume),
        }
        works = [writeNpy(voxelsOf(volume), self.folder.path / VOXELS_FILE)]
        if maskVoxels is not None:
            self._inputs["mask"] = str(self.folder.path / MASK_FILE)
            works.append(writeNpy(maskVoxels, self.folder.path / MASK_FILE))
        self._transfer: Transfer | None = Transfer(inSequence(*works), self._onVoxelsWritten)

    def cancel(self) -> None:
        """Stop, at whatever stage."""
        if self._job is None:
            self._end(Outcome())
        elif not self._ended:
            # The end waits for the worker's answer: the next job would wait for it, too.
            self._cancelled = True
            self._worker.cancel(self._job)

    def fail(self, error: SpatialARError) -> None:
        """End with an error at once, and cancel the worker's job."""
        if self._job is not None and not self._ended:
            self._worker.cancel(self._job)
        self._end(Outcome(error=error))

    def _end(self, outcome: Outcome) -> None:
        if self._ended:
            return
        self._ended = True
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None
        if outcome.result is None:
            self.folder.remove()
        self._onEnd(outcome)

    def _onVoxelsWritten(self, error: Exception | None) -> None:
        self._transfer = None
        error = error or self._volumeProblem()
        if error is not None:
            self._end(Outcome(error=asUserError(error)))
            return
        self._job = self._worker.submit(
            "detect",
            inputs=self._inputs,
            spec=self.settings.spec(),
            output=self.folder.path / "results",
            onEvent=self._onWorkerEvent,
            onEnd=self._onAnswer,
        )

    def _onWorkerEvent(self, event: dict[str, Any]) -> None:
        if event.get("event") == "notice":
            self._notices.append(str(event.get("text")))
        if not self._ended:
            self._reportProgress(event)

    def _onAnswer(self, event: dict[str, Any]) -> None:
        self._job = None
        if self._ended:
            # The worker may have written after the folder was removed.
            self.folder.remove()
            return
        if self._cancelled:  # even if the worker had finished
            self._end(Outcome())
            return
        if event["event"] != "result":
            self._end(outcomeOf(event))
            return
        try:
            problem = self._volumeProblem()
            if problem is not None:
                raise problem
            nll = np.load(event["files"]["nll"], mmap_mode="r", allow_pickle=False)
            node = slicer.mrmlScene.GetNodeByID(self.volumeId)
            if nll.shape != voxelsOf(node).shape:
                raise ValueError("the NLL volume has another size than the scan")
            image, voxels = newImage(nll.shape)
            labels, labelSteps = loadLabels(event)
            # The folder is kept with the result; its copies of scan and mask are not needed.
            for name in (VOXELS_FILE, MASK_FILE):
                with suppress(OSError):
                    (self.folder.path / name).unlink()
        except Exception as error:  # the task must end in any case
            self._end(Outcome(error=asUserError(error)))
            return
        self._transfer = Transfer(
            inSequence(copyArray(nll, voxels), labelSteps),
            lambda error: self._onLoaded(error, event, image, labels),
        )
        self._onProgress(Progress(1.0, stageName("load")))

    def _onLoaded(
        self,
        error: Exception | None,
        event: dict[str, Any],
        image: "vtk.vtkImageData",
        labels: np.ndarray | None,
    ) -> None:
        self._transfer = None
        try:
            error = error or self._volumeProblem()
            if error is not None:
                raise error
            settings = self.settings
            result = addResult(
                slicer.mrmlScene.GetNodeByID(self.volumeId),
                event,
                image,
                labels,
                settings.leastVolumeMl,
                settings.refineOutlines,
            )
        except Exception as problem:  # the task must end in any case
            self._end(Outcome(error=asUserError(problem)))
            return
        self._end(Outcome(result=result, notices=tuple(self._notices)))

    def _volumeProblem(self) -> InputError | None:
        """Return the error of a volume that is no longer as it was sent, or None."""
        node = slicer.mrmlScene.GetNodeByID(self.volumeId)
        if node is None:
            return volumeDeleted()
        if volumeState(node) != self._state:
            return InputError(
                "volume-changed",
                _("The volume was changed during the detection; the result was discarded."),
            )
        return None


def addResult(
    scan: "slicer.vtkMRMLScalarVolumeNode",
    event: dict[str, Any],
    image: "vtk.vtkImageData",
    labels: np.ndarray | None,
    leastVolumeMl: float,
    isRefined: bool,
) -> Result:
    """Add all nodes of a `detect` result to the scene; after an error none of them remains."""
    scene = slicer.mrmlScene
    name, affine = scan.GetName(), rasFromVoxel(scan)
    added = []
    try:
        volume = scene.AddNewNodeByClass(
            "vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(f"{name} NLL")
        )
        added.append(volume)
        setRasFromVoxel(volume, affine)
        volume.SetAndObserveImageData(image)
        volume.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
        result = Result(volume)
        result.scan = scan
        result.calibration = Calibration.from_dict(event["calibration"])
        result.caseScore = float(event["case_score"])
        result.cautions = [str(one["text"]) for one in event["cautions"]]
        result.modelName = str(event["model"]["name"])
        result.modelFacts = event["model"] | {"mismatches": event.get("mismatches", [])}
        result.falsePositiveRate = float(event["false_positive_rate"])
        result.leastVolumeMl = leastVolumeMl
        if isRefined:
            result.tokenMm = float(event["token_mm"])
        segmentation = addSegmentation(f"{name} anomalies", scan)
        added.append(segmentation)
        rows = event["findings"]
        start = event["labels_start_kji"] or (0, 0, 0)
        writeSegments(segmentation, labels, start, affine, rows)
        result.segmentation = segmentation
        table = addTable(f"{name} findings")
        added.append(table)
        writeFindings(table, rows, [])
        result.table = table
        result.mark()
        prepareOverlay(result)
        for node in added:
            placeBeside(node, scan)
    except BaseException:
        for node in reversed(added):
            scene.RemoveNode(node)
        raise
    return result


def loadLabels(event: dict[str, Any]) -> tuple[np.ndarray | None, Iterator[None]]:
    """Return the cropped label map of a `detect` or `find` result, and the steps that load it.

    The label map is None if there are no findings.
    """
    path = event["files"].get("labels")
    return (None, inSequence()) if path is None else loadNpy(Path(path))


def outcomeOf(event: dict[str, Any]) -> Outcome:
    """Return the outcome of a job that failed or was cancelled."""
    return Outcome() if event["event"] == "cancelled" else Outcome(error=errorOf(event))


def placeBeside(node: "slicer.vtkMRMLNode", scan: "slicer.vtkMRMLScalarVolumeNode") -> None:
    """Move a node to the scan's folder of the subject hierarchy, as DICOM export requires."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    item, scanItem = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(scan)
    if item and scanItem:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(scanItem))


class DemonstrationModel:
    """Trains the demonstration model; its file appears only when it is complete."""

    def __init__(
        self,
        models: Path,
        device: Device,
        worker: WorkerProcess,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._worker = worker
        self._job = worker.submit(
            "demonstration_model",
            spec={"device": device.value},
            output=models / DEMONSTRATION_FILE,
            onEvent=progressCallback(onProgress),
            onEnd=lambda event: onEnd(
                Outcome() if event["event"] == "result" else outcomeOf(event)
            ),
        )

    def cancel(self) -> None:
        """Stop; no file remains."""
        self._worker.cancel(self._job)
