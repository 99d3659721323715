"""Evaluation of one result against a ground truth in the scene, by the worker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.QtHelpers import doNothing
from SpatialARAnomalyLib.slicerapp.scene.LabelsOnGrid import voxelize
from SpatialARAnomalyLib.slicerapp.scene.NllFiles import NllFiles
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    ROLE,
    modalityOf,
    rasFromVoxel,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome, outcomeOf
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import (
    Transfer,
    WorkFolder,
    inSequence,
    writeNpy,
)
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

TRUTH_FILE, VOXELS_FILE = "truth.npy", "voxels.npy"

OnEvaluated = Callable[[Outcome, dict[str, Any] | None, WorkFolder | None], None]
"""Receives the outcome; after success also the figures and the folder of files, to remove later."""


def nameTruthProblem(result: Result, truth: "slicer.vtkMRMLNode | None") -> str | None:
    """Say why a node cannot be the ground truth of a result; None if it can."""
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


class Evaluation:
    """Sends a result and its truth to the worker; `onEnd` is called once, unless cancelled."""

    def __init__(
        self,
        result: Result,
        truth: "slicer.vtkMRMLNode",
        worker: WorkerProcess,
        files: NllFiles,
        onEnd: OnEvaluated,
    ) -> None:
        self._worker = worker
        self._onEnd = onEnd
        self._job: int | None = None
        self._cancelled = False
        self._folder = WorkFolder()
        self._stopWriting: Callable[[], None] = doNothing
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
            works = [writeNpy(voxelize(truth, result.volume), self._folder.path / TRUTH_FILE)]
        except BaseException:
            self._folder.remove()
            raise
        scan = result.scan
        # A scan that was cropped or resampled since has other voxels than its result.
        if scan is not None and scan.GetImageData() is not None:
            voxels = voxelsOf(scan)
            if voxels.shape == voxelsOf(result.volume).shape:
                works.append(writeNpy(voxels, self._folder.path / VOXELS_FILE))
                self._inputs["voxels"] = str(self._folder.path / VOXELS_FILE)
                self._inputs["modality"] = modalityOf(scan)
        self._transfer: Transfer | None = Transfer(
            inSequence(*works), lambda error: self._onWritten(error, result, files)
        )

    def _onWritten(self, error: Exception | None, result: Result, files: NllFiles) -> None:
        self._transfer = None
        if error is not None:
            self._end(Outcome(error=asUserError(error)))
            return
        try:
            self._stopWriting = files.provide(result.volume, self._submit)
        except OSError as problem:  # no folder for the file
            self._submit(None, problem)

    def _submit(self, file: Path | None, error: Exception | None) -> None:
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
            onEnd=self._onAnswer,
        )

    def _onAnswer(self, event: dict[str, Any]) -> None:
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
        """Stop; `onEnd` is not called any more."""
        self._cancelled = True
        self._stopWriting()
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None
        if self._job is not None:
            self._worker.cancel(self._job)  # its answer removes the folder
        else:
            self._folder.remove()
