"""How well scores tell lesion voxels from normal body, from counts over scores.

Ties are voxels of one score: no threshold parts them, and none of the metrics
depends on their order.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.evaluation.lesions import Lesions

CONFIDENCE = 0.95

LEAST_USABLE = 0.5
"""No interval where the metric is undefined in more than this share of the resamples."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The middle 95 % of a metric's values over resamples."""

    low: float
    high: float
    resamples: int
    """Those in which the metric is defined, which the interval rests on."""


def patient_weights(
    patients: Sequence[str], resamples: int, seed: int
) -> Iterator[Float[np.ndarray, " n"]]:
    """How often each scan is in a resample: all scans of a patient as often as the patient.

    Of p patients p are drawn with replacement.
    """
    names, patient_of = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(names.size, size=names.size)
        yield np.bincount(drawn, minlength=names.size)[patient_of].astype(np.float64)


def interval(values: Sequence[float], resamples: int) -> Interval | None:
    """The interval of a metric from its values where it is defined, of so many resamples."""
    if not values or len(values) < LEAST_USABLE * resamples:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [tail, 1 - tail]).tolist()
    return Interval(low=low, high=high, resamples=len(values))


MAX_SCORES = 20_000
"""Distinct scores kept. With fewer in all scans together, metrics are exact."""

FINEST_SHARE = 1e-8
"""In the upper tail, scores are kept for shares of voxels down to this one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreCounts:
    """How many voxels have which score. Those of lesions outside the body have none."""

    scores: Float[np.ndarray, " n"]
    """Ascending, distinct."""
    normal: Float[np.ndarray, " n"]
    """Voxels of the body outside lesions that have the score; whole numbers."""
    lesion: Float[np.ndarray, " n"]
    """Voxels of lesions that have the score; whole numbers."""
    overlap: Float[np.ndarray, " n"]
    """Shares of every lesion's voxels that have the score, summed over lesions."""
    missed: float
    """Voxels of lesions outside the body: no threshold finds them."""
    missed_overlap: float
    """Shares of every lesion's voxels outside the body, summed over lesions."""
    exact: bool
    """Whether all distinct scores were kept."""

    def on(self, grid: Float[np.ndarray, " m"]) -> "ScoreCounts":
        """The counts with every score lowered to the next of the ascending `grid`.

        What lies below the grid counts at its lowest score.
        """
        place = np.maximum(np.searchsorted(grid, self.scores, side="right") - 1, 0)
        normal, lesion, overlap = (
            np.bincount(place, weights=counts, minlength=grid.size)
            for counts in (self.normal, self.lesion, self.overlap)
        )
        return ScoreCounts(
            scores=grid,
            normal=normal,
            lesion=lesion,
            overlap=overlap,
            missed=self.missed,
            missed_overlap=self.missed_overlap,
            exact=self.exact and bool(np.isin(self.scores, grid).all()),
        )


def count_scores(
    scores: Float[np.ndarray, "k j i"], body: Bool[np.ndarray, "k j i"], lesions: Lesions
) -> ScoreCounts:
    """The counts of one scan; voxels outside the body have no score.

    Raises `InputError` where a score in the body is not finite.
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
    counts = np.zeros((3, values.size))
    counts[0, np.searchsorted(values, normal_values)] = normal
    at = np.searchsorted(values, lesion_values)
    counts[1, at] = np.bincount(place, minlength=at.size)
    counts[2, at] = np.bincount(place, weights=shares[scored], minlength=at.size)
    whole = ScoreCounts(
        scores=values.astype(np.float64),
        normal=counts[0],
        lesion=counts[1],
        overlap=counts[2],
        missed=float(np.count_nonzero(~scored)),
        missed_overlap=float(shares[~scored].sum()),
        exact=True,
    )
    return whole if values.size <= MAX_SCORES else whole.on(_grid([whole]))


def _grid(scans: Sequence[ScoreCounts]) -> Float[np.ndarray, " m"]:
    """The scores of all scans; where they are too many, about `MAX_SCORES` of them.

    Those kept part the voxels of normal body and those of lesions evenly, and
    the upper tails of both by powers of ten: there a small lesion is told
    from the rest of a body.
    """
    pooled = np.concatenate([scan.scores for scan in scans])
    scores, place = np.unique(pooled, return_inverse=True)
    if scores.size <= MAX_SCORES:
        return scores
    part = MAX_SCORES // 4
    tail = 1.0 - np.logspace(np.log10(0.5), np.log10(FINEST_SHARE), part)
    levels = np.concatenate([np.linspace(0.0, 1.0, part), tail])
    kept = [np.array([0])]
    for counts in ([scan.normal for scan in scans], [scan.lesion for scan in scans]):
        reached = np.cumsum(np.bincount(place, weights=np.concatenate(counts)))
        if reached[-1]:
            kept.append(np.searchsorted(reached / reached[-1], levels))
    return np.asarray(scores[np.unique(np.minimum(np.concatenate(kept), scores.size - 1))])


@dataclass(frozen=True, eq=False, kw_only=True)
class Tally:
    """Voxels by score of one scan or of many, and how many lesions there are.

    Scores are told by their rank. Rank 0 is that of lesion voxels outside the
    body, below every score.
    """

    normal: Float[np.ndarray, " m"]
    lesion: Float[np.ndarray, " m"]
    overlap: Float[np.ndarray, " m"]
    lesions: float


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledCounts:
    """The counts of several scans over one grid of scores."""

    scores: Float[np.ndarray, " m"]
    """The score of rank 1, 2, …"""
    normal: Float[np.ndarray, "n ranks"]
    lesion: Float[np.ndarray, "n ranks"]
    overlap: Float[np.ndarray, "n ranks"]
    exact: bool
    """Whether all distinct scores were kept."""

    @classmethod
    def of(cls, scans: Sequence[ScoreCounts]) -> "PooledCounts":
        """The counts of these scans, one row each."""
        grid = _grid(scans)
        on_grid = [scan.on(grid) for scan in scans]
        return cls(
            scores=grid,
            normal=np.stack([np.append(0.0, one.normal) for one in on_grid]),
            lesion=np.stack([np.append(one.missed, one.lesion) for one in on_grid]),
            overlap=np.stack([np.append(one.missed_overlap, one.overlap) for one in on_grid]),
            exact=all(one.exact for one in on_grid),
        )

    def tally(self, weights: Float[np.ndarray, " n"]) -> Tally:
        """The sum over scans, each as often as its weight says."""
        overlap = weights @ self.overlap
        return Tally(
            normal=weights @ self.normal,
            lesion=weights @ self.lesion,
            overlap=overlap,
            lesions=float(overlap.sum()),
        )


PRO_LIMIT = 0.3
"""The false-positive rate up to which per-region overlap is counted (Bergmann et al., 2020)."""

Curve = tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]
"""Of every point x and y."""

_EMPTY: Curve = (np.zeros(0), np.zeros(0))

NO_LESION = "no scan has a lesion"
NO_NORMAL = "no scan has a voxel of normal body"


@dataclass(frozen=True)
class Undefined:
    """A metric that these scans do not define."""

    reason: str


def _missing(tally: Tally) -> Undefined | None:
    """Why a metric of both classes has no value, if so."""
    if not tally.lesion.any():
        return Undefined(NO_LESION)
    return None if tally.normal.any() else Undefined(NO_NORMAL)


def _labeled(
    tally: Tally,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Truth, score (as rank) and weight of every group of equal voxels."""
    ranks = np.arange(tally.normal.size, dtype=np.float64)
    truth = np.repeat([0.0, 1.0], ranks.size)
    weight = np.concatenate([tally.normal, tally.lesion])
    there = weight > 0
    return truth[there], np.tile(ranks, 2)[there], weight[there]


def auroc(tally: Tally) -> float | Undefined:
    """Area under the ROC curve: how often a lesion voxel outscores a normal one, ties half."""
    return _missing(tally) or weighted_auroc(*_labeled(tally))


def weighted_auroc(
    truth: Float[np.ndarray, " n"],
    score: Float[np.ndarray, " n"],
    weight: Float[np.ndarray, " n"],
) -> float:
    """Area under the ROC curve of scores that each count as often as their weight says."""
    from sklearn.metrics import auc, roc_curve

    # What roc_auc_score does, in half its time: it is asked for every resample.
    rate, recall, _ = roc_curve(truth, score, sample_weight=weight)
    return float(auc(rate, recall))


def average_precision(tally: Tally) -> float | Undefined:
    """Precision, averaged over the recalls that thresholds reach; by chance the lesions' share."""
    from sklearn.metrics import average_precision_score

    truth, score, weight = _labeled(tally)
    return _missing(tally) or float(average_precision_score(truth, score, sample_weight=weight))


def reaching(counts: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Of every rank, how many have it or a higher one."""
    return np.cumsum(counts[::-1])[::-1]


def roc_curve(tally: Tally) -> Curve:
    """False-positive rate and recall at every threshold; empty where undefined."""
    from sklearn.metrics import roc_curve as curve_of

    if _missing(tally):
        return _EMPTY
    truth, score, weight = _labeled(tally)
    rate, recall, _ = curve_of(truth, score, sample_weight=weight)
    return rate, recall


def precision_recall_curve(tally: Tally) -> Curve:
    """Recall, falling, and precision at every threshold; empty where undefined."""
    from sklearn.metrics import precision_recall_curve as curve_of

    if _missing(tally):
        return _EMPTY
    truth, score, weight = _labeled(tally)
    precision, recall, _ = curve_of(truth, score, sample_weight=weight)
    return recall, precision


def pro_curve(tally: Tally) -> Curve:
    """False-positive rate and mean per-region overlap at every threshold; empty where undefined."""
    if _missing(tally):
        return _EMPTY
    rate = reaching(tally.normal)[::-1] / tally.normal.sum()
    overlap = reaching(tally.overlap)[::-1] / tally.lesions
    return np.append(0.0, rate), np.append(0.0, overlap)


def pro(tally: Tally) -> float | Undefined:
    """Area under mean per-region overlap against false-positive rate up to 0.3, over 0.3.

    Every lesion weighs the same, whatever its size. Between thresholds the
    curve is straight, also where it is cut at the limit.
    """
    from sklearn.metrics import auc

    missing = _missing(tally)
    if missing:
        return missing
    rate, overlap = pro_curve(tally)
    within = int(np.searchsorted(rate, PRO_LIMIT, side="right"))
    # The last point within the limit has its rate's highest overlap: it may stand upright.
    at_limit = np.interp(PRO_LIMIT, rate[within - 1 :], overlap[within - 1 :])
    area = auc(np.append(rate[:within], PRO_LIMIT), np.append(overlap[:within], at_limit))
    return float(area / PRO_LIMIT)


def dice(true_positives: float, false_positives: float, lesion_voxels: float) -> float | Undefined:
    """Twice the overlap over the sum of both sizes."""
    if not lesion_voxels:
        return Undefined(NO_LESION)
    return 2 * true_positives / (true_positives + false_positives + lesion_voxels)


def best_dice(tally: Tally) -> tuple[float, int] | Undefined:
    """The highest Dice over all thresholds, and the rank that is its threshold.

    It is chosen with the truth at hand, so it is a bound and not to be
    expected of a threshold chosen before. Of equal ones the highest threshold.
    """
    if not tally.lesion.any():
        return Undefined(NO_LESION)
    if tally.normal.size == 1:
        return Undefined(NO_NORMAL)
    true_positives = reaching(tally.lesion)[1:]
    false_positives = reaching(tally.normal)[1:]
    dices = 2 * true_positives / (true_positives + false_positives + tally.lesion.sum())
    rank = dices.size - int(np.argmax(dices[::-1]))
    return float(dices[rank - 1]), rank
