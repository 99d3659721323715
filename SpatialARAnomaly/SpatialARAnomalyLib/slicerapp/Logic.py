"""Logic of the module: detect, update findings, export, evaluate; independent of widgets.

`startDetection` and the like return at once, for the panel; `Scripting` has the blocking calls.
"""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import slicer
import vtk
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.slicerapp.QtHelpers import doNothing
from SpatialARAnomalyLib.slicerapp.scene.NllFiles import NllFiles
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.ResultsDisplay import removeFromViews
from SpatialARAnomalyLib.slicerapp.tasks.Detection import (
    NLL_FILE,
    DemonstrationModel,
    Detection,
    DetectionSettings,
    Outcome,
    volumeDeleted,
)
from SpatialARAnomalyLib.slicerapp.tasks.DicomVolume import DicomVolume
from SpatialARAnomalyLib.slicerapp.tasks.Evaluation import Evaluation, OnEvaluated
from SpatialARAnomalyLib.slicerapp.tasks.Export import (
    Export,
    ExportFormat,
    checkDicomSeg,
    exportDicomSeg,
    hasDicomExporter,
)
from SpatialARAnomalyLib.slicerapp.tasks.FindingsUpdate import FindingsUpdate
from SpatialARAnomalyLib.slicerapp.tasks.SavedResult import SavedResult, SavedScan
from SpatialARAnomalyLib.slicerapp.wording.Errors import asUserError
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess, sharedWorker

BEFORE_SLICER = 10.0
"""Priority of an observer that is called before those of Slicer's widgets."""


class Task(Protocol):
    """Long work that can be cancelled."""

    def cancel(self) -> None:
        """Request the end; the task's `onEnd` is still called."""


class Logic:
    """Runs tasks in the worker, one at a time, and keeps the scene consistent.

    `onProgress` is called with the progress of the running task, `onBusyChanged` when a task has
    begun or ended, whoever started it.
    """

    def __init__(self, worker: WorkerProcess | None = None) -> None:
        self.worker = worker = sharedWorker() if worker is None else worker
        self.onProgress: Callable[[Progress], None] = doNothing
        self.onBusyChanged: Callable[[], None] = doNothing
        self._task: Task | None = None
        self._cancelling = False
        self._files = NllFiles()
        self._findingsUpdate = FindingsUpdate(worker, self._files)
        scene = slicer.mrmlScene
        removed = vtk.calldata_type(vtk.VTK_OBJECT)(_weak(self._onNodeAboutToBeRemoved))
        tags = (
            scene.AddObserver(scene.NodeAboutToBeRemovedEvent, removed, BEFORE_SLICER),
            scene.AddObserver(scene.StartCloseEvent, _weak(self._onSceneStartClose)),
        )
        # A script may drop its logic without `cleanup`.
        self._release = weakref.finalize(self, _release, tags, self._files)
        self._release.atexit = False

    def cleanup(self) -> None:
        """Stop everything; a running task ends as cancelled. The logic cannot be used again."""
        self._findingsUpdate.cancel()
        self.onProgress = self.onBusyChanged = doNothing
        self.cancel()
        self._release()

    @property
    def busy(self) -> bool:
        """True while a task is running."""
        return self._task is not None

    @property
    def cancelling(self) -> bool:
        """True from the cancellation of a task until its end."""
        return self._cancelling

    @property
    def finding(self) -> bool:
        """True while findings are being updated."""
        return self._findingsUpdate.running

    def startDetection(
        self,
        volume: "slicer.vtkMRMLScalarVolumeNode | None",
        settings: DetectionSettings,
        onEnd: Callable[[Outcome], None],
        mask: "slicer.vtkMRMLNode | None" = None,
    ) -> None:
        """Search a volume, or its part in a label map or segmentation.

        Raises `InputError` at once for a volume that cannot be searched.
        """
        self._start(
            lambda end: Detection(volume, settings, self.worker, self._reportProgress, end, mask),
            onEnd,
        )

    def loadDicomVolume(
        self,
        node: "slicer.vtkMRMLScalarVolumeNode",
        choose: Callable[[list[str]], int | None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        """Load one of several volumes of a node's DICOM series; `choose` returns its index."""
        self._start(
            lambda end: DicomVolume(node, self.worker, choose, self._reportProgress, end), onEnd
        )

    def loadSaved(self, scan: SavedScan, onEnd: Callable[[Outcome], None]) -> None:
        """Load a scan of a batch and its result into the scene."""
        self._start(lambda end: SavedResult(scan, self.worker, self._reportProgress, end), onEnd)

    def makeDemonstrationModel(
        self, models: Path, device: Device, onEnd: Callable[[Outcome], None]
    ) -> None:
        """Train the demonstration model and save it in the folder of models."""
        self._start(
            lambda end: DemonstrationModel(models, device, self.worker, self._reportProgress, end),
            onEnd,
        )

    def _reportProgress(self, progress: Progress) -> None:
        self.onProgress(progress)

    def _start(
        self, start: Callable[[Callable[[Outcome], None]], Task], onEnd: Callable[[Outcome], None]
    ) -> None:
        if self.busy:
            raise InputError("busy", _("Another task is running."))
        early: list[Outcome] = []

        def end(outcome: Outcome) -> None:
            if self._task is None:  # the task ended before its constructor returned
                early.append(outcome)
                return
            task, self._task = self._task, None
            self._cancelling = False
            if outcome.result is not None and isinstance(task, Detection):
                file = task.folder.path / "results" / NLL_FILE
                self._files.keep(outcome.result.volume, task.folder, file)
            self.onBusyChanged()
            onEnd(outcome)

        try:
            self._task = start(end)
        except OSError as error:  # no folder for the files
            raise asUserError(error) from error
        if early:
            end(early[0])
        else:
            self.onBusyChanged()

    def cancel(self) -> None:
        """Cancel the task; it ends with an outcome without result and error."""
        if self._task is not None and not self._cancelling:
            self._cancelling = True
            self._task.cancel()

    def updateFindings(self, result: Result, onEnd: Callable[[Outcome], None]) -> None:
        """Update the findings to the result's threshold; a newer request replaces this one."""
        self._findingsUpdate.request(result, onEnd)

    def export(
        self,
        result: Result,
        format_: ExportFormat,
        folder: Path,
        onEnd: Callable[[Outcome, list[Path]], None],
        *,
        withRejected: bool = False,
        overwrite: bool = False,
        inScene: bool = False,
    ) -> None:
        """Write a result into a folder; raises `SpatialARError` where that cannot begin.

        Positions are those of the scan's own space, or of the scene (`inScene`).
        """
        if not folder.is_absolute():
            raise InputError("export-folder", _("Expected a folder to export to; none is chosen."))
        if format_ is ExportFormat.DICOM_SEG:
            checkDicomSeg(result)
            if hasDicomExporter():
                exportDicomSeg(result, folder, withRejected=withRejected)
                onEnd(Outcome(), [folder])
                return
        Export(
            result,
            format_,
            folder,
            self.worker,
            self._files,
            onEnd,
            withRejected=withRejected,
            overwrite=overwrite,
            inScene=inScene,
        )

    def evaluate(
        self, result: Result, truth: "slicer.vtkMRMLNode", onEnd: OnEvaluated
    ) -> Evaluation:
        """Compare a result with a ground truth; raises `OSError` if its files do not fit."""
        return Evaluation(result, truth, self.worker, self._files, onEnd)

    def _onNodeAboutToBeRemoved(
        self, scene: "slicer.vtkMRMLScene", event: str, node: "slicer.vtkMRMLNode"
    ) -> None:
        if isinstance(self._task, Detection) and node.GetID() == self._task.volumeId:
            self._fail(volumeDeleted())
        # A closing scene removes the result's other nodes by itself.
        if scene.IsClosing() or not node.IsA("vtkMRMLScalarVolumeNode"):
            return
        result = Result.of(node)
        if result is not None:
            self._findingsUpdate.cancel()
            self._files.forget(result.id)
            removeFromViews(result.volume)

    def _onSceneStartClose(self, scene: "slicer.vtkMRMLScene", event: str) -> None:
        self._findingsUpdate.cancel()
        if isinstance(self._task, SavedResult):
            self.cancel()
        if isinstance(self._task, Detection):
            self._fail(
                InputError(
                    "scene-closed",
                    _("The scene was closed during the detection; there is no result."),
                )
            )
        self._files.clear()

    def _fail(self, error: SpatialARError) -> None:
        try:
            self._task.fail(error)
        except Exception as problem:  # an observer must not raise into VTK
            asUserError(problem)


def _weak(method: Callable[..., None]) -> Callable[..., None]:
    """Return an observer that does not keep its logic alive."""
    reference = weakref.WeakMethod(method)

    def observe(*arguments: object) -> None:
        living = reference()
        if living is not None:
            living(*arguments)

    return observe


def _release(tags: Sequence[int], files: NllFiles) -> None:
    for tag in tags:
        slicer.mrmlScene.RemoveObserver(tag)
    files.clear()
