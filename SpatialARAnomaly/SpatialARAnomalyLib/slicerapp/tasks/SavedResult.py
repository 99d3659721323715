"""A scan of a batch with its saved result, loaded for review."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import newImage, setRasFromVoxel
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    Outcome,
    addResult,
    loadLabels,
    outcomeOf,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import (
    Transfer,
    WorkFolder,
    copyArray,
    inSequence,
)
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, progressCallback, stageName
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess


@dataclass(frozen=True, kw_only=True)
class SavedScan:
    """A scan in the table of a batch."""

    scans: Path
    """Input of the batch: a folder, or a table."""
    name: str
    folder: Path
    """Folder of the batch's results."""
    models: Path
    """Folder of the user's models."""


class SavedResult:
    """Has the worker read a scan and its result files, and adds them to the scene.

    `onEnd` is called exactly once.
    """

    def __init__(
        self,
        scan: SavedScan,
        worker: WorkerProcess,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._worker = worker
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._cancelled = False
        self._transfer: Transfer | None = None
        self._folder = WorkFolder()
        self._job = worker.submit(
            "saved_result",
            inputs={
                "paths": [str(scan.scans)],
                "scan": scan.name,
                "folder": str(scan.folder),
                "models": str(scan.models),
            },
            output=self._folder.path / "results",
            onEvent=progressCallback(onProgress),
            onEnd=self._onRead,
        )

    def cancel(self) -> None:
        """Stop; the scene stays as it is."""
        self._cancelled = True
        if self._transfer is not None:
            self._transfer.cancel()
            self._end(Outcome())
        else:
            self._worker.cancel(self._job)

    def _end(self, outcome: Outcome) -> None:
        self._folder.remove()
        self._onEnd(outcome)

    def _onRead(self, event: dict[str, Any]) -> None:
        if self._cancelled or event["event"] != "result":
            self._end(Outcome() if self._cancelled else outcomeOf(event))
            return
        try:
            works, images = [], []
            for name in ("voxels", "nll"):
                stored = np.load(event["files"][name], mmap_mode="r", allow_pickle=False)
                image, voxels = newImage(stored.shape)
                images.append(image)
                works.append(copyArray(stored, voxels))
            labels, labelSteps = loadLabels(event)
        except Exception as error:  # the task must end in any case
            self._end(Outcome(error=asUserError(error)))
            return
        self._transfer = Transfer(
            inSequence(*works, labelSteps),
            lambda error: self._onLoaded(error, event, images, labels),
        )
        self._onProgress(Progress(1.0, stageName("load")))

    def _onLoaded(
        self,
        error: Exception | None,
        event: dict[str, Any],
        images: "list[vtk.vtkImageData]",
        labels: np.ndarray | None,
    ) -> None:
        self._transfer = None
        try:
            if error is not None:
                raise error
            outcome = Outcome(result=_addToScene(event, images, labels))
        except Exception as problem:  # the task must end in any case
            outcome = Outcome(error=asUserError(problem))
        self._end(outcome)


def _addToScene(
    event: dict[str, Any], images: "list[vtk.vtkImageData]", labels: np.ndarray | None
) -> object:
    """Add the scan and its result; after an error neither remains."""
    scene = slicer.mrmlScene
    scan = scene.AddNewNodeByClass(
        "vtkMRMLScalarVolumeNode", scene.GenerateUniqueName(str(event["name"]))
    )
    try:
        setRasFromVoxel(scan, np.array(event["ras_from_voxel"]))
        scan.SetAndObserveImageData(images[0])
        scan.CreateDefaultDisplayNodes()
        leastVolumeMl, isRefined = float(event["min_volume_ml"]), bool(event["refine_outlines"])
        return addResult(scan, event, images[1], labels, leastVolumeMl, isRefined)
    except BaseException:
        scene.RemoveNode(scan)
        raise
