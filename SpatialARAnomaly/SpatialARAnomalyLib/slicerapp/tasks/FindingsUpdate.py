"""New findings of a result after its threshold changed: made by the worker, put into its nodes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.QtHelpers import doNothing
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
    addTable,
    moveReviews,
    readReviews,
    writeFindings,
)
from SpatialARAnomalyLib.slicerapp.scene.NllFiles import NllFiles
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.Segments import addSegmentation, wasEdited, writeSegments
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    Outcome,
    loadLabels,
    outcomeOf,
    placeBeside,
)
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import Transfer, WorkFolder
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess


class FindingsUpdate:
    """Updates the findings of one result at a time; a newer request replaces an older one."""

    def __init__(self, worker: WorkerProcess, files: NllFiles) -> None:
        self._worker = worker
        self._files = files
        self._stopWriting: Callable[[], None] = doNothing
        self._job: int | None = None
        self._loading: Transfer | None = None
        self._folder: WorkFolder | None = None
        self._request = 0
        self.running = False

    def request(self, result: Result, onEnd: Callable[[Outcome], None]) -> None:
        """Update the findings to the result's threshold and smallest volume.

        `onEnd` is called unless a newer request replaces this one.
        """
        self.cancel()
        self.running = True
        number, resultId = self._request, result.id
        rate, leastVolumeMl = result.falsePositiveRate, result.leastVolumeMl
        calibration = result.calibration.to_dict()
        tokenMm = result.tokenMm

        def provideScan(file: Path | None, error: Exception | None) -> None:
            """Write the scan to a file, too, if outlines are refined; without it they are raw."""
            volume = slicer.mrmlScene.GetNodeByID(resultId)
            scan = Result(volume).scan if volume is not None else None
            if number != self._request or file is None or tokenMm is None or scan is None:
                submit(file, error, None)
                return
            try:
                self._stopWriting = self._files.provide(
                    scan, lambda voxels, problem: submit(voxels and file, problem, voxels)
                )
            except OSError as problem:  # no folder for the file
                submit(None, problem, None)

        def submit(file: Path | None, error: Exception | None, voxels: Path | None) -> None:
            if number != self._request:
                return
            volume = slicer.mrmlScene.GetNodeByID(resultId)
            if file is None or volume is None:
                end(Outcome(error=None if error is None else asUserError(error)))
                return
            try:
                folder = WorkFolder()
            except OSError as problem:
                end(Outcome(error=asUserError(problem)))
                return
            self._job = self._worker.submit(
                "find",
                inputs={
                    "nll": str(file),
                    "ras_from_voxel": rasFromVoxel(volume).tolist(),
                    "calibration": calibration,
                }
                | ({} if voxels is None else {"voxels": str(voxels), "token_mm": tokenMm}),
                spec={
                    "false_positive_rate": rate,
                    "min_volume_ml": leastVolumeMl,
                    "refine_outlines": voxels is not None,
                },
                output=folder.path / "results",
                onEnd=lambda event: load(event, folder),
            )

        def load(event: dict[str, Any], folder: WorkFolder) -> None:
            if number != self._request:
                folder.remove()
                return
            self._job = None
            self._folder = folder
            if event["event"] != "result":
                end(outcomeOf(event))
                return
            try:
                labels, steps = loadLabels(event)
            except (OSError, ValueError) as error:
                end(Outcome(error=asUserError(error)))
                return
            self._loading = Transfer(steps, lambda error: replace(error, event, labels))

        def replace(
            error: Exception | None, event: dict[str, Any], labels: np.ndarray | None
        ) -> None:
            self._loading = None
            result = Result.of(slicer.mrmlScene.GetNodeByID(resultId))
            if error is None and result is None:
                end(Outcome())
                return
            try:
                if error is not None:
                    raise error
                notices = replaceFindings(result, event, labels)
                result.leastVolumeMl = leastVolumeMl
            except Exception as problem:  # the task must end in any case
                end(Outcome(error=asUserError(problem)))
                return
            end(Outcome(result=result, notices=notices))

        def end(outcome: Outcome) -> None:
            self._removeFolder()
            self.running = False
            onEnd(outcome)

        try:
            self._stopWriting = self._files.provide(result.volume, provideScan)
        except OSError as problem:  # no folder for the file
            submit(None, problem, None)

    def cancel(self) -> None:
        """Drop the present request."""
        self._request += 1
        self.running = False
        self._stopWriting()
        if self._job is not None:
            self._worker.cancel(self._job)
            self._job = None
        if self._loading is not None:
            self._loading.cancel()
            self._loading = None
        self._removeFolder()

    def _removeFolder(self) -> None:
        if self._folder is not None:
            self._folder.remove()
            self._folder = None


def replaceFindings(
    result: Result, event: dict[str, Any], labels: np.ndarray | None
) -> tuple[str, ...]:
    """Put new findings into the result's nodes; return notices for the user.

    Reviews follow their places. An edited segmentation is kept, and the new
    findings come in another one.
    """
    notices = []
    start = event["labels_start_kji"] or (0, 0, 0)
    affine = rasFromVoxel(result.volume)
    rows = event["findings"]
    # A result may outlive its scan; both have the same grid.
    scan = result.scan if result.scan is not None else result.volume
    segmentation, visible = result.segmentation, True
    display = segmentation.GetDisplayNode() if segmentation is not None else None
    if segmentation is not None and display is None:
        # Slice views of Slicer 5.12 keep a pointer to the deleted display node and
        # follow it when a segment changes: writing here would crash Slicer.
        notices.append(
            _(
                "The segmentation lost its display settings: it is kept, "
                "and the new findings are in another one."
            )
        )
        segmentation = None
    elif segmentation is not None and wasEdited(segmentation):
        notices.append(
            _(
                "The segmentation was edited by hand: it is kept, "
                "and the new findings are in another one."
            )
        )
        visible = bool(display.GetVisibility())
        display.SetVisibility(False)
        segmentation = None
    if segmentation is None:
        segmentation = addSegmentation(_("{name} anomalies").format(name=scan.GetName()), scan)
        segmentation.GetDisplayNode().SetVisibility(visible)
        placeBeside(segmentation, scan)
        result.segmentation = segmentation
    writeSegments(segmentation, labels, start, affine, rows)
    table = result.table
    if table is None:
        table = addTable(_("{name} findings").format(name=scan.GetName()))
        placeBeside(table, scan)
        result.table = table
    reviews = moveReviews(readReviews(table), labels, start, affine)
    writeFindings(table, rows, reviews)
    return tuple(notices)
