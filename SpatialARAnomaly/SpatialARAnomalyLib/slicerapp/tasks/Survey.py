"""The survey of the scans for a training: which can be used, and what it would take."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import slicer

from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.service.training.request import (
    SurveyResult,
    TrainSpec,
)
from SpatialARAnomalyLib.slicerapp.scene.SceneScans import (
    SceneScans,
    Source,
)
from SpatialARAnomalyLib.slicerapp.tasks.Detection import outcomeOf
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.Progress import (
    Progress,
    StageProgress,
    stageName,
)
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess


class Survey:
    """Hands the ticked scans of the scene over and has the worker look at all.

    `onEnd` is called once, with a result, an error, or neither where it was cancelled.
    The files of the scene's scans stay with a result.
    """

    def __init__(
        self,
        folder: str,
        volumes: Sequence["slicer.vtkMRMLScalarVolumeNode"],
        spec: TrainSpec,
        worker: WorkerProcess,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[SurveyResult | None, SpatialARError | None], None],
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._worker = worker
        self._onProgress = onProgress
        self._onEnd = onEnd
        self._stages = StageProgress()
        self._job: int | None = None
        self._cancelled = False
        self._ended = False
        self.scans: SceneScans | None = None
        if volumes:
            self.scans = SceneScans(volumes, self._handing, self._handed)
        else:
            self._submit([])

    def cancel(self) -> None:
        """Stop looking."""
        self._cancelled = True
        if self._job is not None:
            self._worker.cancel(self._job)
        else:
            self._end(None, None)

    def _handing(self, done: int, total: int) -> None:
        self._onProgress(Progress(done / max(1, total), stageName("send")))

    def _handed(self, sources: list[Source], error: Exception | None) -> None:
        if error is not None:
            self._end(None, asUserError(error))
        else:
            self._submit(sources)

    def _submit(self, volumes: list[Source]) -> None:
        self._job = self._worker.submit(
            "survey",
            inputs={
                "folders": [self._folder] if self._folder else [],
                "files": [],
                "volumes": volumes,
            },
            spec=self._spec.to_dict(),
            onEvent=self._heard,
            onEnd=self._answered,
        )

    def _heard(self, event: dict[str, Any]) -> None:
        progress = self._stages.hear(event)
        if progress is not None and not self._ended:
            self._onProgress(progress)

    def _answered(self, event: dict[str, Any]) -> None:
        if self._cancelled or event["event"] != "result":
            self._end(None, None if self._cancelled else outcomeOf(event).error)
            return
        try:
            names = {field.name for field in fields(SurveyResult)}
            known = {name: value for name, value in event.items() if name in names}
            result = SurveyResult.from_dict(known)
        except Exception as error:  # whatever it is, the survey must end
            self._end(None, asUserError(error))
            return
        self._end(result, None)

    def _end(self, result: SurveyResult | None, error: SpatialARError | None) -> None:
        if self._ended:
            return
        self._ended = True
        if result is None and self.scans is not None:
            self.scans.stop()
            self.scans = None
        self._onEnd(result, error)
