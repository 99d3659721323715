"""A look at the scans somebody wants to train with: what they are, which can be used, how long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import slicer

from ..engine.errors import SpatialARError
from .Detection import outcomeOf
from .ErrorWords import asUserError
from .Progress import Progress, StageProgress, stageName
from .SceneScans import SceneScans, Source
from .TrainSettings import TrainSettings
from .WorkerProcess import WorkerProcess


@dataclass(frozen=True)
class ScanRow:
    """One scan that was found."""

    name: str
    source: Source
    used: bool
    code: str
    """Why it is not used, in a word (`duplicate`, `unreadable`, …)."""
    reason: str
    """The same in a sentence."""
    modality: str
    sizeKji: tuple[int, ...]
    spacingMm: tuple[float, ...]
    """Along i, j, k."""
    slices: int | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> "ScanRow":
        """A row as the worker tells it."""
        return cls(
            name=str(row["name"]),
            source=row["source"],
            used=row["status"] == "used",
            code=str(row.get("code") or ""),
            reason=str(row.get("reason") or ""),
            modality=str(row.get("modality") or ""),
            sizeKji=tuple(row.get("shape_kji") or ()),
            spacingMm=tuple(row.get("spacing_mm") or ()),
            slices=row.get("slices"),
        )


@dataclass(frozen=True)
class Estimate:
    """What a training would take."""

    embedS: float
    fitS: float
    memoryBytes: int
    diskBytes: int
    freeDiskBytes: int


@dataclass(frozen=True)
class SurveyResult:
    """What was found."""

    rows: tuple[ScanRow, ...]
    modality: str | None
    fovMm: float | None
    estimate: Estimate | None
    estimateProblem: str

    @property
    def sources(self) -> list[Source]:
        """The scans to train with."""
        return [row.source for row in self.rows if row.used]

    @classmethod
    def of(cls, event: dict[str, Any]) -> "SurveyResult":
        """What the `result` event of a survey says."""
        estimate = event.get("estimate")
        return cls(
            rows=tuple(ScanRow.of(row) for row in event["rows"]),
            modality=event.get("modality"),
            fovMm=event.get("fov_mm"),
            estimate=None
            if estimate is None
            else Estimate(
                embedS=float(estimate["embed_s"]),
                fitS=float(estimate["fit_s"]),
                memoryBytes=int(estimate["memory_bytes"]),
                diskBytes=int(estimate["disk_bytes"]),
                freeDiskBytes=int(estimate["free_disk_bytes"]),
            ),
            estimateProblem=str(event.get("estimate_problem") or ""),
        )


class Survey:
    """Hands the ticked scans of the scene over and has the worker look at all.

    `onEnd` is called once, with a result, an error, or neither where it was cancelled.
    The files of the scene's scans stay with a result.
    """

    def __init__(
        self,
        folder: str,
        volumes: Sequence["slicer.vtkMRMLScalarVolumeNode"],
        settings: TrainSettings,
        worker: WorkerProcess,
        onProgress: Callable[[Progress], None],
        onEnd: Callable[[SurveyResult | None, SpatialARError | None], None],
    ) -> None:
        self._folder = folder
        self._settings = settings
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
        settings = self._settings
        self._job = self._worker.submit(
            "survey",
            inputs={
                "folders": [self._folder] if self._folder else [],
                "files": [],
                "volumes": volumes,
            },
            spec={
                "modality": settings.modality,
                "plane": settings.plane,
                "size_px": settings.sizePx,
                "encoder": settings.encoder,
                "preset": settings.preset,
                "epochs": settings.epochs,
                "device": settings.device,
            },
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
            result = SurveyResult.of(event)
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
