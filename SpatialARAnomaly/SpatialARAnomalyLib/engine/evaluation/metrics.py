"""Voxel metrics of scores against ground truth, computed from histograms of the scores.

Tied voxels have one score: no threshold separates them, and no metric depends on their order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.evaluation.lesions import Lesions

CONFIDENCE = 0.95

MIN_DEFINED = 0.5
"""Smallest share of resamples that must define a metric to give it an interval."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The middle 95 % of a metric's values over resamples."""

    low: float
    high: float
    resamples: int
    """Number of resamples that define the metric."""


def patient_weights(
    patients: Sequence[str], resamples: int, seed: int
) -> Iterator[Float[np.ndarray, " n"]]:
    """Yield for every bootstrap resample how often it holds each scan.

    Of p patients, p are drawn with replacement, each with all of its scans.
    """
    names, patient_of = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(names.size, size=names.size)
        yield np.bincount(drawn, minlength=names.size)[patient_of].astype(np.float64)


def interval(values: Sequence[float], resamples: int) -> Interval | None:
    """Return the interval of a metric from its defined values, or None if they are too few."""
    if not values or len(values) < MIN_DEFINED * resamples:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [tail, 1 - tail]).tolist()
    return Interval(low=low, high=high, resamples=len(values))


MAX_SCORES = 20_000
"""Largest number of distinct scores; metrics are exact if all scans together have fewer."""

FINEST_SHARE = 1e-8
"""Smallest share of voxels in the upper tail for which a score is kept."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreCounts:
    """Histogram of the scores of one scan."""

    scores: Float[np.ndarray, " n"]
    """Distinct scores, ascending; their ranks are 1, 2, …"""
    counts: Float[np.ndarray, "3 ranks"]
    """Per rank: voxels of normal body, voxels of lesions, and the share of each lesion's voxels,
    summed over lesions. Rank 0 holds lesion voxels outside the body."""
    exact: bool
    """True if all distinct scores were kept."""

    @property
    def missed(self) -> float:
        """Lesion voxels outside the body, which no threshold finds."""
        return float(self.counts[1, 0])

    def on(self, grid: Float[np.ndarray, " m"]) -> "ScoreCounts":
        """Return the counts with every score lowered to the next of the ascending `grid`.

        Scores below the grid are raised to its lowest.
        """
        rank = np.maximum(np.searchsorted(grid, self.scores, side="right"), 1)
        counts = [
            np.bincount(np.append(0, rank), weights=row, minlength=grid.size + 1)
            for row in self.counts
        ]
        exact = self.exact and bool(np.isin(self.scores, grid).all())
        return ScoreCounts(scores=grid, counts=np.stack(counts), exact=exact)


def count_scores(
    scores: Float[np.ndarray, "k j i"], body: Bool[np.ndarray, "k j i"], lesions: Lesions
) -> ScoreCounts:
    """Count the scores of one scan; voxels outside the body have no score.

    Raises `InputError` if a score in the body is not finite.
    """
    in_lesion = np.zeros(body.size, dtype=bool)
    in_lesion[lesions.voxels] = True
    flat, flat_body = scores.ravel(), body.ravel()
    normal_scores = flat[flat_body & ~in_lesion]
    scored = flat_body[lesions.voxels]
    lesion_scores = flat[lesions.voxels[scored]]
    if not (np.isfinite(normal_scores).all() and np.isfinite(lesion_scores).all()):
        raise InputError(
            "scores-not-finite",
            "Every voxel of the body must have a finite score; found NaN or infinity.",
        )
    shares = 1.0 / lesions.sizes[lesions.lesion]
    normal_values, normal = np.unique(normal_scores, return_counts=True)
    lesion_values, place = np.unique(lesion_scores, return_inverse=True)
    values = np.union1d(normal_values, lesion_values)
    counts = np.zeros((3, values.size + 1))
    counts[0, np.searchsorted(values, normal_values) + 1] = normal
    at = np.searchsorted(values, lesion_values) + 1
    counts[1, at] = np.bincount(place, minlength=at.size)
    counts[2, at] = np.bincount(place, weights=shares[scored], minlength=at.size)
    counts[1:, 0] = np.count_nonzero(~scored), shares[~scored].sum()
    whole = ScoreCounts(scores=values.astype(np.float64), counts=counts, exact=True)
    return whole if values.size <= MAX_SCORES else whole.on(_grid([whole]))


def _grid(scans: Sequence[ScoreCounts]) -> Float[np.ndarray, " m"]:
    """Return the scores of all scans, or about `MAX_SCORES` of them.

    These divide the voxels of normal body and those of lesions evenly, and the upper tails
    of both by powers of ten, where small lesions differ from the rest of the body.
    """
    scores, place = np.unique(np.concatenate([scan.scores for scan in scans]), return_inverse=True)
    if scores.size <= MAX_SCORES:
        return scores
    part = MAX_SCORES // 4
    tail = 1.0 - np.logspace(np.log10(0.5), np.log10(FINEST_SHARE), part)
    levels = np.concatenate([np.linspace(0.0, 1.0, part), tail])
    kept = [np.array([0])]
    normal, lesion, _ = np.concatenate([scan.counts[:, 1:] for scan in scans], axis=1)
    for counts in (normal, lesion):
        reached = np.cumsum(np.bincount(place, weights=counts))
        if reached[-1]:
            kept.append(np.searchsorted(reached / reached[-1], levels))
    return np.asarray(scores[np.unique(np.minimum(np.concatenate(kept), scores.size - 1))])


@dataclass(frozen=True, eq=False, kw_only=True)
class Tally:
    """Counts by rank (`ScoreCounts.counts`) of one scan or of many, and their lesions."""

    normal: Float[np.ndarray, " ranks"]
    lesion: Float[np.ndarray, " ranks"]
    overlap: Float[np.ndarray, " ranks"]
    lesions: float


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledCounts:
    """The histograms of several scans over one grid of scores."""

    scores: Float[np.ndarray, " m"]
    counts: Float[np.ndarray, "n 3 ranks"]
    exact: bool
    """True if all distinct scores were kept."""

    @classmethod
    def of(cls, scans: Sequence[ScoreCounts]) -> "PooledCounts":
        """Pool the counts of scans."""
        grid = _grid(scans)
        on_grid = [scan.on(grid) for scan in scans]
        return cls(
            scores=grid,
            counts=np.stack([one.counts for one in on_grid]),
            exact=all(one.exact for one in on_grid),
        )

    def tally(self, weights: Float[np.ndarray, " n"]) -> Tally:
        """Sum the counts of all scans, each multiplied by its weight."""
        normal, lesion, overlap = np.tensordot(weights, self.counts, axes=1)
        return Tally(normal=normal, lesion=lesion, overlap=overlap, lesions=float(overlap.sum()))


PRO_LIMIT = 0.3
"""False-positive rate up to which per-region overlap is integrated (Bergmann et al., 2020)."""

Curve = tuple[Float[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""The x and y of every point."""

NO_LESION = "no scan has a lesion"
NO_NORMAL = "no scan has a voxel of normal body"


@dataclass(frozen=True)
class Undefined:
    """The value of a metric that these scans do not define."""

    reason: str


def _missing(tally: Tally) -> Undefined | None:
    """Return why a metric of both classes is undefined, or None if it is defined."""
    if not tally.lesion.any():
        return Undefined(NO_LESION)
    return None if tally.normal.any() else Undefined(NO_NORMAL)


def _labeled(
    tally: Tally,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return truth, score (as rank) and weight of every group of equal voxels."""
    ranks = np.arange(tally.normal.size, dtype=np.float64)
    truth = np.repeat([0.0, 1.0], ranks.size)
    weight = np.concatenate([tally.normal, tally.lesion])
    counted = weight > 0
    return truth[counted], np.tile(ranks, 2)[counted], weight[counted]


def auroc(tally: Tally) -> float | Undefined:
    """Return the area under the ROC curve, in which a tie counts as half."""
    return _missing(tally) or weighted_auroc(*_labeled(tally))


def weighted_auroc(
    truth: Float[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
) -> float:
    """Return the area under the ROC curve of weighted scores."""
    from sklearn.metrics import auc, roc_curve

    # The same as roc_auc_score in half its time, which matters for the resamples.
    rate, recall, _ = roc_curve(truth, score, sample_weight=weight)
    return float(auc(rate, recall))


def average_precision(tally: Tally) -> float | Undefined:
    """Return the precision averaged over recall; by chance it is the share of lesion voxels."""
    from sklearn.metrics import average_precision_score

    truth, score, weight = _labeled(tally)
    return _missing(tally) or float(average_precision_score(truth, score, sample_weight=weight))


def count_at_least(counts: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Return for every rank the sum of the counts of that and of higher ranks."""
    return np.cumsum(counts[::-1])[::-1]


def curves(tally: Tally) -> dict[str, Curve]:
    """Return the curves `roc`, `precision_recall` and `pro`; empty if undefined.

    Their x and y are false-positive rate and recall, falling recall and precision,
    false-positive rate and mean per-region overlap.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    if _missing(tally):
        return dict.fromkeys(("roc", "precision_recall", "pro"), (np.zeros(0), np.zeros(0)))
    truth, score, weight = _labeled(tally)
    rate, recall, _ = roc_curve(truth, score, sample_weight=weight)
    precision, recalls, _ = precision_recall_curve(truth, score, sample_weight=weight)
    return {
        "roc": (rate, recall),
        "precision_recall": (recalls, precision),
        "pro": _pro_curve(tally),
    }


def _pro_curve(tally: Tally) -> Curve:
    rate = count_at_least(tally.normal)[::-1] / tally.normal.sum()
    overlap = count_at_least(tally.overlap)[::-1] / tally.lesions
    return np.append(0.0, rate), np.append(0.0, overlap)


def pro(tally: Tally) -> float | Undefined:
    """Return the normalized area under the PRO curve up to a false-positive rate of 0.3.

    Every lesion has the same weight. The curve is linear between thresholds, and cut at the
    limit by interpolation.
    """
    from sklearn.metrics import auc

    if missing := _missing(tally):
        return missing
    rate, overlap = _pro_curve(tally)
    within = int(np.searchsorted(rate, PRO_LIMIT, side="right"))
    # The last point within the limit has the highest overlap of its rate (vertical steps).
    at_limit = np.interp(PRO_LIMIT, rate[within - 1 :], overlap[within - 1 :])
    area = auc(np.append(rate[:within], PRO_LIMIT), np.append(overlap[:within], at_limit))
    return float(area / PRO_LIMIT)


def dice(true_positives: float, false_positives: float, lesion_voxels: float) -> float | Undefined:
    """Return Dice, twice the overlap over the sum of both sizes."""
    if not lesion_voxels:
        return Undefined(NO_LESION)
    return 2 * true_positives / (true_positives + false_positives + lesion_voxels)


def best_dice(tally: Tally) -> tuple[float, int] | Undefined:
    """Return the highest Dice over all thresholds and the (highest) rank that reaches it.

    The threshold is chosen by the ground truth, so this is an upper bound for a threshold
    chosen beforehand.
    """
    if not tally.lesion.any():
        return Undefined(NO_LESION)
    if tally.normal.size == 1:
        return Undefined(NO_NORMAL)
    true_positives = count_at_least(tally.lesion)[1:]
    false_positives = count_at_least(tally.normal)[1:]
    dices = 2 * true_positives / (true_positives + false_positives + tally.lesion.sum())
    rank = dices.size - int(np.argmax(dices[::-1]))
    return float(dices[rank - 1]), rank
