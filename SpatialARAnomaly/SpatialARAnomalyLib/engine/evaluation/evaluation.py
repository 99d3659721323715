"""Evaluation of scores against ground truth: voxel, lesion and scan metrics with intervals.

`score_case` reduces one scan at a time to counts, so that memory does not grow with the
number of voxels; `evaluate_cases` computes metrics from the counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from SpatialARAnomalyLib.engine.evaluation import metrics
from SpatialARAnomalyLib.engine.evaluation.lesions import Lesions, rank_of_lesion, search
from SpatialARAnomalyLib.engine.evaluation.metrics import (
    NO_LESION,
    Curve,
    Interval,
    ScoreCounts,
    Undefined,
)
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import case_score
from SpatialARAnomalyLib.engine.specs import EvaluationSpec

NO_THRESHOLD = "these scores have no calibrated threshold"
NO_NORMAL_SCAN = "no scan is normal"
NO_FOUND = "no lesion was found"


@dataclass(frozen=True, kw_only=True)
class SearchRule:
    """Rule by which scores become findings, the same for every scan."""

    threshold: float | None
    """Threshold calibrated on other scans; None for scores without a calibration."""
    min_volume_ml: float
    """Volume of the smallest finding in milliliters."""
    thresholds: tuple[float, ...]
    """Thresholds of the curve of lesions found against false findings; at least one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoredCase:
    """Counts of one scan."""

    patient: str
    """Name of the patient, which is only compared with others."""
    counts: ScoreCounts
    lesions: int
    lesion_voxels: int
    body_voxels: int
    case_score: float
    true_positives: int
    """Lesion voxels that reach the calibrated threshold."""
    false_positives: int
    """Voxels of normal body that reach the calibrated threshold."""
    found: Int[np.ndarray, " t"]
    """Lesions found at the calibrated threshold (if any), then at those of the curve."""
    false_findings: Int[np.ndarray, " t"]
    lesion_rank: int | None
    """Rank of the first finding on a lesion at the calibrated threshold (if any); 0 for none."""

    @property
    def normal(self) -> bool:
        """True if the scan has no lesion."""
        return self.lesions == 0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric and its interval."""

    value: float | None
    interval: Interval | None
    reason: str = ""
    """Why there is no value or no interval."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Metrics and curves of one kind of scores."""

    metrics: dict[str, Metric]
    """Metrics by name, in the order of `METRICS`."""
    curves: dict[str, Curve]
    """`metrics.curves`, and in `froc` the false findings per scan and the share of lesions
    found, from the highest threshold to that with the most false findings."""
    exact: bool
    """True if every distinct score is a threshold of its own."""
    resamples: int


METRICS = (
    "voxel_auroc", "average_precision", "pro", "dice", "dice_per_case", "best_dice",
    "best_dice_threshold", "false_positive_rate", "case_auroc", "lesions_found",
    "lesion_first", "false_findings_per_scan",
)  # fmt: skip

AT_THRESHOLD = (
    "dice", "dice_per_case", "false_positive_rate", "lesions_found", "lesion_first",
    "false_findings_per_scan",
)  # fmt: skip
"""Metrics at the calibrated threshold."""


def score_case(
    scores: Float[np.ndarray, "k j i"],
    body: Bool[np.ndarray, "k j i"],
    truth: Bool[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    rule: SearchRule,
    patient: str,
) -> ScoredCase:
    """Count one scan; only voxels of the body have a score.

    A lesion's voxels outside the body count as missed at every threshold.
    Raises `InputError` if there is no body, or a score in it is not finite.
    """
    # The box around body and truth holds everything that counts.
    box = ndimage.find_objects((body | truth).astype(np.uint8))
    scores, body, truth = (one[box[0] if box else ...] for one in (scores, body, truth))
    lesions = Lesions.of(truth)
    inside = np.where(body, scores, -np.inf).astype(scores.dtype)
    reached = np.zeros_like(body) if rule.threshold is None else inside >= rule.threshold
    own = () if rule.threshold is None else (rule.threshold,)
    found, false_findings = search(
        inside, lesions, own + rule.thresholds, ras_from_voxel, rule.min_volume_ml
    )
    return ScoredCase(
        patient=patient,
        counts=metrics.count_scores(scores, body, lesions),
        lesions=lesions.count,
        lesion_voxels=lesions.voxels.size,
        body_voxels=int(np.count_nonzero(body)),
        case_score=case_score(scores[body]),
        true_positives=int(np.count_nonzero(reached & truth)),
        false_positives=int(np.count_nonzero(reached & ~truth)),
        found=found,
        false_findings=false_findings,
        lesion_rank=None
        if rule.threshold is None
        else rank_of_lesion(inside, lesions, rule.threshold, ras_from_voxel, rule.min_volume_ml),
    )


def evaluate_cases(
    cases: Sequence[ScoredCase],
    rule: SearchRule,
    report: Reporter,
    resamples: int = EvaluationSpec.resamples,
    seed: int = EvaluationSpec.seed,
) -> Evaluation:
    """Compute the metrics of at least one scan that `score_case` counted under this rule.

    Raises `Cancelled` through `report`.
    """
    from sklearn import config_context

    pool = _Pool(cases, rule)
    values = pool.compute(np.ones(len(cases)))
    missing = _missing_intervals(cases)
    drawn: dict[str, list[float]] = {name: [] for name in METRICS if name not in missing}
    resamples = resamples if drawn else 0
    weights = metrics.patient_weights([case.patient for case in cases], resamples, seed)
    # scikit-learn's checks would take most of the time, and the counts are checked already.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        for done, weight in enumerate(weights, start=1):
            report.check_cancelled()
            for name, value in pool.compute(weight).items():
                if name in drawn and not isinstance(value, Undefined):
                    drawn[name].append(value)
            report.progress(done, resamples, "resample")
    return Evaluation(
        metrics={
            name: _metric(values[name], drawn.get(name, []), resamples, missing.get(name, ""))
            for name in METRICS
        },
        curves=pool.curves(),
        exact=pool.counts.exact,
        resamples=resamples,
    )


def _missing_intervals(cases: Sequence[ScoredCase]) -> dict[str, str]:
    """Return the metrics that have no interval because of too few patients, and why.

    If one patient has all the lesions, all resamples have the same lesions, and a narrow
    interval would only show how much the normal scans differ.
    """
    ill = {case.patient for case in cases if not case.normal}
    well = {case.patient for case in cases if case.normal}
    missing = {}
    for name in METRICS:
        if len(ill | well) < 2:
            missing[name] = "an interval needs two patients"
        elif name not in ("false_positive_rate", "false_findings_per_scan") and len(ill) < 2:
            missing[name] = "an interval needs two patients with a lesion"
        elif name in ("false_positive_rate", "case_auroc") and len(well) < 2:
            missing[name] = "an interval needs two patients with a normal scan"
    return missing


def _metric(
    value: float | Undefined, drawn: list[float], resamples: int, no_interval: str
) -> Metric:
    if isinstance(value, Undefined):
        return Metric(value=None, interval=None, reason=value.reason)
    if no_interval or not resamples:
        return Metric(value=value, interval=None, reason=no_interval)
    found = metrics.interval(drawn, resamples)
    reason = f"defined in only {len(drawn)} of {resamples} resamples of the patients"
    return Metric(value=value, interval=found, reason="" if found else reason)


class _Pool:
    """The counts of all scans as arrays, for metrics with a weight for every scan."""

    def __init__(self, cases: Sequence[ScoredCase], rule: SearchRule) -> None:
        def column(name: str) -> Float[np.ndarray, "n ..."]:
            return np.array([getattr(case, name) for case in cases], dtype=np.float64)

        self.calibrated = rule.threshold is not None
        self.curve_thresholds = np.array(rule.thresholds, dtype=np.float64)
        self.counts = metrics.PooledCounts.of([case.counts for case in cases])
        self.normal = np.array([case.normal for case in cases])
        self.case_scores = column("case_score")
        self.lesions = column("lesions")
        self.lesion_voxels = column("lesion_voxels")
        self.body_voxels = column("body_voxels")
        self.true_positives = column("true_positives")
        self.false_positives = column("false_positives")
        self.found = column("found")
        self.false_findings = column("false_findings")
        self.lesion_rank = np.array([case.lesion_rank or 0 for case in cases])

    def compute(self, weights: Float[np.ndarray, " n"]) -> dict[str, float | Undefined]:
        """Return every metric of the weighted scans."""
        tally = self.counts.tally(weights)
        best = metrics.best_dice(tally)
        best_value, best_threshold = (
            (best, best)
            if isinstance(best, Undefined)
            else (best[0], float(self.counts.scores[best[1] - 1]))
        )
        return {
            "voxel_auroc": metrics.auroc(tally),
            "average_precision": metrics.average_precision(tally),
            "pro": metrics.pro(tally),
            "best_dice": best_value,
            "best_dice_threshold": best_threshold,
            "case_auroc": self._case_auroc(weights),
            **self._threshold_metrics(weights),
        }

    def _case_auroc(self, weights: Float[np.ndarray, " n"]) -> float | Undefined:
        counted = weights > 0
        ill = ~self.normal[counted]
        if ill.all() or not ill.any():
            return Undefined(NO_NORMAL_SCAN if ill.all() else NO_LESION)
        return metrics.weighted_auroc(
            ill.astype(np.float64), self.case_scores[counted], weights[counted]
        )

    def _threshold_metrics(self, weights: Float[np.ndarray, " n"]) -> dict[str, float | Undefined]:
        """Return the metrics at the calibrated threshold."""
        if not self.calibrated:
            return {name: Undefined(NO_THRESHOLD) for name in AT_THRESHOLD}
        ill, normal = weights * ~self.normal, weights * self.normal
        sizes = self.true_positives + self.false_positives + self.lesion_voxels
        dices = 2 * self.true_positives / np.maximum(sizes, 1.0)
        totals = (self.true_positives, self.false_positives, self.lesion_voxels)
        return {
            "dice": metrics.dice(*(float(weights @ counts) for counts in totals)),
            "dice_per_case": _ratio(ill @ dices, ill.sum(), NO_LESION),
            "false_positive_rate": _ratio(
                normal @ self.false_positives, normal @ self.body_voxels, NO_NORMAL_SCAN
            ),
            "lesions_found": _ratio(weights @ self.found[:, 0], weights @ self.lesions, NO_LESION),
            "lesion_first": _ratio(
                weights[self.lesion_rank == 1].sum(),
                weights[self.lesion_rank > 0].sum(),
                NO_FOUND if self.lesions.any() else NO_LESION,
            ),
            "false_findings_per_scan": float(weights @ self.false_findings[:, 0] / weights.sum()),
        }

    def curves(self) -> dict[str, Curve]:
        """Return the curves of all scans; those that are undefined are empty."""
        first = 1 if self.calibrated else 0
        lesions = self.lesions.sum()
        found = self.found[:, first:].sum(axis=0)
        false_findings = self.false_findings[:, first:].mean(axis=0)
        # The curve ends at the threshold with the most false findings: below it findings merge,
        # until one as large as the body finds all lesions.
        rising = np.argsort(self.curve_thresholds, kind="stable")
        most = int(np.argmax(false_findings[rising]))
        fewer = rising[most:][::-1] if lesions else rising[:0]
        curves = metrics.curves(self.counts.tally(np.ones(len(self.normal))))
        return curves | {"froc": (false_findings[fewer], found[fewer] / max(lesions, 1.0))}


def _ratio(part: np.float64, whole: np.float64, reason: str) -> float | Undefined:
    return float(part / whole) if whole else Undefined(reason)
