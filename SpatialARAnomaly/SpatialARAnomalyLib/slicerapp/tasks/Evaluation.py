"""One result held against a ground truth of the scene, by the worker."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.scene.LabelsOnGrid import (
    mergeLabels,
    cropToGrid,
)
from SpatialARAnomalyLib.slicerapp.scene.NllFiles import NllFiles
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    ROLE,
    modalityOf,
    rasFromVoxel,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    Outcome,
    outcomeOf,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import (
    Transfer,
    WorkFolder,
    inSequence,
    writeNpy,
)
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

TRUTH_FILE, VOXELS_FILE = "truth.npy", "voxels.npy"

Ended = Callable[[Outcome, dict[str, Any] | None, WorkFolder | None], None]
"""Gets the figures and the folder with the files, which are the receiver's then, or the error."""


def nameTruthProblem(result: Result, truth: "slicer.vtkMRMLNode | None") -> str | None:
    """Why a node cannot be the ground truth of a result, as a sentence; None if it can."""
    if truth is None:
        return _("Choose a ground truth first: a label map or a segmentation of the lesions.")
    if truth.GetAttribute(ROLE):
        return _("Choose a ground truth: these are the findings of a detection themselves.")
    if truth.GetParentTransformNode() is not result.volume.GetParentTransformNode():
        return _("The ground truth must be under the same transform as the scan.")
    if truth.IsA("vtkMRMLSegmentationNode"):
        if truth.GetSegmentation().GetNumberOfSegments() == 0:
            return _("The ground truth must have a segment; it has none.")
    elif truth.GetImageData() is None:
        return _("The ground truth must hold voxels; it is empty.")
    return None


def voxelizeTruth(truth: "slicer.vtkMRMLNode", volume: "slicer.vtkMRMLScalarVolumeNode") -> Any:
    """Which voxels [k, j, i] of the volume the truth labels, as uint8.

    All segments count. A truth on another grid is taken voxel by voxel from the nearest.
    """
    affine, size = rasFromVoxel(volume), voxelsOf(volume).shape
    if truth.IsA("vtkMRMLSegmentationNode"):
        container = truth.GetSegmentation()
        ids = [container.GetNthSegmentID(n) for n in range(container.GetNumberOfSegments())]
        labels, start = mergeLabels(truth, dict.fromkeys(ids, 1), affine, size)
    else:
        labels, start = cropToGrid(
            (voxelsOf(truth) > 0).astype(np.uint8), rasFromVoxel(truth), affine, np.asarray(size)
        )
    whole = np.zeros(size, np.uint8)
    place = tuple(
        slice(int(first), int(first) + length)
        for first, length in zip(start, labels.shape, strict=True)
    )
    if labels.size:
        whole[place] = labels > 0
    return whole


class Evaluation:
    """Sends a result and its truth to the worker; `onEnd` is called once, unless cancelled."""

    def __init__(
        self,
        result: Result,
        truth: "slicer.vtkMRMLNode",
        worker: WorkerProcess,
        files: NllFiles,
        onEnd: Ended,
    ) -> None:
        self._worker = worker
        self._onEnd = onEnd
        self._job: int | None = None
        self._transfer: Transfer | None = None
        self._cancelled = False
        self._folder = WorkFolder()
        self._stopWriting: Callable[[], None] = lambda: None
        self._inputs: dict[str, Any] = {
            "truth": str(self._folder.path / TRUTH_FILE),
            "ras_from_voxel": rasFromVoxel(result.volume).tolist(),
            "calibration": result.calibration.to_dict(),
            "model": result.modelName,
        }
        self._spec = {
            "false_positive_rate": result.falsePositiveRate,
            "min_volume_ml": result.leastVolumeMl,
        }
        try:
            steps = self._writing(result, truth)
            self._transfer = Transfer(steps, lambda error: self._written(error, result, files))
        except BaseException:
            self._folder.remove()
            raise

    def _writing(self, result: Result, truth: "slicer.vtkMRMLNode") -> Iterator[None]:
        works = [writeNpy(voxelizeTruth(truth, result.volume), self._folder.path / TRUTH_FILE)]
        scan = result.scan
        # A scan that was cropped or resampled since has other voxels than its result.
        if scan is not None and scan.GetImageData() is not None:
            voxels = voxelsOf(scan)
            if voxels.shape == voxelsOf(result.volume).shape:
                works.append(writeNpy(voxels, self._folder.path / VOXELS_FILE))
                self._inputs["voxels"] = str(self._folder.path / VOXELS_FILE)
                self._inputs["modality"] = modalityOf(scan)
        return inSequence(*works)

    def _written(self, error: Exception | None, result: Result, files: NllFiles) -> None:
        self._transfer = None
        if error is not None:
            self._end(Outcome(error=asUserError(error)))
            return
        try:
            self._stopWriting = files.provide(result.volume, self._provided)
        except OSError as problem:  # no folder for its file
            self._provided(None, problem)

    def _provided(self, file: Path | None, error: Exception | None) -> None:
        if self._cancelled:
            return
        if file is None:
            self._end(Outcome(error=asUserError(error) if error is not None else None))
            return
        self._job = self._worker.submit(
            "evaluate",
            inputs=self._inputs | {"nll": str(file)},
            spec=self._spec,
            output=self._folder.path / "results",
            onEnd=self._answered,
        )

    def _answered(self, event: dict[str, Any]) -> None:
        self._job = None
        if self._cancelled:
            self._folder.remove()
        elif event["event"] == "result":
            self._onEnd(Outcome(), event, self._folder)
        else:
            self._end(outcomeOf(event))

    def _end(self, outcome: Outcome) -> None:
        self._folder.remove()
        self._onEnd(outcome, None, None)

    def cancel(self) -> None:
        """Stop it; `onEnd` is not called any more."""
        self._cancelled = True
        self._stopWriting()
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None
        if self._job is not None:
            self._worker.cancel(self._job)  # its answer removes the folder
        else:
            self._folder.remove()
