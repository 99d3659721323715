"""Survey of the scans for a training: which can be used, and an estimate of the training."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.service.training.request import SurveyResult, TrainSpec
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import (
    modalityOf,
    rasFromVoxel,
    volumeState,
    voxelsOf,
)
from SpatialARAnomalyLib.slicerapp.tasks.Detection import outcomeOf
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.ArrayTransfer import Transfer, WorkFolder, writeNpy
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress, progressCallback, stageName
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

Source = dict[str, Any]
"""A scan as an input of the worker's jobs."""


class Survey:
    """Writes the chosen scans of the scene to files and has the worker survey all candidates.

    `onEnd` is called once, with a result, an error, or neither if cancelled.
    `files` holds the scans of the scene; it is kept after a result and removed otherwise.
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
        self._reportProgress = progressCallback(onProgress)
        self._volumeIds = [node.GetID() for node in volumes]
        self._sources: list[Source] = []
        self._transfer: Transfer | None = None
        self._job: int | None = None
        self._cancelled = False
        self._ended = False
        self.files: WorkFolder | None = WorkFolder() if volumes else None
        self._writeNext()

    def cancel(self) -> None:
        """Stop the survey."""
        self._cancelled = True
        if self._job is not None:
            self._worker.cancel(self._job)
        else:
            self._end(None, None)

    def _writeNext(self) -> None:
        done, total = len(self._sources), len(self._volumeIds)
        if done == total:
            self._submit()
            return
        self._onProgress(Progress(done / total, stageName("send")))
        node = slicer.mrmlScene.GetNodeByID(self._volumeIds[done])
        if node is None:
            self._end(None, _scanChanged())
            return
        state = volumeState(node)
        file = self.files.path / f"scan-{done}.npy"
        source = {
            "voxels": str(file),
            "affine": rasFromVoxel(node).tolist(),
            "name": node.GetName(),
            "modality": modalityOf(node),
        }

        def onWritten(error: Exception | None) -> None:
            self._transfer = None
            if error is None and volumeState(node) != state:
                error = _scanChanged()
            if error is not None:
                self._end(None, asUserError(error))
                return
            self._sources.append(source)
            self._writeNext()

        self._transfer = Transfer(writeNpy(voxelsOf(node), file), onWritten)

    def _submit(self) -> None:
        self._job = self._worker.submit(
            "survey",
            inputs={
                "folders": [self._folder] if self._folder else [],
                "files": [],
                "volumes": self._sources,
            },
            spec=self._spec.to_dict(),
            onEvent=self._onWorkerEvent,
            onEnd=self._onAnswer,
        )

    def _onWorkerEvent(self, event: dict[str, Any]) -> None:
        if not self._ended:
            self._reportProgress(event)

    def _onAnswer(self, event: dict[str, Any]) -> None:
        if self._cancelled or event["event"] != "result":
            self._end(None, None if self._cancelled else outcomeOf(event).error)
            return
        try:
            names = {field.name for field in fields(SurveyResult)}
            known = {name: value for name, value in event.items() if name in names}
            result = SurveyResult.from_dict(known)
        except Exception as error:  # the task must end in any case
            self._end(None, asUserError(error))
            return
        self._end(result, None)

    def _end(self, result: SurveyResult | None, error: SpatialARError | None) -> None:
        if self._ended:
            return
        self._ended = True
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None
        if result is None and self.files is not None:
            self.files.remove()
            self.files = None
        self._onEnd(result, error)


def _scanChanged() -> InputError:
    return InputError("scan-changed", _("A scan was changed or deleted while it was sent."))
