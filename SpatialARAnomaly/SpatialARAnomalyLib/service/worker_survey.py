"""The worker's survey: which scans a training could use, and what it would take.

Its result alone names scans and their places: the panel shows them, and hands
them back to train on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.device import Device, require_torch, resolve_device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.errors import Cancelled, InputError, SpatialARError, SpecError
from ..engine.progress import Reporter
from ..engine.specs import (
    AutoregressiveSpec,
    Modality,
    Plane,
    Preset,
    SliceSpec,
    Spec,
    TrainingSpec,
)
from .array_files import Affine
from .normal_scans import Survey, judge, read_scans
from .scan_candidates import find_candidates
from .sources import ArrayInput
from .training_request import DEFAULT_PRESET
from .user_errors import as_user_error, missing_package
from .user_folder import models_folder

if TYPE_CHECKING:
    from ..engine.encoder import Encoder
    from .training_estimate import TrainingEstimate


@dataclass(frozen=True, kw_only=True)
class ArraySpec(Spec):
    """A scan of the scene."""

    voxels: str
    """A `.npy` file of [k, j, i]."""
    affine: Affine
    name: str
    """As shown."""
    modality: Modality | None = None


@dataclass(frozen=True, kw_only=True)
class SurveyInputs(Spec):
    """Where scans may be."""

    folders: tuple[str, ...] = ()
    """Looked through with all that is below them."""
    files: tuple[str, ...] = ()
    volumes: tuple[ArraySpec, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SurveySpec(Spec):
    """The training that is thought of."""

    modality: Modality | None = None
    """By default that of most scans."""
    plane: Plane = Plane.AXIAL
    fov_mm: float | None = None
    size_px: int = 448
    encoder: str = DEMONSTRATION
    preset: Preset = DEFAULT_PRESET
    epochs: int = TrainingSpec.epochs
    batch_size: int = TrainingSpec.batch_size
    held_out_share: float = TrainingSpec.held_out_share
    device: Device = Device.AUTO

    def __post_init__(self) -> None:
        SliceSpec(fov_mm=1.0 if self.fov_mm is None else self.fov_mm, size_px=self.size_px)
        _ = self.training

    @property
    def training(self) -> TrainingSpec:
        """The settings of the fit."""
        return TrainingSpec(
            epochs=self.epochs, batch_size=self.batch_size, held_out_share=self.held_out_share
        )


@dataclass(frozen=True, kw_only=True)
class SurveyOutcome:
    """A survey, and what the training would take or why that cannot be told."""

    survey: Survey
    estimate: "TrainingEstimate | None" = None
    problem: SpatialARError | None = None

    def to_dict(self) -> dict[str, Any]:
        """What the `result` event says."""
        estimate = self.estimate
        found = {
            "rows": self.survey.rows,
            "modality": self.survey.modality.value if self.survey.modality else None,
            "fov_mm": self.survey.fov_mm,
            "estimate": estimate.to_dict() if estimate is not None else None,
        }
        if self.problem is not None:
            found["estimate_problem"] = str(self.problem)
        return found


def survey(
    inputs: SurveyInputs, spec: SurveySpec, output: Path | None, report: Reporter
) -> dict[str, Any]:
    """Look at all scans; what the result says of them.

    `output` is the model file that is thought of; nothing is written. Raises
    `Cancelled` through `report`.
    """
    arrays = [
        ArrayInput(voxels=Path(one.voxels), affine=one.affine, name=one.name, modality=one.modality)
        for one in inputs.volumes
    ]
    paths = [Path(one) for one in (*inputs.folders, *inputs.files)]
    return look_at(paths, arrays, spec, output, report).to_dict()


def look_at(
    paths: Sequence[Path],
    arrays: Sequence[ArrayInput],
    spec: SurveySpec,
    output: Path | None,
    report: Reporter,
) -> SurveyOutcome:
    """Survey the scans and estimate the training, in three stages."""
    report.stage("list", 1, 3)
    candidates = find_candidates(paths, arrays, report)
    report.stage("read", 2, 3)
    scans = read_scans(candidates, spec.plane, spec.modality, report)
    report.stage("estimate", 3, 3)
    encoder, problem = None, None
    try:
        encoder = _encoder(spec)
    except Exception as error:
        problem = _told(error)
    found = judge(
        scans,
        spec.modality,
        spec.fov_mm,
        spec.size_px,
        **({} if encoder is None else {"patch_px": encoder.card.patch_px}),
    )
    if encoder is None:
        return SurveyOutcome(survey=found, problem=problem)
    try:
        return SurveyOutcome(survey=found, estimate=_estimate(found, spec, encoder, output, report))
    except Cancelled:
        raise
    except Exception as error:
        return SurveyOutcome(survey=found, problem=_told(error))


def _told(error: Exception) -> SpatialARError:
    """The error as one that is shown; a bug is raised on."""
    known = missing_package(error) or as_user_error(error)
    if known is None:
        raise error
    return known


def _encoder(spec: SurveySpec) -> "Encoder":
    require_torch()
    from ..engine.encoder import load_encoder
    from ..engine.precision import best_precision

    device = resolve_device(spec.device)
    encoder = load_encoder(spec.encoder, device=device, precision=best_precision(device))
    if spec.size_px % encoder.card.patch_px:
        raise SpecError(
            "size-not-patches",
            f"The slice size must be a multiple of the encoder's patch ({encoder.card.patch_px} "
            f"px); found {spec.size_px} px.",
        )
    return encoder


def _estimate(
    found: Survey, spec: SurveySpec, encoder: "Encoder", output: Path | None, report: Reporter
) -> "TrainingEstimate":
    from .training_estimate import Plan, estimate_training

    if len(found.used) < 2 or found.modality is None or found.fov_mm is None:
        raise InputError(
            "too-few-normals",
            "Training needs at least 2 normal scans (one to learn from, one held out); "
            f"{len(found.used)} can be used.",
            "Add more scans.",
        )
    plan = Plan(
        slices=SliceSpec(plane=spec.plane, fov_mm=found.fov_mm, size_px=spec.size_px),
        modality=found.modality,
        autoregressive=AutoregressiveSpec.from_preset(spec.preset),
        training=spec.training,
    )
    return estimate_training(found.used, plan, encoder, output or models_folder(), report)
