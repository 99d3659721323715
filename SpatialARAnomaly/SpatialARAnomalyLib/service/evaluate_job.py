"""The evaluation job: scans with truths and a model in, metrics, curves and a picture out."""

import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine.device import Device, require_torch, resolve_device
from ..engine.errors import OutputError, SpecError
from ..engine.evaluation import ScoredCase
from ..engine.intensity import scale_intensity
from ..engine.model_store import ModelCard, load_model
from ..engine.progress import Reporter, SilentReporter
from ..engine.slicing import SliceStack
from ..engine.specs import FindingsSpec
from .clock import Clock
from .evaluation_cases import Case, find_cases
from .evaluation_curves import Evaluated, ScanFacts
from .evaluation_files import EVALUATION_FILES, MARKER, write_evaluation
from .evaluation_scores import PartOfStage, evaluate_all, rules, score_all
from .find_anomalies import suit, tell_rough_threshold
from .model_encoder import load_model_encoder
from .outputs import appear_together, is_marked

if TYPE_CHECKING:
    import torch

    from ..engine.autoregressive import AutoregressiveModel
    from ..engine.encoder import Encoder

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
    with appear_together(request.out, names, overwrite=request.overwrite) as partial:
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
    from ..engine.detection import nll_volume
    from ..engine.plane_volume import PlaneVolume

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
