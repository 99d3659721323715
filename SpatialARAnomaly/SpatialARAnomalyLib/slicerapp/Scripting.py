"""Blocking calls for Slicer's Python console and for scripts: detect and train.

They run in the worker process, as from the panel; Slicer's events are processed meanwhile.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.service.models.listing import list_models
from SpatialARAnomalyLib.service.training.request import SurveyResult, TrainSpec
from SpatialARAnomalyLib.slicerapp import Settings
from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.QtHelpers import doNothing, waitFor
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.tasks.Detection import DetectionSettings, Outcome
from SpatialARAnomalyLib.slicerapp.tasks.Survey import Survey
from SpatialARAnomalyLib.slicerapp.tasks.Training import TrainingRequest, modelFile, sharedTrainer
from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress

OnProgress = Callable[[float, str], None]
"""Receives the completed share, 0 to 1, and what is being done."""


class ScriptingLogic(Logic):
    """The logic with blocking calls for scripts."""

    def detect(
        self,
        volume: "slicer.vtkMRMLScalarVolumeNode",
        model: str | Path,
        *,
        mask: "slicer.vtkMRMLNode | None" = None,
        onProgress: OnProgress = doNothing,
        **settings: Any,
    ) -> Result:
        """Search a volume and return the result when it is in the scene.

        Args:
            volume: The scan.
            model: Name of a model in the models folder, or its file.
            mask: Label map or segmentation of where to look.
            onProgress: Called with the completed share and a text.
            settings: Fields of `DetectionSettings`: `falsePositiveRate`, `leastVolumeMl`, `device`,
                `allowMismatch`, `refineOutlines`.

        Raises:
            SpatialARError: The volume or model cannot be used, the worker failed, or the user
                cancelled; the scene is as it was.
        """
        chosen = DetectionSettings(model=findModel(model), **settings)
        before = self.onProgress

        def report(progress: Progress) -> None:
            before(progress)
            onProgress(progress.share, progress.text)

        self.onProgress = report
        try:
            outcome: Outcome = waitFor(lambda end: self.startDetection(volume, chosen, end, mask))
        finally:
            if self.onProgress is report:  # the panel's, unless the module was reloaded
                self.onProgress = before
        if outcome.error is not None:
            raise outcome.error
        if outcome.result is None:
            raise _cancelled()
        return outcome.result

    def train(
        self,
        scans: "str | Path | Sequence[slicer.vtkMRMLScalarVolumeNode]",
        name: str,
        *,
        folder: str | Path | None = None,
        onProgress: OnProgress = doNothing,
        **settings: Any,
    ) -> Path:
        """Train a model on normal scans and return its file; an unfinished training is resumed.

        Args:
            scans: A folder or table of normal scans, or volumes of the scene.
            name: Name of the model; it is stored in the model.
            folder: Folder of the model; by default the models folder.
            onProgress: Called with the completed share and a text.
            settings: Fields of `TrainSpec`: `preset`, `encoder`, `epochs`, `size_px`, `plane`, …

        Raises:
            SpatialARError: Too few scans can be used, the worker failed, or the user cancelled.
        """
        trainer, spec = sharedTrainer(), TrainSpec(name=name, **settings)
        if trainer.running:
            raise InputError("busy", _("Another training is running."))

        def report(progress: Progress) -> None:
            onProgress(progress.share, progress.text)

        isFolder = isinstance(scans, str | Path)
        surveys: list[Survey] = []
        result: SurveyResult | None
        result, error = waitFor(
            lambda end: surveys.append(
                Survey(
                    str(Path(scans).expanduser()) if isFolder else "",
                    () if isFolder else scans,
                    spec,
                    trainer.worker,
                    report,
                    lambda *ended: end(ended),
                )
            )
        )
        if error is not None:
            raise error
        if result is None:
            raise _cancelled()
        request = TrainingRequest(
            model=modelFile(name, Settings.modelsFolder() if folder is None else Path(folder)),
            sources=tuple(result.sources),
            spec=replace(spec, modality=result.modality, fov_mm=result.fov_mm),
            files=surveys[0].files,
        )
        ends: list[Callable[[Outcome], None]] = []

        def changed() -> None:
            training = trainer.training
            if training is not None and training.running:
                report(training.progress)
            elif training is not None:
                for end in ends:
                    end(training.outcome or Outcome())

        def run(end: Callable[[Outcome], None]) -> None:
            ends.append(end)
            trainer.train(request)

        trainer.watchers.append(changed)
        try:
            outcome: Outcome = waitFor(run)
        finally:
            trainer.watchers.remove(changed)
            if request.files is not None:
                trainer.releaseFiles(request.files)
        if outcome.error is not None:
            raise outcome.error
        if not request.model.exists():
            raise _cancelled()
        return request.model


def findModel(model: str | Path) -> Path:
    """Return the file of a model, given as a file or by its name in the models folder."""
    path = Path(model).expanduser()
    if path.is_file():
        return path
    entries = list_models(Settings.modelsFolder())
    found = [one.path for one in entries if str(model) in (one.name, one.path.stem, one.path.name)]
    if not found:
        raise InputError(
            "model-missing", _("There is no model {name}.").format(name=Path(model).name)
        )
    return found[0]


def _cancelled() -> SpatialARError:
    return SpatialARError("cancelled", _("Cancelled."))
