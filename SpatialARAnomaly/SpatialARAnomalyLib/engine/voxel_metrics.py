"""How well scores tell lesion voxels from normal body, from counts over scores.

Ties are voxels of one score: no threshold parts them, and none of the metrics
depends on their order.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .score_counts import Tally

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
