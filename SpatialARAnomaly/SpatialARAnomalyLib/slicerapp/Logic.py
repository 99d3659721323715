"""What the panel can have done: detect, find at another threshold, export; one task at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import slicer
import vtk
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import (
    InputError,
    SpatialARError,
)
from SpatialARAnomalyLib.slicerapp.scene.NllFiles import NllFiles
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.ResultsDisplay import removeLegend
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    NLL_FILE,
    DemonstrationModel,
    Detection,
    DetectionSettings,
    Outcome,
    volumeDeleted,
)
from SpatialARAnomalyLib.slicerapp.tasks.Evaluation import (
    Ended,
    Evaluation,
)
from SpatialARAnomalyLib.slicerapp.tasks.Export import (
    Export,
    ExportFormat,
    nameDicomSegProblem,
    exportDicomSeg,
)
from SpatialARAnomalyLib.slicerapp.tasks.FindingsUpdate import FindingsUpdate
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess, sharedWorker


class Task(Protocol):
    """Long work that can be cancelled."""

    def cancel(self) -> None:
        """Ask it to stop; it ends by itself."""


class Logic:
    """Runs tasks in the worker and keeps the scene in order; knows no widget.

    `onProgress` hears how far a task is.
    """

    def __init__(self, worker: WorkerProcess | None = None) -> None:
        self.worker = worker = sharedWorker() if worker is None else worker
        self.onProgress: Callable[[Progress], None] = lambda progress: None
        self._task: Task | None = None
        self._cancelling = False
        self._closed = False
        self._files = NllFiles()
        self._refinding = FindingsUpdate(worker, self._files)
        scene = slicer.mrmlScene
        self._observed = [
            scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._nodeLeaves),
            scene.AddObserver(scene.StartCloseEvent, self._sceneCloses),
        ]

    def cleanup(self) -> None:
        """Stop everything; the logic is of no use afterwards, and says nothing more."""
        self._closed = True
        for tag in self._observed:
            slicer.mrmlScene.RemoveObserver(tag)
        self._observed = []
        self._refinding.cancel()
        self.onProgress = lambda progress: None
        self.cancel()
        self._files.clear()

    @property
    def busy(self) -> bool:
        """Whether a task is under way."""
        return self._task is not None

    @property
    def cancelling(self) -> bool:
        """Whether the task was asked to stop and has not yet."""
        return self._cancelling

    @property
    def finding(self) -> bool:
        """Whether findings at another threshold are being made."""
        return self._refinding.running

    def detect(
        self,
        volume: "slicer.vtkMRMLScalarVolumeNode | None",
        settings: DetectionSettings,
        onEnd: Callable[[Outcome], None],
    ) -> None:
        """Search a volume; raises `InputError` at once for one that cannot be searched."""
        self._begin(lambda end: Detection(volume, settings, self.worker, self._tell, end), onEnd)

    def makeDemonstrationModel(
        self, models: Path, device: Device, onEnd: Callable[[Outcome], None]
    ) -> None:
        """Train the model of the sample heads into the folder of models."""
        self._begin(
            lambda end: DemonstrationModel(models, device, self.worker, self._tell, end),
            onEnd,
        )

    def _tell(self, progress: Progress) -> None:
        self.onProgress(progress)

    def _begin(
        self, start: Callable[[Callable[[Outcome], None]], Task], onEnd: Callable[[Outcome], None]
    ) -> None:
        if self.busy:
            raise InputError("busy", _("Another task is running."))
        early: list[Outcome] = []

        def end(outcome: Outcome) -> None:
            if self._task is None:  # ended while it was being started
                early.append(outcome)
                return
            task, self._task = self._task, None
            self._cancelling = False
            if outcome.result is not None and isinstance(task, Detection):
                file = task.folder.path / "results" / NLL_FILE
                self._files.keep(outcome.result.volume, task.folder, file)
            if not self._closed:
                onEnd(outcome)

        try:
            self._task = start(end)
        except OSError as error:  # no folder for its files
            raise asUserError(error) from error
        if early:
            end(early[0])

    def cancel(self) -> None:
        """Ask the task to stop; it ends with an outcome without result and error."""
        if self._task is not None and not self._cancelling:
            self._cancelling = True
            self._task.cancel()

    def updateFindings(self, result: Result, onEnd: Callable[[Outcome], None]) -> None:
        """Make the findings at the result's threshold; a newer request replaces this one."""
        self._refinding.request(result, result.falsePositiveRate, result.leastVolumeMl, onEnd)

    def export(
        self,
        result: Result,
        format_: ExportFormat,
        folder: Path,
        onEnd: Callable[[Outcome, list[Path]], None],
        *,
        withRejected: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Write a result into a folder; raises `SpatialARError` where that cannot begin."""
        if format_ is not ExportFormat.DICOM_SEG:
            Export(
                result,
                format_,
                folder,
                self.worker,
                self._files,
                onEnd,
                withRejected=withRejected,
                overwrite=overwrite,
            )
            return
        problem = nameDicomSegProblem(result)
        if problem is not None:
            raise InputError("dicom-seg", problem)
        try:
            exportDicomSeg(result, folder, withRejected=withRejected)
        except Exception as error:
            raise SpatialARError(
                "dicom-seg-failed",
                _("Slicer's DICOM exporter failed ({reason}).").format(reason=error),
            ) from error
        onEnd(Outcome(), [folder])

    def evaluate(self, result: Result, truth: "slicer.vtkMRMLNode", onEnd: Ended) -> Evaluation:
        """Hold a result against a truth; raises `OSError` where there is no room for its files."""
        return Evaluation(result, truth, self.worker, self._files, onEnd)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _nodeLeaves(
        self, scene: "slicer.vtkMRMLScene", event: str, node: "slicer.vtkMRMLNode"
    ) -> None:
        if isinstance(self._task, Detection) and node.GetID() == self._task.volumeId:
            self._stop(volumeDeleted())
        # A closing scene removes the rest by itself.
        if scene.IsClosing() or not node.IsA("vtkMRMLScalarVolumeNode"):
            return
        result = Result.of(node)
        if result is not None:
            self._refinding.cancel()
            self._files.forget(result.id)
            removeLegend(result.volume)

    def _sceneCloses(self, scene: "slicer.vtkMRMLScene", event: str) -> None:
        self._refinding.cancel()
        if isinstance(self._task, Detection):
            self._stop(
                InputError(
                    "scene-closed",
                    _("The scene was closed during the detection; there is no result."),
                )
            )
        self._files.clear()

    def _stop(self, error: SpatialARError) -> None:
        try:
            self._task.stop(Outcome(error=error))
        except Exception as problem:  # an observer must not raise into VTK
            asUserError(problem)
