"""Evaluation in memory: cases and a model in, metrics and curves with their intervals out."""

import dataclasses
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.evaluation.evaluation import (
    Evaluation,
    ScoredCase,
    SearchRule,
    evaluate_cases,
    score_case,
)
from SpatialARAnomalyLib.engine.evaluation.metrics import PooledCounts, ScoreCounts
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.slices.intensity import scale_intensity
from SpatialARAnomalyLib.engine.slices.slice_stack import SliceStack
from SpatialARAnomalyLib.engine.specs import EvaluationSpec, FindingsSpec
from SpatialARAnomalyLib.service.detection.detect import (
    Clock,
    Detection,
    PreparedScan,
    find_in_scan,
    prepare_scan,
    report_rough_threshold,
    score_scan,
)
from SpatialARAnomalyLib.service.detection.model_cache import Model
from SpatialARAnomalyLib.service.evaluation.cases import Case, find_cases

if TYPE_CHECKING:
    import torch

Keep = Callable[[int, Detection, Bool[np.ndarray, "k j i"]], None]
"""Takes a scan's number (from 1), its detection and its lesion voxels."""

POINTS = 20
"""Number of thresholds from one in ten normal voxels to one in a million; half as many follow."""


@dataclass(frozen=True, kw_only=True)
class ScanFacts:
    """Values of a scan that stand beside its counts."""

    name: str = ""
    """Name of its file, without suffix."""
    sha256: str
    """Hash of its content (`Volume.content_sha256`)."""
    voxel_ml: float
    case_p_value: float | None
    """Case p-value (`Calibration.case_p_value`)."""
    unlike: bool = False
    """True if the scan does not look like the model's normal scans."""


@dataclass(frozen=True, eq=False, kw_only=True)
class CaseScores:
    """What an evaluation keeps of a scan."""

    counts: dict[str, ScoredCase]
    """Counts by kind of scores."""
    fact: ScanFacts
    slices: int
    """Number of slices that were scored."""
    device: str
    hardware: str

    def write(self, path: Path) -> None:
        """Write the scores as a file of arrays (`.npz`)."""
        arrays: dict[str, np.ndarray] = {}
        about: dict[str, Any] = {"fact": dataclasses.asdict(self.fact), "kinds": {}}
        about |= {"slices": self.slices, "device": self.device, "hardware": self.hardware}
        for kind, case in self.counts.items():
            values = {field.name: getattr(case, field.name) for field in dataclasses.fields(case)}
            counts = values.pop("counts")
            values |= {"scores": counts.scores, "histogram": counts.counts, "exact": counts.exact}
            for name in _ARRAYS:
                arrays[f"{kind}.{name}"] = values.pop(name)
            about["kinds"][kind] = values
        arrays["about"] = np.array(json.dumps(about, default=lambda one: one.item()))  # numpy's
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]

    @classmethod
    def read(cls, path: Path) -> "CaseScores":
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            counts = {}
            for kind, values in about.pop("kinds").items():
                scores, histogram, found, false_findings = (
                    file[f"{kind}.{name}"] for name in _ARRAYS
                )
                exact = values.pop("exact")
                counts[kind] = ScoredCase(
                    counts=ScoreCounts(scores=scores, counts=histogram, exact=exact),
                    found=found,
                    false_findings=false_findings,
                    **values,
                )
        fact = ScanFacts(**about.pop("fact"))
        return cls(counts=counts, fact=fact, **about)


_ARRAYS = ("scores", "histogram", "found", "false_findings")
"""Arrays of the counts of a case."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluated:
    """Outcome of an evaluation."""

    evaluations: dict[str, Evaluation]
    """Metrics and curves by kind of scores: `nll` is the model (`wording.SCORE_WORDS`)."""
    cases: list[dict[str, ScoredCase]]
    """Counts of every scan, by kind of scores."""
    facts: list[ScanFacts]
    spec: FindingsSpec
    threshold_nll: float
    context: dict[str, Any]
    """Model, settings and hardware, for the record."""

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of scans, patients, normal scans and lesions."""
        cases = [case["nll"] for case in self.cases]
        return {
            "scans": len(cases),
            "patients": len({case.patient for case in cases}),
            "normal_scans": sum(case.normal for case in cases),
            "lesions": sum(case.lesions for case in cases),
        }

    @property
    def lesion_share(self) -> float:
        """Share of lesion voxels among all that count: the average precision by chance."""
        tally = PooledCounts.of([case["nll"].counts for case in self.cases]).tally(
            np.ones(len(self.cases))
        )
        return float(tally.lesion.sum() / (tally.lesion.sum() + tally.normal.sum()))


@dataclass(frozen=True, eq=False)
class CheckedCases:
    """Cases that were read and checked against a model's card."""

    cases: Sequence[Case]
    slices: int
    """Number of slices of all scans together that hold some of the body."""
    mismatches: tuple[str, ...]
    """Differences from the model's normal scans, where they are allowed; each once."""


def check_cases(
    cases: Sequence[Case], card: ModelCard, allow_mismatch: bool, report: Reporter
) -> CheckedCases:
    """Read and check every case, so that an evaluation does not fail at the last after hours.

    Raises:
        InputError: A scan or ground truth cannot be used; the message names the case.
        ModelError: A scan differs from the model's normal scans; with `allow_mismatch`, a
            notice is reported instead.
    """
    if not cases:
        raise InputError("cases-none", "Expected scans to evaluate; there are none.")
    if len(cases) > 1 and not any(case.patient for case in cases):
        report.notice(
            "patients-unknown",
            "No patients are named: each scan is treated as a separate patient. If a patient has "
            "several scans, name the patients; otherwise intervals are too narrow.",
        )
    slices = 0
    mismatches: set[str] = set()
    told: set[str] = set()
    for number, case in enumerate(cases, start=1):
        report.check_cancelled()
        with case.named(number):
            volume, _ = case.read(report)
            scan = prepare_scan(volume, card, allow_mismatch, SilentReporter())
        mismatched = [("model-mismatch", one) for one in scan.mismatches]
        for code, text in (*mismatched, *scan.plane_volume.notices):
            if text not in told:  # scans of one scanner have the same ones
                report.notice(code, text)
            told.add(text)
        mismatches.update(scan.mismatches)
        slices += len(scan.plane_volume.counted_slices)
        report.progress(number, len(cases), "scan")
    return CheckedCases(cases, slices, tuple(sorted(mismatches)))


def evaluate(
    cases: Path | str | Sequence[Case] | CheckedCases,
    model: Model,
    spec: EvaluationSpec = EvaluationSpec(),
    *,
    allow_mismatch: bool = False,
    report: Reporter = SilentReporter(),
    clock: Clock | None = None,
    keep: Keep | None = None,
) -> Evaluated:
    """Score scans with a model and compare the scores with the ground truth.

    Plain intensity is scored beside the model, as a baseline. All cases are read and checked
    before the first is scored.

    Args:
        cases: A CSV table or a folder (`find_cases`), cases, or the result of `check_cases`.
        model: From `load_model`.
        spec: Which voxels make a finding, and how intervals are drawn.
        allow_mismatch: Score scans of another modality, spacing or size than the model's.
        report: Receives stages, progress and notices, and may cancel by raising `Cancelled`.
        clock: Clock to record the stages in; by default a new one.
        keep: Receives every scan's detection, which is not kept otherwise.

    Raises:
        InputError: A scan or ground truth cannot be used.
        ModelError: A scan differs from the model's normal scans.
    """
    card, clock = model.card, clock or Clock()
    if not isinstance(cases, CheckedCases):
        report.stage("check", 1, 4)
        found = find_cases(Path(cases), report) if isinstance(cases, Path | str) else cases
        cases = check_cases(found, card, allow_mismatch, report)
        clock.lap("check")
    report_rough_threshold(card.calibration, spec.false_positive_rate, report)

    report.stage("score", 2, 4)
    scored: list[CaseScores] = []
    slices = 0
    for number, case in enumerate(cases.cases, start=1):
        report.check_cancelled()
        part = PartOfStage(report, slices, cases.slices)
        scored.append(score_one(case, number, model, spec, part, keep))
        slices += scored[-1].slices
    return summarize(cases, scored, card, spec, report, clock)


def summarize(
    cases: CheckedCases,
    scored: Sequence[CaseScores],
    card: ModelCard,
    spec: EvaluationSpec,
    report: Reporter,
    clock: Clock,
) -> Evaluated:
    """Return the evaluation of scored cases; raises `Cancelled` through `report`."""
    counts, facts = [one.counts for one in scored], [one.fact for one in scored]
    clock.lap("score")
    report_unsuitable(facts, card, report)

    report.stage("resample", 3, 4)
    rules = search_rules(card.calibration, spec)
    evaluations = evaluate_scores(counts, rules, spec.resamples, spec.seed, report)
    clock.lap("resample")
    return Evaluated(
        evaluations=evaluations,
        cases=counts,
        facts=facts,
        spec=spec,
        threshold_nll=card.calibration.threshold(spec.false_positive_rate),
        context={
            "model": {
                "name": card.name,
                "weights_sha256": card.weights_sha256,
                "modality": card.modality.value,
                "plane": card.slices.plane.value,
                "encoder": card.encoder.name,
                "encoder_weights_sha256": card.encoder.weights_sha256,
                "encoder_notice": card.encoder.notice,
            },
            "mismatches_allowed": list(cases.mismatches),
            "seed": spec.seed,
            "device": scored[0].device,
            "hardware": scored[0].hardware,
            "seconds": clock.seconds,
        },
    )


def score_one(
    case: Case,
    number: int,
    model: Model,
    spec: EvaluationSpec,
    report: Reporter = SilentReporter(),
    keep: Keep | None = None,
) -> CaseScores:
    """Score the scan of a case, whose number (from 1) stands for an unnamed patient.

    Raises as `evaluate` does.
    """
    card = model.card
    rules = search_rules(card.calibration, spec)
    volume, truth = case.read()
    scan = prepare_scan(volume, card, True, SilentReporter())
    stack, nll, verdict = score_scan(scan, model, report)
    unlike = verdict is not None and verdict.unlike
    counts, fact = _count(case, number, scan, stack, nll, unlike, truth, card, rules, report)
    if keep is not None:
        keep(number, find_in_scan(scan, stack, nll, verdict, model, spec, {}), truth)
    device = model.encoder.device
    return CaseScores(
        counts=counts,
        fact=fact,
        slices=len(stack.indices),
        device=str(device),
        hardware=_hardware(device),
    )


def search_rules(calibration: Calibration, spec: FindingsSpec) -> dict[str, SearchRule]:
    """Return how scores become findings, by kind of scores.

    The thresholds of the NLL's curve are rates of normal voxels from one in ten to one in a
    million, and values above all normal ones; those of the intensity, in [0, 1], are evenly
    spaced. Only the NLL has a calibrated threshold.
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


def score_kinds(
    nll: Float[np.ndarray, "k j i"],
    intensity: Float[np.ndarray, "k j i"] | None,
    body: Bool[np.ndarray, "k j i"],
    truth: Bool[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    rules: Mapping[str, SearchRule],
    patient: str,
    report: Reporter,
) -> dict[str, ScoredCase]:
    """Count one scan by kind of scores: the NLL, and the intensity (in [0, 1]) if it is given.

    Raises `InputError` as `score_case` does, `Cancelled` through `report`.
    """
    scores = {"nll": nll}
    if intensity is not None:
        scores["intensity"] = intensity
        scores["intensity_distance"] = np.abs(intensity - np.median(intensity[body]))
    scored = {}
    for kind, values in scores.items():
        report.check_cancelled()
        scored[kind] = score_case(values, body, truth, ras_from_voxel, rules[kind], patient)
    return scored


def evaluate_scores(
    cases: list[dict[str, ScoredCase]],
    rules: Mapping[str, SearchRule],
    resamples: int,
    seed: int,
    report: Reporter,
) -> dict[str, Evaluation]:
    """Evaluate all scans by kind of scores."""
    kinds = list(cases[0])
    total = resamples * len(kinds)
    return {
        kind: evaluate_cases(
            [case[kind] for case in cases],
            rules[kind],
            PartOfStage(report, index * resamples, total),
            resamples,
            seed,
        )
        for index, kind in enumerate(kinds)
    }


class PartOfStage:
    """A reporter for one part of a stage: adds its progress to that of the parts before."""

    def __init__(self, whole: Reporter, before: int, total: int) -> None:
        self._before, self._total = before, total
        self._whole = whole
        self.epoch, self.notice, self.stage = whole.epoch, whole.notice, whole.stage
        self.check_cancelled = whole.check_cancelled

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report `done` units of this part, after those before."""
        self._whole.progress(self._before + done, self._total, unit)


def report_unsuitable(facts: Sequence[ScanFacts], card: ModelCard, report: Reporter) -> None:
    """Report how many scans do not look like the model's normal scans, or are among them."""
    normals = {*card.normals.training_sha256, *card.normals.held_out_sha256}
    for code, count, text in (
        ("scan-unlike", sum(one.unlike for one in facts), "do not look like its normal scans"),
        ("scan-known", sum(one.sha256 in normals for one in facts), "were used to make it"),
    ):
        if count:
            report.notice(
                code, f"{count} of {len(facts)} scans do not suit the model: they {text}."
            )


def _count(
    case: Case,
    number: int,
    scan: PreparedScan,
    stack: SliceStack,
    nll: Float[np.ndarray, "k j i"],
    unlike: bool,
    truth: Bool[np.ndarray, "k j i"],
    card: ModelCard,
    rules: Mapping[str, SearchRule],
    report: Reporter,
) -> tuple[dict[str, ScoredCase], ScanFacts]:
    """Return the counts of one scan, and the values beside them."""
    volume = scan.volume
    intensity = scale_intensity(volume.voxels, stack.value_range, card.intensity)
    body, patient = stack.inside_volume(), case.patient or f"scan {number}"
    scored = score_kinds(nll, intensity, body, truth, volume.ras_from_voxel, rules, patient, report)
    fact = ScanFacts(
        name=case.name,
        sha256=volume.content_sha256(),
        voxel_ml=volume.voxel_ml,
        case_p_value=card.calibration.case_p_value(scored["nll"].case_score),
        unlike=unlike,
    )
    return scored, fact


def _hardware(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
