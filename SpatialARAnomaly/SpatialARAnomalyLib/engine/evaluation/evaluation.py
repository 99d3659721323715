"""Scores held against the truth: voxel, lesion and scan metrics with intervals by patient.

Scans are folded in one by one (`score_case`) and kept as counts, so that memory
does not grow with their voxels; `evaluate` turns the counts into metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from SpatialARAnomalyLib.engine.evaluation import metrics as voxel_metrics
from SpatialARAnomalyLib.engine.evaluation.lesions import Lesions, search
from SpatialARAnomalyLib.engine.evaluation.metrics import (
    NO_LESION,
    Interval,
    PooledCounts,
    ScoreCounts,
    Undefined,
    count_scores,
    interval,
    patient_weights,
)
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import case_score

NO_THRESHOLD = "these scores have no calibrated threshold"


@dataclass(frozen=True, kw_only=True)
class SearchRule:
    """How scores become findings, the same for every scan."""

    threshold: float | None
    """Calibrated on other scans; none for scores without a calibration."""
    min_volume_ml: float
    """Smaller regions are not findings."""
    thresholds: tuple[float, ...]
    """Where the curve of lesions found against false findings is taken; at least one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredCase:
    """All that is kept of one scan."""

    patient: str
    """Told only whether two scans have the same."""
    counts: ScoreCounts
    lesions: int
    lesion_voxels: int
    body_voxels: int
    case_score: float
    """`case_score` of these scores."""
    true_positives: int
    """Voxels of lesions that reach the calibrated threshold."""
    false_positives: int
    """Voxels of normal body that reach it."""
    found: Int[np.ndarray, " t"]
    """Lesions found at the calibrated threshold (if any), then at the curve's."""
    false_findings: Int[np.ndarray, " t"]

    @property
    def normal(self) -> bool:
        """Whether the scan has no lesion."""
        return self.lesions == 0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure with its interval, or why there is none."""

    value: float | None
    interval: Interval | None
    reason: str = ""
    """Why there is no value or no interval."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Curves:
    """What the areas are areas of, and lesions found against false findings."""

    false_positive_rate: Float[np.ndarray, " r"]
    """With `recall_at_rate`: the ROC curve."""
    recall_at_rate: Float[np.ndarray, " r"]
    recall: Float[np.ndarray, " p"]
    precision: Float[np.ndarray, " p"]
    pro_rate: Float[np.ndarray, " o"]
    """False-positive rate, beside `overlap`; PRO counts it up to its limit."""
    overlap: Float[np.ndarray, " o"]
    """Mean per-region overlap."""
    false_findings_per_scan: Float[np.ndarray, " t"]
    """From the highest threshold to the one with most of them."""
    lesions_found: Float[np.ndarray, " t"]
    """Share of all lesions."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """How well one kind of scores tells what is not normal."""

    metrics: dict[str, Metric]
    """By name, in the order of `METRICS`."""
    curves: Curves
    exact: bool
    """Whether every distinct score was a threshold of its own."""
    resamples: int


METRICS = (
    "voxel_auroc",
    "average_precision",
    "pro",
    "dice",
    "dice_per_case",
    "best_dice",
    "best_dice_threshold",
    "false_positive_rate",
    "case_auroc",
    "lesions_found",
    "false_findings_per_scan",
)


NORMAL_RATE, CASE_AUROC = "false_positive_rate", "case_auroc"

OF_NORMAL_SCANS = (NORMAL_RATE, "false_findings_per_scan")
"""The metrics that scans without a lesion define by themselves."""


def score_case(
    scores: Float[np.ndarray, "k j i"],
    body: Bool[np.ndarray, "k j i"],
    truth: Bool[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    rule: SearchRule,
    patient: str,
) -> ScoredCase:
    """The counts of one scan; only voxels of the body have a score.

    A lesion's voxels outside the body count as missed at every threshold.
    Raises `InputError` where there is no body, or a score in it is not finite.
    """
    # What lies outside both says nothing; regions are the same in the box around them.
    box = ndimage.find_objects((body | truth).astype(np.uint8))
    scores, body, truth = (one[box[0] if box else ...] for one in (scores, body, truth))
    lesions = Lesions.of(truth)
    counts = count_scores(scores, body, lesions)
    inside = np.where(body, scores, -np.inf).astype(scores.dtype)
    own = () if rule.threshold is None else (rule.threshold,)
    found = search(inside, lesions, own + rule.thresholds, ras_from_voxel, rule.min_volume_ml)
    true_positives = positives = 0
    if rule.threshold is not None:
        reaching = inside >= rule.threshold
        positives = int(np.count_nonzero(reaching))
        true_positives = int(np.count_nonzero(reaching & truth))
    return ScoredCase(
        patient=patient,
        counts=counts,
        lesions=lesions.count,
        lesion_voxels=lesions.voxels.size,
        body_voxels=int(np.count_nonzero(body)),
        case_score=case_score(scores[body]),
        true_positives=true_positives,
        false_positives=positives - true_positives,
        found=found.found,
        false_findings=found.false_findings,
    )


def evaluate_cases(
    cases: Sequence[ScoredCase],
    rule: SearchRule,
    report: Reporter,
    resamples: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """The metrics of scans that `score_case` counted under this rule.

    Needs at least one scan. Raises `Cancelled` through `report`.
    """
    from sklearn import config_context

    pool = _Pool(cases, rule)
    values = pool.metrics(np.ones(len(cases)))
    missing = _no_interval(cases)
    drawn: dict[str, list[float]] = {name: [] for name in METRICS if name not in missing}
    resamples = resamples if drawn else 0
    weights = patient_weights([case.patient for case in cases], resamples, seed)
    # The figures are ours and were checked once: else checks take most of the time.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for done, weight in enumerate(weights, start=1):
            report.check_cancelled()
            for name, value in pool.metrics(weight).items():
                if name in drawn and not isinstance(value, Undefined):
                    drawn[name].append(value)
            report.progress(done, resamples, "resample")
    metrics = {
        name: _metric(values[name], drawn.get(name, []), resamples, missing.get(name, ""))
        for name in METRICS
    }
    return Evaluation(
        metrics=metrics, curves=pool.curves(), exact=pool.counts.exact, resamples=resamples
    )


def _no_interval(cases: Sequence[ScoredCase]) -> dict[str, str]:
    """Metrics that so few patients give no interval, and why.

    Of one patient with a lesion all resamples have the same lesions: what looks
    like a narrow interval would only be how much the normal scans differ.
    """
    ill = {case.patient for case in cases if not case.normal}
    well = {case.patient for case in cases if case.normal}
    missing = {}
    for name in METRICS:
        if len(ill | well) < 2:
            missing[name] = "an interval needs two patients"
        elif name not in OF_NORMAL_SCANS and len(ill) < 2:
            missing[name] = "an interval needs two patients with a lesion"
        elif name in (NORMAL_RATE, CASE_AUROC) and len(well) < 2:
            missing[name] = "an interval needs two patients with a normal scan"
    return missing


def _metric(
    value: float | Undefined, drawn: list[float], resamples: int, no_interval: str
) -> Metric:
    if isinstance(value, Undefined):
        return Metric(value=None, interval=None, reason=value.reason)
    if no_interval or not resamples:
        return Metric(value=value, interval=None, reason=no_interval)
    found = interval(drawn, resamples)
    reason = (
        f"defined in only {len(drawn)} of {resamples} resamples of the patients"
        if found is None
        else ""
    )
    return Metric(value=value, interval=found, reason=reason)


class _Pool:
    """Scans side by side, to be weighed."""

    def __init__(self, cases: Sequence[ScoredCase], rule: SearchRule) -> None:
        self.calibrated = rule.threshold is not None
        self.curve_thresholds = np.array(rule.thresholds, dtype=np.float64)
        self.counts = PooledCounts.of([case.counts for case in cases])
        self.normal = np.array([case.normal for case in cases])
        self.case_scores = np.array([case.case_score for case in cases])
        self.lesions, self.lesion_voxels, self.body_voxels = _columns(
            [(case.lesions, case.lesion_voxels, case.body_voxels) for case in cases]
        )
        self.true_positives, self.false_positives = _columns(
            [(case.true_positives, case.false_positives) for case in cases]
        )
        self.found = np.stack([case.found for case in cases]).astype(np.float64)
        self.false_findings = np.stack([case.false_findings for case in cases]).astype(np.float64)

    def metrics(self, weights: Float[np.ndarray, " n"]) -> dict[str, float | Undefined]:
        """Every metric over the scans, each as often as its weight says."""
        tally = self.counts.tally(weights)
        best = voxel_metrics.best_dice(tally)
        best_value, best_threshold = (
            (best, best)
            if isinstance(best, Undefined)
            else (best[0], float(self.counts.scores[best[1] - 1]))
        )
        found = self._lesion_wise(weights)
        return {
            "voxel_auroc": voxel_metrics.auroc(tally),
            "average_precision": voxel_metrics.average_precision(tally),
            "pro": voxel_metrics.pro(tally),
            "dice": self._dice(weights),
            "dice_per_case": self._dice_per_case(weights),
            "best_dice": best_value,
            "best_dice_threshold": best_threshold,
            "false_positive_rate": self._false_positive_rate(weights),
            "case_auroc": self._case_auroc(weights),
            "lesions_found": found[0],
            "false_findings_per_scan": found[1],
        }

    def _dice(self, weights: Float[np.ndarray, " n"]) -> float | Undefined:
        if not self.calibrated:
            return Undefined(NO_THRESHOLD)
        true_positives, false_positives, lesion_voxels = (
            float(weights @ counts)
            for counts in (self.true_positives, self.false_positives, self.lesion_voxels)
        )
        return voxel_metrics.dice(true_positives, false_positives, lesion_voxels)

    def _dice_per_case(self, weights: Float[np.ndarray, " n"]) -> float | Undefined:
        if not self.calibrated:
            return Undefined(NO_THRESHOLD)
        ill = ~self.normal & (weights > 0)
        if not ill.any():
            return Undefined(NO_LESION)
        both = 2 * self.true_positives[ill]
        sizes = self.true_positives[ill] + self.false_positives[ill] + self.lesion_voxels[ill]
        return float(np.average(both / sizes, weights=weights[ill]))

    def _false_positive_rate(self, weights: Float[np.ndarray, " n"]) -> float | Undefined:
        if not self.calibrated:
            return Undefined(NO_THRESHOLD)
        voxels = float(weights[self.normal] @ self.body_voxels[self.normal])
        if not voxels:
            return Undefined("no scan is normal")
        return float(weights[self.normal] @ self.false_positives[self.normal]) / voxels

    def _case_auroc(self, weights: Float[np.ndarray, " n"]) -> float | Undefined:
        there = weights > 0
        ill = ~self.normal[there]
        if ill.all() or not ill.any():
            return Undefined("no scan is normal" if ill.all() else NO_LESION)
        return voxel_metrics.weighted_auroc(
            ill.astype(np.float64), self.case_scores[there], weights[there]
        )

    def _lesion_wise(
        self, weights: Float[np.ndarray, " n"]
    ) -> tuple[float | Undefined, float | Undefined]:
        """Lesions found and false findings a scan, at the calibrated threshold."""
        if not self.calibrated:
            return Undefined(NO_THRESHOLD), Undefined(NO_THRESHOLD)
        lesions = float(weights @ self.lesions)
        found = float(weights @ self.found[:, 0]) / lesions if lesions else Undefined(NO_LESION)
        return found, float(weights @ self.false_findings[:, 0] / weights.sum())

    def curves(self) -> Curves:
        """The curves over all scans; empty ones where they are undefined."""
        tally = self.counts.tally(np.ones(len(self.normal)))
        rate, recall_at_rate = voxel_metrics.roc_curve(tally)
        recall, precision = voxel_metrics.precision_recall_curve(tally)
        pro_rate, overlap = voxel_metrics.pro_curve(tally)
        first = 1 if self.calibrated else 0
        lesions = self.lesions.sum()
        found = self.found[:, first:].sum(axis=0)
        false_findings = self.false_findings[:, first:].mean(axis=0)
        # From the highest threshold down to most false findings: lower ones let findings grow
        # together, until one that is as large as the body finds all lesions.
        rising = np.argsort(self.curve_thresholds, kind="stable")
        most = int(np.argmax(false_findings[rising]))
        fewer = rising[most:][::-1] if lesions else rising[:0]
        return Curves(
            false_positive_rate=rate,
            recall_at_rate=recall_at_rate,
            recall=recall,
            precision=precision,
            pro_rate=pro_rate,
            overlap=overlap,
            false_findings_per_scan=false_findings[fewer],
            lesions_found=found[fewer] / max(lesions, 1.0),
        )


def _columns(rows: list[tuple[int, ...]]) -> Float[np.ndarray, "c n"]:
    return np.array(rows, dtype=np.float64).T
