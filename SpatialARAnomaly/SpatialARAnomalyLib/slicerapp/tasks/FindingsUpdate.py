"""The findings of a result at another threshold: made by the worker, put into its nodes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
    moveReviews,
    addTable,
    readReviews,
    writeFindings,
)
from SpatialARAnomalyLib.slicerapp.scene.NllFiles import NllFiles
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.Segments import (
    addSegmentation,
    wasEdited,
    writeSegments,
)
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
    """Finds again in the NLL volume of one result; a newer request replaces an older one."""

    def __init__(self, worker: WorkerProcess, files: NllFiles) -> None:
        self._worker = worker
        self._files = files
        self._stopWriting: Callable[[], None] = lambda: None
        self._job: int | None = None
        self._loading: Transfer | None = None
        self._folder: WorkFolder | None = None
        self._turn = 0
        self._running = False

    @property
    def running(self) -> bool:
        """Whether findings are being made."""
        return self._running

    def request(
        self,
        result: Result,
        rate: float,
        leastVolumeMl: float,
        onEnd: Callable[[Outcome], None],
    ) -> None:
        """Make the result's findings anew; `onEnd` is called unless a newer request comes."""
        self.cancel()
        self._running = True
        turn, resultId = self._turn, result.id
        calibration = result.calibration.to_dict()

        def provided(file: Path | None, error: Exception | None) -> None:
            if turn != self._turn:
                return
            volume = slicer.mrmlScene.GetNodeByID(resultId)
            if file is None or volume is None:
                self._running = False
                onEnd(Outcome(error=asUserError(error) if error is not None else None))
                return
            try:
                folder = WorkFolder()
            except OSError as problem:
                self._running = False
                onEnd(Outcome(error=asUserError(problem)))
                return
            self._job = self._worker.submit(
                "find",
                inputs={
                    "nll": str(file),
                    "ras_from_voxel": rasFromVoxel(volume).tolist(),
                    "calibration": calibration,
                },
                spec={"false_positive_rate": rate, "min_volume_ml": leastVolumeMl},
                output=folder.path / "results",
                onEnd=lambda event: answered(event, folder),
            )

        def answered(event: dict[str, Any], folder: WorkFolder) -> None:
            if turn != self._turn:
                folder.remove()
                return
            self._job = None
            if event["event"] != "result":
                end(outcomeOf(event), folder)
                return
            try:
                labels, steps = loadLabels(event)
            except (OSError, ValueError) as error:
                end(Outcome(error=asUserError(error)), folder)
                return
            self._folder = folder
            self._loading = Transfer(steps, lambda error: loaded(error, event, labels, folder))

        def loaded(
            error: Exception | None,
            event: dict[str, Any],
            labels: np.ndarray | None,
            folder: WorkFolder,
        ) -> None:
            self._loading = self._folder = None
            if error is not None:
                end(Outcome(error=asUserError(error)), folder)
            else:
                end(self._outcome(event, labels, resultId, rate, leastVolumeMl), folder)

        def end(outcome: Outcome, folder: WorkFolder) -> None:
            folder.remove()
            self._running = False
            onEnd(outcome)

        try:
            self._stopWriting = self._files.provide(result.volume, provided)
        except OSError as problem:  # no folder for its file
            provided(None, problem)

    def cancel(self) -> None:
        """Drop a request that is under way."""
        self._turn += 1
        self._running = False
        self._stopWriting()
        if self._job is not None:
            self._worker.cancel(self._job)
            self._job = None
        if self._loading is not None and self._folder is not None:
            self._loading.cancel()
            self._folder.remove()
            self._loading = self._folder = None

    def _outcome(
        self,
        event: dict[str, Any],
        labels: np.ndarray | None,
        resultId: str,
        rate: float,
        leastVolumeMl: float,
    ) -> Outcome:
        result = Result.of(slicer.mrmlScene.GetNodeByID(resultId))
        if result is None:
            return Outcome()
        try:
            notices = replaceFindings(result, event, labels)
        except Exception as error:  # whatever it is, the search must end
            return Outcome(error=asUserError(error))
        result.leastVolumeMl = leastVolumeMl
        return Outcome(result=result, notices=notices)


def replaceFindings(
    result: Result, event: dict[str, Any], labels: np.ndarray | None
) -> tuple[str, ...]:
    """Put new findings into the result's nodes; what the user should know.

    Reviews follow their places. Segments that somebody edited stay as they
    are: the new ones then come in a segmentation of their own.
    """
    notices = []
    start = event["labels_start_kji"] or (0, 0, 0)
    affine = rasFromVoxel(result.volume)
    rows = event["findings"]
    # A result outlives its scan: both have the same grid.
    scan = result.scan if result.scan is not None else result.volume
    segmentation, seen = result.segmentation, True
    display = segmentation.GetDisplayNode() if segmentation is not None else None
    if segmentation is not None and display is None:
        # Slice views of Slicer 5.12 keep a pointer to the deleted display node
        # and follow it when a segment changes: whoever writes here ends Slicer.
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
        seen = bool(display.GetVisibility())
        display.SetVisibility(False)
        segmentation = None
    if segmentation is None:
        segmentation = addSegmentation(_("{name} anomalies").format(name=scan.GetName()), scan)
        segmentation.GetDisplayNode().SetVisibility(seen)
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
