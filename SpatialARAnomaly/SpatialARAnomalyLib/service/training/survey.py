"""The survey of scans to learn from: which a training can use, why not the others, and its cost.

A bad file excludes one scan and stops nothing. Only the result of a survey names scans and their
places: the panel shows them, and sends them back to train on.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SpatialARAnomalyLib.engine.cards.suitability import verdicts
from SpatialARAnomalyLib.engine.device import require_torch, resolve_device
from SpatialARAnomalyLib.engine.errors import Cancelled, InputError, SpatialARError, SpecError
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.scoring.suitability_fit import distances_from_others
from SpatialARAnomalyLib.engine.specs import Modality, Spec
from SpatialARAnomalyLib.engine.volumes.geometry import lengths_text
from SpatialARAnomalyLib.engine.volumes.refusals import UNSTATED
from SpatialARAnomalyLib.service.events import as_user_error, missing_package
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.text import unlike_text
from SpatialARAnomalyLib.service.training.candidates import (
    Candidate,
    NormalScan,
    ScanReader,
    find_candidates,
)
from SpatialARAnomalyLib.service.training.patients import name_patients
from SpatialARAnomalyLib.service.training.request import SurveyResult, TrainSpec
from SpatialARAnomalyLib.service.user_folder import models_folder

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder

MEASURES_WITHOUT_ENCODER = ("contrast", "shape")
"""Measures by which scans are compared before they are embedded."""

MIN_SLICES = 3
"""Slices that must hold some of the body."""

MIN_TOKENS = 2.0
"""Width of the body in tokens; a narrower one may lie between the tokens' centers."""

USUAL_EXTENT_MM = 250.0
"""Extent of a body (a head is smaller, a trunk larger), to tell which of two units is wrong."""

MAX_FACTOR = 2.0
"""Largest factor between the spacing of a scan and the median spacing."""

USUAL_PATCH_PX = 16
"""Patch of a DINOv3 ViT in pixels, where the encoder is not known."""

FOV_MARGIN = 1.1
"""Default field of view in units of the largest body."""

FOV_STEP_MM = 10.0
"""The default field of view is rounded up to a multiple of this."""


@dataclass(frozen=True, kw_only=True)
class SurveyInputs(Spec):
    """Places to search for scans."""

    folders: tuple[str, ...] = ()
    """Folders, searched with all that is below them."""
    files: tuple[str, ...] = ()
    """Volume files, or tables of scans (`find_candidates`)."""
    volumes: tuple[ScanSource, ...] = ()
    """Single scans, such as arrays of the scene."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The scans that a training can use, and the modality and field of view of their model."""

    used: Sequence[NormalScan]
    modality: Modality | None
    fov_mm: float | None
    """None where no scan can be used."""


def survey(
    inputs: SurveyInputs, spec: TrainSpec, output: Path | None, report: Reporter
) -> dict[str, Any]:
    """Do the worker's job `survey`; `output` is the folder of the planned model, if known.

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

    Raises `Cancelled` through `report`; any other obstacle to an estimate is part of the result.
    """
    report.stage("list", 1, 3)
    candidates = find_candidates(paths, sources, report)
    report.stage("read", 2, 3)
    reader = ScanReader.of(spec)
    read_candidates(candidates, reader, report)
    report.stage("estimate", 3, 3)
    encoder, estimate, problem = None, None, None
    try:
        require_torch()
        encoder = load_training_encoder(spec, SilentReporter())
    except Exception as error:
        problem = _as_problem(error)
    patch_px = USUAL_PATCH_PX if encoder is None else encoder.card.patch_px
    found = select_usable(candidates, spec, patch_px)
    if encoder is not None:
        try:
            check_count(found.used)
            if found.modality is not None and found.fov_mm is not None:
                from SpatialARAnomalyLib.service.training.estimate import estimate_training

                resolved = spec.resolve(found.modality, found.fov_mm)
                folder = output or models_folder()
                estimate = estimate_training(found.used, resolved, encoder, reader, folder, report)
        except Cancelled:
            raise
        except Exception as error:
            problem = _as_problem(error)
    return SurveyResult(
        rows=tuple(candidate.row(found.modality) for candidate in candidates),
        modality=found.modality,
        fov_mm=found.fov_mm,
        estimate=estimate,
        estimate_problem=problem,
    )


def _as_problem(error: Exception) -> dict[str, Any]:
    """Return the error as `SurveyResult.estimate_problem`; raises it again if it is a bug."""
    known = missing_package(error) or as_user_error(error)
    if known is None:
        raise error
    return {"code": known.code, "text": known.message, "facts": known.facts}


def load_training_encoder(
    spec: TrainSpec, report: Reporter, *, allow_download: bool = False
) -> "Encoder":
    """Load the encoder of a training; raises `SpecError` if its patch does not fit the slices."""
    from SpatialARAnomalyLib.engine.encoder.precision import best_precision
    from SpatialARAnomalyLib.service.encoders.loading import load_encoder

    device = resolve_device(spec.device)
    encoder = load_encoder(
        spec.encoder,
        device=device,
        precision=spec.precision or best_precision(device),
        allow_download=allow_download,
        report=report,
    )
    patch_px = encoder.card.patch_px
    if spec.size_px % patch_px:
        raise SpecError(
            "size-not-patches",
            f"The slice size must be a multiple of the encoder's patch ({patch_px} px); "
            f"found {spec.size_px} px.",
            nearest_px=max(1, round(spec.size_px / patch_px)) * patch_px,
        )
    return encoder


def check_count(used: Sequence[NormalScan]) -> None:
    """Raise `InputError` unless there are a patient to learn from and one to hold out."""
    if len(used) < 2:
        raise InputError(
            "too-few-normals",
            "Training needs at least 2 normal scans (one to learn from, one held out); "
            f"{len(used)} can be used.",
        )
    if len({one.patient for one in used}) < 2:
        raise InputError(
            "too-few-patients",
            "Training needs scans of at least 2 patients (one to learn from, one held out); all "
            f"{len(used)} scans seem to be of one ({used[0].patient.split()[0]}).",
        )


def read_candidates(
    candidates: Sequence[Candidate], reader: ScanReader, report: Reporter, *, strict: bool = False
) -> None:
    """Read every candidate once; exclude those that cannot be read, with the reason.

    Raises `Cancelled` through `report`. Only with `strict`, the first candidate that cannot be
    read raises `InputError`.
    """
    for done, candidate in enumerate(candidates, start=1):
        report.check_cancelled()
        if candidate.code is None:
            _read(candidate, reader, report)
        if strict:
            candidate.refuse()
        report.progress(done, len(candidates), "volume")


_CODES = {"modality-unsupported": "other-modality", UNSTATED: "no-orientation"}
"""Why a scan is excluded (`ScanRow.code`), by the code of the error."""


def _read(candidate: Candidate, reader: ScanReader, report: Reporter) -> None:
    if candidate.source.path is not None:
        candidate.source = replace(candidate.source, orientation=reader.orientation)
    try:
        candidate.scan = reader.read(candidate.source, report.check_cancelled)
    except Cancelled:
        raise
    except SpatialARError as error:
        candidate.exclude(_CODES.get(error.code, "unreadable"), error.message, error)
    except MemoryError:
        candidate.exclude("unreadable", "The scan is too large for the memory of this machine.")
    except Exception as error:  # the readers' libraries raise anything for damaged files
        candidate.exclude("unreadable", f"The scan cannot be read ({type(error).__name__}).")


def select_usable(
    candidates: Sequence[Candidate], spec: TrainSpec, patch_px: int = USUAL_PATCH_PX
) -> Survey:
    """Exclude candidates that do not fit the others; return the usable scans with their patients.

    The modality is the user's or that of most scans, the field of view the user's or the
    default for the usable scans.
    """
    scans = _exclude_copies(candidates)
    modality = spec.modality or _majority(one.stated or one.inferred for one in scans)
    if modality is not None:
        _exclude_other_modality(candidates, modality, trusted=_is_trusted(scans, spec.modality))
    for candidate, scan in _remaining(candidates):
        if scan.body_slices < MIN_SLICES:
            candidate.exclude(
                "too-small",
                f"Only {scan.body_slices} of its slices hold some of the body; at least "
                f"{MIN_SLICES} are needed.",
            )
    _exclude_other_spacing(candidates)
    remaining = _remaining(candidates)
    if not remaining:
        return Survey(used=(), modality=modality, fov_mm=None)
    fov_mm = spec.fov_mm or default_fov_mm(scan.extent_mm for _, scan in remaining)
    token_mm = spec.slices(fov_mm).pixel_mm * patch_px
    for candidate, scan in remaining:
        if min(scan.extent_mm) < MIN_TOKENS * token_mm:
            candidate.exclude(
                "too-small",
                f"The body must be wider than {MIN_TOKENS:g} tokens of "
                f"{lengths_text([token_mm])} mm; it has {lengths_text([min(scan.extent_mm)])} mm.",
            )
    name_patients([candidate for candidate, _ in _remaining(candidates)])
    _doubt_unlike(_remaining(candidates))
    used = [scan for _, scan in _remaining(candidates)]
    return Survey(used=used, modality=modality, fov_mm=fov_mm if used else None)


def _doubt_unlike(used: list[tuple[Candidate, NormalScan]]) -> None:
    """Doubt scans that do not look like the others, as far as that shows without an encoder."""
    patients = [candidate.source.patient or scan.sha256 for candidate, scan in used]
    if len(set(patients)) < 2:
        return
    looks = [scan.look for _, scan in used]
    distances = distances_from_others(looks, patients, MEASURES_WITHOUT_ENCODER)
    found = verdicts(distances, MEASURES_WITHOUT_ENCODER)
    for (candidate, _), verdict in zip(used, found, strict=True):
        if verdict is not None and verdict.unlike:
            candidate.doubt = f"Check that it is like the others: {unlike_text(verdict)}."


def default_fov_mm(extents_mm: Iterable[tuple[float, float]]) -> float:
    """Return the side in mm of a square that holds every body, given their heights and widths."""
    largest = max(max(extent) for extent in extents_mm)
    return math.ceil(FOV_MARGIN * largest / FOV_STEP_MM) * FOV_STEP_MM


def _remaining(candidates: Iterable[Candidate]) -> list[tuple[Candidate, NormalScan]]:
    """Return the candidates that were read and are not excluded."""
    return [(one, one.scan) for one in candidates if one.code is None and one.scan is not None]


def _exclude_copies(candidates: Sequence[Candidate]) -> list[NormalScan]:
    """Exclude scans with the content of an earlier one; return the others."""
    first: dict[str, Candidate] = {}
    for candidate, scan in _remaining(candidates):
        earlier = first.setdefault(scan.sha256, candidate)
        if earlier is not candidate:
            candidate.exclude("duplicate", f"It has the same content as {earlier.name}.")
    return [scan for _, scan in _remaining(candidates)]


def _majority(modalities: Iterable[Modality]) -> Modality | None:
    counted = Counter(modalities).most_common(1)  # the first of equally frequent ones
    return counted[0][0] if counted else None


def _is_trusted(scans: Sequence[NormalScan], given: Modality | None) -> bool:
    """Return whether the user's modality counts more than the one inferred from values.

    It does where another one is inferred for most scans whose files state none (MR phase images
    have values as low as CT); else the scans with another one are the exception.
    """
    inferred = _majority(one.inferred for one in scans if one.stated is None)
    return given is not None and inferred not in (None, given)


def _exclude_other_modality(
    candidates: Sequence[Candidate], modality: Modality, *, trusted: bool
) -> None:
    for candidate, scan in _remaining(candidates):
        found = scan.stated or (modality if trusted else scan.inferred)
        if found is not modality:
            how = "is" if scan.stated is not None else "looks like"
            candidate.exclude("other-modality", f"It {how} {found}; the others are {modality}.")


def _exclude_other_spacing(candidates: Sequence[Candidate]) -> None:
    remaining = _remaining(candidates)
    if not remaining:
        return
    scans = [scan for _, scan in remaining]
    pixel_mm = _usual_mm([(mm, max(one.extent_mm)) for one in scans for mm in one.pixel_mm])
    slice_mm = _usual_mm([(one.slice_mm, max(one.extent_mm)) for one in scans])
    for candidate, scan in remaining:
        measures = [("Pixels", mm, pixel_mm) for mm in scan.pixel_mm]
        for what, found, usual in (*measures, ("Slices", scan.slice_mm, slice_mm)):
            if candidate.code is None and not usual / MAX_FACTOR <= found <= usual * MAX_FACTOR:
                candidate.exclude(
                    "other-spacing",
                    f"{what} are {lengths_text([found])} mm apart; most scans have "
                    f"{lengths_text([usual])} mm.",
                )


def _usual_mm(found: list[tuple[float, float]]) -> float:
    """Return the median of distances, each given with the extent of its scan's body in mm.

    Of two in the middle it is that of the more usual extent: of two scans, the one in a wrong
    unit of length is not the usual one.
    """
    ordered = sorted(found)
    middle = ordered[(len(found) - 1) // 2], ordered[len(found) // 2]
    return min(middle, key=lambda one: abs(math.log(one[1] / USUAL_EXTENT_MM)))[0]
