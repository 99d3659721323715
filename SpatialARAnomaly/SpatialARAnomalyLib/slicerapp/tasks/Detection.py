"""One detection, from a volume node to a result in the scene; nothing is added before the end."""

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
from SpatialARAnomalyLib.engine.errors import (
    InputError,
    SpatialARError,
)
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
    addTable,
    writeFindings,
)
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    checkScan,
    modalityOf,
    newImage,
    rasFromVoxel,
    setRasFromVoxel,
    volumeState,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.ResultsDisplay import prepareOverlay
from SpatialARAnomalyLib.slicerapp.scene.Segments import (
    addSegmentation,
    writeSegments,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import (
    asUserError,
    errorOf,
)
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import (
    Transfer,
    WorkFolder,
    copyArray,
    inSequence,
    loadNpy,
    writeNpy,
)
from SpatialARAnomalyLib.slicerapp.worker.Progress import (
    Progress,
    StageProgress,
    progressCallback,
    stageName,
)
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

VOXELS_FILE = "voxels.npy"
NLL_FILE = "nll.npy"


@dataclass(frozen=True, kw_only=True)
class DetectionSettings:
    """What the user chose."""

    model: Path
    falsePositiveRate: float
    leastVolumeMl: float
    device: Device
    allowMismatch: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended: with a result, an error, or cancelled (neither)."""

    result: Result | None = None
    error: SpatialARError | None = None
    notices: tuple[str, ...] = ()
    """What the user should know that stopped nothing."""


def volumeDeleted() -> InputError:
    """The error of a detection whose volume is gone."""
    return InputError(
        "volume-deleted", _("The volume was deleted during the detection; there is no result.")
    )


class Detection:
    """Sends a volume to the worker and brings the result into the scene.

    `onEnd` is called exactly once. The volume is watched by its id only: it
    may be deleted or changed meanwhile, and then there is no result.
    Raises `InputError` at once for a volume that cannot be searched.
    """

    def __init__(
        self,
        volume: "slicer.vtkMRMLScalarVolumeNode | None",
        settings: DetectionSettings,
        worker: WorkerProcess,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        checkScan(volume)
        self.settings = settings
        self.volumeId: str = volume.GetID()
        self._state = volumeState(volume)
        self._affine = rasFromVoxel(volume)
        self._modality = modalityOf(volume)
        self._worker = worker
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._stages = StageProgress()
        self._notices: list[str] = []
        self._job: int | None = None
        self._cancelled = False
        self._ended = False
        self.folder = WorkFolder()
        self._onProgress(Progress(0.0, stageName("send")))
        self._transfer: Transfer | None = Transfer(
            writeNpy(voxelsOf(volume), self.folder.path / VOXELS_FILE), self._sent
        )

    def cancel(self) -> None:
        """Stop, at whatever stage."""
        self.stop(Outcome())

    def stop(self, outcome: Outcome) -> None:
        """End with this outcome; the worker's job is cancelled."""
        if self._ended:
            return
        if self._job is not None and outcome.error is None:
            # The worker says when it has stopped: until then the next job would wait for it.
            self._cancelled = True
            self._worker.cancel(self._job)
            return
        if self._job is not None:
            self._worker.cancel(self._job)
        self._end(outcome)

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

    def _sent(self, error: Exception | None) -> None:
        self._transfer = None
        if error is not None:
            self._end(Outcome(error=asUserError(error)))
            return
        if not self._unchanged():
            return
        self._job = self._worker.submit(
            "detect",
            inputs={
                "voxels": str(self.folder.path / VOXELS_FILE),
                "ras_from_voxel": self._affine.tolist(),
                "modality": self._modality,
                "model": str(self.settings.model),
            },
            spec={
                "false_positive_rate": self.settings.falsePositiveRate,
                "min_volume_ml": self.settings.leastVolumeMl,
                "device": self.settings.device.value,
                "allow_mismatch": self.settings.allowMismatch,
            },
            output=self.folder.path / "results",
            onEvent=self._heard,
            onEnd=self._answered,
        )

    def _heard(self, event: dict[str, Any]) -> None:
        if event.get("event") == "notice":
            self._notices.append(str(event.get("text")))
        progress = self._stages.hear(event)
        if progress is not None and not self._ended:
            self._onProgress(progress)

    def _answered(self, event: dict[str, Any]) -> None:
        self._job = None
        if self._ended:
            # The worker may have written after we removed it.
            self.folder.remove()
            return
        if self._cancelled:  # too late for the worker, not for the user
            self._end(Outcome())
            return
        if event["event"] != "result":
            self._end(outcomeOf(event))
            return
        if not self._unchanged():
            return
        try:
            found = np.load(event["files"]["nll"], mmap_mode="r", allow_pickle=False)
            node = slicer.mrmlScene.GetNodeByID(self.volumeId)
            if found.shape != voxelsOf(node).shape:
                raise ValueError("the NLL volume has another size than the scan")
            image, voxels = newImage(found.shape)
            labels, steps = loadLabels(event)
            # The folder stays with the result, but nobody needs a copy of the scan.
            with suppress(OSError):
                (self.folder.path / VOXELS_FILE).unlink()
        except Exception as error:  # whatever it is, the detection must end
            self._end(Outcome(error=asUserError(error)))
            return
        self._transfer = Transfer(
            inSequence(copyArray(found, voxels), steps),
            lambda problem: self._loaded(problem, event, image, labels),
        )
        self._onProgress(Progress(1.0, stageName("load")))

    def _loaded(
        self,
        error: Exception | None,
        event: dict[str, Any],
        image: "vtk.vtkImageData",
        labels: np.ndarray | None,
    ) -> None:
        self._transfer = None
        if error is None and not self._unchanged():
            return
        result = None
        if error is None:
            try:
                result = self._addToScene(event, image, labels)
            except Exception as problem:  # whatever it is, the scene must be as it was
                error = problem
        if error is not None:
            self._end(Outcome(error=asUserError(error)))
            return
        self._end(Outcome(result=result, notices=tuple(self._notices)))

    def _unchanged(self) -> bool:
        """Whether the volume is still what was sent; if not, that is the end."""
        node = slicer.mrmlScene.GetNodeByID(self.volumeId)
        if node is None:
            error = volumeDeleted()
        elif volumeState(node) != self._state:
            error = InputError(
                "volume-changed",
                _("The volume was changed during the detection; the result was discarded."),
            )
        else:
            return True
        self._end(Outcome(error=error))
        return False

    def _addToScene(
        self, event: dict[str, Any], image: "vtk.vtkImageData", labels: np.ndarray | None
    ) -> Result:
        """All nodes of the result; after an error the scene is as it was."""
        scene = slicer.mrmlScene
        scan = scene.GetNodeByID(self.volumeId)
        name = scan.GetName()
        added = []
        try:
            volume = scene.AddNewNodeByClass(
                "vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(f"{name} NLL")
            )
            added.append(volume)
            setRasFromVoxel(volume, self._affine)
            volume.SetAndObserveImageData(image)
            volume.SetAndObserveTransformNodeID(scan.GetTransformNodeID())
            result = Result(volume)
            result.scan = scan
            result.calibration = Calibration.from_dict(event["calibration"])
            result.caseScore = float(event["case_score"])
            result.modelName = str(event["model"]["name"])
            result.falsePositiveRate = float(event["false_positive_rate"])
            result.leastVolumeMl = self.settings.leastVolumeMl
            segmentation = addSegmentation(f"{name} anomalies", scan)
            added.append(segmentation)
            rows = event["findings"]
            writeSegments(
                segmentation,
                labels,
                event["labels_start_kji"] or (0, 0, 0),
                self._affine,
                rows,
            )
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
    """The cropped label map of a `detect` or `find` result, and the steps that load it.

    None without findings.
    """
    path = event["files"].get("labels")
    return (None, inSequence()) if path is None else loadNpy(Path(path))


def outcomeOf(event: dict[str, Any]) -> Outcome:
    """The outcome of a job that brought no result."""
    if event["event"] == "cancelled":
        return Outcome()
    return Outcome(error=errorOf(event))


def placeBeside(node: "slicer.vtkMRMLNode", scan: "slicer.vtkMRMLScalarVolumeNode") -> None:
    """Put a node into the scan's folder of the subject hierarchy, as DICOM export needs it."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    if hierarchy is None:
        return
    item, scanItem = hierarchy.GetItemByDataNode(node), hierarchy.GetItemByDataNode(scan)
    if item and scanItem:
        hierarchy.SetItemParent(item, hierarchy.GetItemParent(scanItem))


DEMONSTRATION_FILE = "demonstration-head.safetensors"
"""Its file among the user's models."""


class DemonstrationModel:
    """Trains the model in the worker; it appears in the folder only when complete."""

    def __init__(
        self,
        models: Path,
        device: Device,
        worker: WorkerProcess,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._worker = worker
        self._onEnd = onEnd
        self._job: int | None = worker.submit(
            "demonstration_model",
            spec={"device": device.value},
            output=models / DEMONSTRATION_FILE,
            onEvent=progressCallback(onProgress),
            onEnd=self._answered,
        )

    def cancel(self) -> None:
        """Stop; nothing of the model stays."""
        if self._job is not None:
            self._worker.cancel(self._job)

    def _answered(self, event: dict[str, Any]) -> None:
        self._job = None
        self._onEnd(Outcome() if event["event"] == "result" else outcomeOf(event))
