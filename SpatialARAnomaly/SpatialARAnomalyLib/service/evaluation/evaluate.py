"""The evaluation job: scans with truths and a model in, metrics, curves and a picture out."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.device import (
    Device,
    require_torch,
    resolve_device,
)
from SpatialARAnomalyLib.engine.errors import (
    OutputError,
    SpecError,
)
from SpatialARAnomalyLib.engine.evaluation.evaluation import (
    Evaluation,
    ScoredCase,
    SearchRule,
    evaluate_cases,
    score_case,
)
from SpatialARAnomalyLib.engine.model.model_file import (
    ModelCard,
    load_model,
)
from SpatialARAnomalyLib.engine.progress import (
    Reporter,
    SilentReporter,
)
from SpatialARAnomalyLib.engine.slices.intensity import scale_intensity
from SpatialARAnomalyLib.engine.slices.slice_stack import SliceStack
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.service.detection.find_anomalies import (
    Clock,
    suit,
    tell_rough_threshold,
)
from SpatialARAnomalyLib.service.encoders.loading import load_model_encoder
from SpatialARAnomalyLib.service.evaluation.cases import (
    Case,
    find_cases,
)
from SpatialARAnomalyLib.service.evaluation.files import (
    EVALUATION_FILES,
    MARKER,
    write_evaluation,
)
from SpatialARAnomalyLib.service.evaluation.outcome import (
    Evaluated,
    ScanFacts,
)
from SpatialARAnomalyLib.service.outputs import (
    is_marked,
    write_atomically,
)

if TYPE_CHECKING:
    import torch

    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel


POINTS = 20
"""Thresholds at which lesions found are held against false findings, at most twice as many."""


def rules(calibration: Calibration, spec: FindingsSpec) -> dict[str, SearchRule]:
    """How every kind of scores becomes findings.

    The NLL's curve is taken at rates of normal voxels from one in ten to one
    in a million, and on above all of them; the intensity's, which lies in
    [0, 1], evenly. Only the NLL has a calibrated threshold.
    """
    low, highest = calibration.threshold(0.1), calibration.nll[-1]
    within = [calibration.threshold(rate) for rate in np.logspace(-1, -6, POINTS).tolist()]
    above = np.linspace(highest, highest + 3 * max(highest - low, 1e-6), POINTS // 2).tolist()
    threshold = calibration.threshold(spec.false_positive_rate)
    nll = SearchRule(
        threshold=threshold,
        min_volume_ml=spec.min_volume_ml,
        thresholds=tuple(sorted({*within, *above, threshold})),
    )
    even = tuple((np.arange(1, POINTS + 1) / POINTS).tolist())
    plain = SearchRule(threshold=None, min_volume_ml=spec.min_volume_ml, thresholds=even)
    return {"nll": nll, "intensity": plain, "intensity_distance": plain}


def score_all(
    nll: Float[np.ndarray, "k j i"],
    intensity: Float[np.ndarray, "k j i"] | None,
    body: Bool[np.ndarray, "k j i"],
    truth: Bool[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    how: Mapping[str, SearchRule],
    patient: str,
    report: Reporter,
) -> dict[str, ScoredCase]:
    """One scan counted for every kind of scores; without `intensity` (in [0, 1]) for the NLL's.

    Raises `InputError` as `score_case` does, `Cancelled` through `report`.
    """
    scores = {"nll": nll}
    if intensity is not None:
        scores["intensity"] = intensity
        scores["intensity_distance"] = np.abs(intensity - np.median(intensity[body]))
    scored = {}
    for kind, values in scores.items():
        report.check_cancelled()
        scored[kind] = score_case(values, body, truth, ras_from_voxel, how[kind], patient)
    return scored


def evaluate_all(
    cases: list[dict[str, ScoredCase]],
    how: Mapping[str, SearchRule],
    resamples: int,
    seed: int,
    report: Reporter,
) -> dict[str, Evaluation]:
    """Every kind of scores evaluated over all scans."""
    kinds = list(cases[0])
    total = resamples * len(kinds)
    return {
        kind: evaluate_cases(
            [case[kind] for case in cases],
            how[kind],
            PartOfStage(report, place * resamples, total),
            resamples,
            seed,
        )
        for place, kind in enumerate(kinds)
    }


class PartOfStage:
    """A reporter for one part of a stage: its progress counts on from the parts before."""

    def __init__(self, whole: Reporter, before: int, total: int) -> None:
        self._before, self._total = before, total
        self._whole = whole
        self.epoch, self.notice, self.stage = whole.epoch, whole.notice, whole.stage
        self.check_cancelled = whole.check_cancelled

    def progress(self, done: int, total: int, unit: str) -> None:
        """`done` of this part are finished, after those before."""
        self._whole.progress(self._before + done, self._total, unit)


RESAMPLES = 1000
"""Enough for the ends of a 95 % interval to hold still in the second digit."""

MAX_RESAMPLES = 100_000


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What the user asks an evaluation to do."""

    cases: Path
    """A CSV table or a folder (`find_cases`)."""
    model: Path
    out: Path
    encoder: str | None = None
    """Where the model's encoder is; by default where it was last found."""
    findings: FindingsSpec = field(default_factory=FindingsSpec)
    resamples: int = RESAMPLES
    seed: int = 0
    device: Device = Device.AUTO
    allow_download: bool = False
    allow_mismatch: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.resamples <= MAX_RESAMPLES:
            raise SpecError(
                "spec-value", f"resamples must lie in [0, {MAX_RESAMPLES}]; found {self.resamples}."
            )
        if self.seed < 0:
            raise SpecError("spec-value", f"seed must not be negative; found {self.seed}.")


def evaluate(request: EvaluateRequest, report: Reporter) -> tuple[Evaluated, dict[str, Path]]:
    """Score scans, hold the scores against their truths and write the results.

    All scans and truths are read and checked before the first is scored. Gives
    the files by what they hold. Raises `SpatialARError` for a case, model or
    output that cannot be used, `Cancelled` through `report`; nothing is written
    in either case.
    """
    require_torch()
    clock = Clock()
    _check_replaceable(request)
    names = list(EVALUATION_FILES.values())
    with write_atomically(request.out, names, overwrite=request.overwrite) as partial:
        report.stage("check", 1, 4)
        card, model = load_model(request.model)
        cases = find_cases(request.cases)
        _tell_patients(cases, report)
        tell_rough_threshold(card.calibration, request.findings.false_positive_rate, report)
        checks = _Checks(card, request.allow_mismatch)
        for case in cases:
            report.check_cancelled()
            checks.look_at(case, report)
            report.progress(case.number, len(cases), "scan")
        device = resolve_device(request.device)
        encoder = load_model_encoder(card, request.encoder, device, request.allow_download)
        model = model.to(device)
        clock.lap("check")

        report.stage("score", 2, 4)
        how = rules(card.calibration, request.findings)
        scored: list[dict[str, ScoredCase]] = []
        facts: list[ScanFacts] = []
        slices = 0
        for case in cases:
            part = PartOfStage(report, slices, checks.slices)
            one, fact, done = _score(case, card, model, encoder, how, part)
            scored.append(one)
            facts.append(fact)
            slices += done
        clock.lap("score")

        report.stage("resample", 3, 4)
        evaluations = evaluate_all(scored, how, request.resamples, request.seed, report)
        clock.lap("resample")

        report.stage("write", 4, 4)
        evaluated = Evaluated(
            evaluations=evaluations,
            cases=scored,
            facts=facts,
            spec=request.findings,
            threshold_nll=card.calibration.threshold(request.findings.false_positive_rate),
            context={
                "model": _model_facts(card),
                "mismatches_allowed": sorted(checks.mismatches),
                "seed": request.seed,
                "device": str(device),
                "hardware": _hardware(device),
                "seconds": clock.seconds,
            },
        )
        write_evaluation(partial, evaluated, report)
    return evaluated, {kind: request.out / name for kind, name in EVALUATION_FILES.items()}


def _check_replaceable(request: EvaluateRequest) -> None:
    """Only an earlier evaluation is replaced: a table of cases may be called as ours is."""
    marker = request.out / EVALUATION_FILES["evaluation"]
    there = [name for name in EVALUATION_FILES.values() if (request.out / name).exists()]
    if request.overwrite and there and not is_marked(marker, MARKER):
        raise OutputError(
            "output-not-an-evaluation",
            f"Only an earlier evaluation is replaced; {there[0]} in the output folder is of none.",
        )


def _tell_patients(cases: list[Case], report: Reporter) -> None:
    if all(case.patient == f"scan {case.number}" for case in cases) and len(cases) > 1:
        report.notice(
            "patients-unknown",
            "No patients are told: every scan counts as a patient's only one. If a patient has "
            "several, name patients in the table, else intervals are too narrow.",
        )


class _Checks:
    """A first look at every case, so that the last does not fail after hours."""

    def __init__(self, card: ModelCard, allow_mismatch: bool) -> None:
        self._card, self._allow = card, allow_mismatch
        self.slices = 0
        """Of all scans together, those that hold some of the body."""
        self.mismatches: set[str] = set()

    def look_at(self, case: Case, report: Reporter) -> None:
        volume, _ = case.read()
        with case.named():
            scan = suit(volume, self._card, self._allow, SilentReporter())
        for mismatch in scan.mismatches:
            if mismatch not in self.mismatches:  # scans of one scanner share theirs
                report.notice("model-mismatch", mismatch)
        self.mismatches.update(scan.mismatches)
        self.slices += len(scan.turned.body_slices)


def _score(
    case: Case,
    card: ModelCard,
    model: "AutoregressiveModel",
    encoder: "Encoder",
    how: Any,
    report: PartOfStage,
) -> tuple[dict[str, ScoredCase], ScanFacts, int]:
    """One scan counted, what is told of it, and how many slices it had."""
    from SpatialARAnomalyLib.engine.scoring.scoring import nll_volume
    from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume

    report.check_cancelled()
    volume, truth = case.read()
    turned = PlaneVolume(volume, card.slices.plane, card.modality)
    stack = SliceStack(turned, card.slices, card.intensity, encoder.card.patch_px)
    nll = nll_volume(stack, encoder, model, report)
    intensity = scale_intensity(volume.voxels, stack.value_range, card.intensity)
    body = stack.inside_volume()
    scored = score_all(
        nll, intensity, body, truth, volume.ras_from_voxel, how, case.patient, report
    )
    fact = ScanFacts(
        sha256=volume.content_sha256(),
        voxel_ml=volume.voxel_ml,
        case_p_value=card.calibration.case_p_value(scored["nll"].case_score),
    )
    return scored, fact, len(stack.indices)


def _model_facts(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "weights_sha256": card.weights_sha256,
        "modality": card.modality.value,
        "plane": card.slices.plane.value,
        "encoder": card.encoder.name,
        "encoder_weights_sha256": card.encoder.weights_sha256,
        "encoder_notice": card.encoder.notice,
    }


def _hardware(device: "torch.device") -> str:
    """What the scores were computed on."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
