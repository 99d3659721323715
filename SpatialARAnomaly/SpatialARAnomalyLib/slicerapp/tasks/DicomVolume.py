"""One of several volumes (times, echoes) of a DICOM series, loaded as a volume node."""

from collections.abc import Callable
from typing import Any

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    DICOM_INSTANCES,
    DICOM_VOLUME,
    dicomFilesOf,
    newImage,
    setRasFromVoxel,
)
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome, outcomeOf, placeBeside
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import Transfer, WorkFolder, copyArray
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, progressCallback, stageName
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

SEVERAL_VOLUMES = ("dicom-4d", "dicom-mixed")
"""Codes of the error of a DICOM series that holds several volumes."""


class DicomVolume:
    """Lists the volumes of a node's DICOM series, and loads the chosen one as a new node.

    `choose` gets the names of the volumes and returns the index of one, or None to cancel.
    `onEnd` is called exactly once, with the new node as the `volume` of its outcome.
    """

    def __init__(
        self,
        node: "slicer.vtkMRMLScalarVolumeNode",
        worker: WorkerProcess,
        choose: Callable[[list[str]], int | None],
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._nodeId: str = node.GetID()
        self._worker = worker
        self._choose = choose
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._inputs = {"dicom_files": dicomFilesOf(node)}
        self._number = 0
        self._cancelled = False
        self._transfer: Transfer | None = None
        self._folder = WorkFolder()
        self._job: int | None = None
        self._submit("dicom_volumes", self._onNames)

    def _submit(self, job: str, onEnd: Callable[[dict[str, Any]], None], **more: Any) -> None:
        self._job = self._worker.submit(
            job,
            inputs=self._inputs,
            onEvent=progressCallback(self._onProgress),
            onEnd=onEnd,
            **more,
        )

    def cancel(self) -> None:
        """Stop; the scene stays as it is."""
        self._cancelled = True
        if self._transfer is not None:
            self._transfer.cancel()
            self._end(Outcome())
        elif self._job is not None:
            self._worker.cancel(self._job)

    def _end(self, outcome: Outcome) -> None:
        self._folder.remove()
        self._onEnd(outcome)

    def _isOver(self, event: dict[str, Any]) -> bool:
        """End after a failed or cancelled job."""
        if event["event"] == "result" and not self._cancelled:
            return False
        self._end(Outcome() if self._cancelled else outcomeOf(event))
        return True

    def _onNames(self, event: dict[str, Any]) -> None:
        self._job = None
        if self._isOver(event):
            return
        names = [str(one) for one in event["volumes"]]
        # The dialog's event loop must not run within the reading of the worker's events.
        qt.QTimer.singleShot(0, lambda: self._ask(names))

    def _ask(self, names: list[str]) -> None:
        chosen = None if self._cancelled else self._choose(names)
        if chosen is None or self._cancelled:
            self._end(Outcome())
            return
        self._number = chosen + 1
        output = self._folder.path / "volume"
        self._submit("dicom_volume", self._onRead, spec={"volume": self._number}, output=output)

    def _onRead(self, event: dict[str, Any]) -> None:
        self._job = None
        if self._isOver(event):
            return
        try:
            stored = np.load(event["files"]["voxels"], mmap_mode="r", allow_pickle=False)
            image, voxels = newImage(stored.shape)
        except Exception as error:  # the task must end in any case
            self._end(Outcome(error=asUserError(error)))
            return
        self._transfer = Transfer(
            copyArray(stored, voxels), lambda error: self._onLoaded(error, event, image)
        )
        self._onProgress(Progress(1.0, stageName("load")))

    def _onLoaded(
        self, error: Exception | None, event: dict[str, Any], image: "vtk.vtkImageData"
    ) -> None:
        self._transfer = None
        try:
            if error is not None:
                raise error
            outcome = Outcome(volume=self._addToScene(event, image))
        except Exception as problem:  # the task must end in any case
            outcome = Outcome(error=asUserError(problem))
        self._end(outcome)

    def _addToScene(
        self, event: dict[str, Any], image: "vtk.vtkImageData"
    ) -> "slicer.vtkMRMLScalarVolumeNode":
        scene = slicer.mrmlScene
        source = scene.GetNodeByID(self._nodeId)
        if source is None:
            raise _sourceDeleted()
        name = _("{name} volume {number}").format(name=source.GetName(), number=self._number)
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(name))
        setRasFromVoxel(node, np.array(event["ras_from_voxel"]))
        node.SetAndObserveImageData(image)
        node.CreateDefaultDisplayNodes()
        node.SetAttribute(DICOM_INSTANCES, " ".join(event["instances"]))
        if event["dicom_volume"] is not None:
            node.SetAttribute(DICOM_VOLUME, str(event["dicom_volume"]))
        node.SetAndObserveTransformNodeID(source.GetTransformNodeID())
        placeBeside(node, source)
        return node


def _sourceDeleted() -> SpatialARError:
    return InputError("volume-deleted", _("The volume was deleted while another was chosen."))
