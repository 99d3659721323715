"""The survey before a training: which scans it could use, and what it would take.

Its result alone names scans and their places: the panel shows them, and hands
them back to train on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SpatialARAnomalyLib.engine.device import require_torch, resolve_device
from SpatialARAnomalyLib.engine.errors import Cancelled, InputError, SpatialARError, SpecError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.events import as_user_error, missing_package
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.training.candidates import ScanReader, find_candidates
from SpatialARAnomalyLib.service.training.request import SurveyResult, TrainingEstimate, TrainSpec
from SpatialARAnomalyLib.service.training.survey import (
    USUAL_PATCH_PX,
    Survey,
    read_candidates,
    select_usable,
)
from SpatialARAnomalyLib.service.user_folder import models_folder

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class SurveyInputs(Spec):
    """Where scans may be."""

    folders: tuple[str, ...] = ()
    """Folders, searched with all that is below them."""
    files: tuple[str, ...] = ()
    volumes: tuple[ScanSource, ...] = ()
    """Single scans, such as arrays of the scene."""


def survey(
    inputs: SurveyInputs, spec: TrainSpec, output: Path | None, report: Reporter
) -> dict[str, Any]:
    """Do the worker's job `survey`; `output` is the model folder that is planned, if known.

    Raises `Cancelled` through `report`; nothing is written.
    """
    paths = [Path(one) for one in (*inputs.folders, *inputs.files)]
    return plan_training(paths, inputs.volumes, spec, output, report).to_dict()


def plan_training(
    paths: Sequence[Path],
    sources: Sequence[ScanSource],
    spec: TrainSpec,
    output: Path | None,
    report: Reporter,
) -> SurveyResult:
    """Survey the scans and estimate the training, in three stages.

    Raises `Cancelled` through `report`; whatever else prevents an estimate is part of the result.
    """
    report.stage("list", 1, 3)
    candidates = find_candidates(paths, sources, report)
    report.stage("read", 2, 3)
    reader = ScanReader(spec.plane, spec.modality)
    read_candidates(candidates, reader, report)
    report.stage("estimate", 3, 3)
    encoder, estimate, problem = None, None, None
    try:
        encoder = _load_encoder(spec)
    except Exception as error:
        problem = _as_problem(error)
    patch_px = USUAL_PATCH_PX if encoder is None else encoder.card.patch_px
    found = select_usable(candidates, spec, patch_px)
    if encoder is not None:
        try:
            estimate = _estimate(found, spec, encoder, reader, output, report)
        except Cancelled:
            raise
        except Exception as error:
            problem = _as_problem(error)
    return SurveyResult(
        rows=tuple(candidate.row(found.modality) for candidate in candidates),
        modality=found.modality,
        fov_mm=found.fov_mm,
        estimate=estimate,
        estimate_problem=None if problem is None else str(problem),
    )


def _as_problem(error: Exception) -> SpatialARError:
    """The error as one that is shown; a bug is raised on."""
    known = missing_package(error) or as_user_error(error)
    if known is None:
        raise error
    return known


def _load_encoder(spec: TrainSpec) -> "Encoder":
    require_torch()
    from SpatialARAnomalyLib.engine.encoder.precision import best_precision
    from SpatialARAnomalyLib.service.encoders.loading import load_encoder

    device = resolve_device(spec.device)
    precision = spec.precision or best_precision(device)
    encoder = load_encoder(spec.encoder, device=device, precision=precision, allow_download=False)
    check_size(spec, encoder.card.patch_px)
    return encoder


def check_size(spec: TrainSpec, patch_px: int) -> None:
    """Raise `SpecError` unless the slice size is a multiple of the encoder's patch."""
    if spec.size_px % patch_px:
        raise SpecError(
            "size-not-patches",
            f"The slice size must be a multiple of the encoder's patch ({patch_px} px); "
            f"found {spec.size_px} px.",
            f"Use {max(1, round(spec.size_px / patch_px)) * patch_px} px.",
        )


def check_count(usable: int) -> None:
    """Raise `InputError` unless there is a scan to learn from and one to hold out."""
    if usable < 2:
        raise InputError(
            "too-few-normals",
            "Training needs at least 2 normal scans (one to learn from, one held out); "
            f"{usable} can be used.",
            "Add more scans.",
        )


def _estimate(
    found: Survey,
    spec: TrainSpec,
    encoder: "Encoder",
    reader: ScanReader,
    output: Path | None,
    report: Reporter,
) -> TrainingEstimate | None:
    from SpatialARAnomalyLib.service.training.estimate import estimate_training

    check_count(len(found.used))
    if found.modality is None or found.fov_mm is None:
        return None
    resolved = spec.resolve(found.modality, found.fov_mm)
    return estimate_training(
        found.used, resolved, encoder, reader, output or models_folder(), report
    )
