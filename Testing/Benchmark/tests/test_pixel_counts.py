"""Pooled pixel metrics of many images against those of all their pixels at once."""

import numpy as np
import pytest
from Benchmark.bmad.pixel_counts import FOLD, PixelCounts
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from SpatialARAnomalyLib.engine.errors import InputError

pytestmark = pytest.mark.slow

SHAPE = (24, 30)


def images(count: int, steps: int | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Smooth scores that correlate with their labels; every third image is normal."""
    random = np.random.RandomState(1)
    made = []
    for index in range(count):
        label = ndimage.gaussian_filter(random.normal(size=SHAPE), 2) > 0.18
        if index % 3 == 0:
            label[:] = False
        score = ndimage.gaussian_filter(random.normal(size=SHAPE) + 2.0 * label, 1)
        if steps is not None:
            score = np.round(score * steps) / steps
        made.append((score.astype(np.float32), label))
    return made


def counted(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    counts = PixelCounts()
    for score, label in pairs:
        counts.add(score, label)
    return counts.metrics()


def pro_by_hand(pairs: list[tuple[np.ndarray, np.ndarray]], limit: float = 0.3) -> float:
    """Compute the mean overlap of regions over the false-positive rate, at every threshold."""
    regions = []
    for score, label in pairs:
        numbered, number = ndimage.label(label, np.ones((3, 3)))
        regions += [score[numbered == one] for one in range(1, number + 1)]
    normal = np.sort(np.concatenate([score[~label] for score, label in pairs]))
    thresholds = np.unique(np.concatenate([score.ravel() for score, _ in pairs]))[::-1]
    rate = 1 - np.searchsorted(normal, thresholds) / normal.size
    overlap = np.mean(
        [1 - np.searchsorted(np.sort(one), thresholds) / one.size for one in regions], axis=0
    )
    rate, overlap = np.append(0.0, rate), np.append(0.0, overlap)
    grid = np.union1d(rate[rate <= limit], [limit])
    return float(np.trapezoid(np.interp(grid, rate, overlap), grid) / limit)


@pytest.mark.parametrize("count", [3, FOLD, 2 * FOLD + 5])
def test_few_distinct_scores_are_pooled_exactly(count):
    pairs = images(count, steps=50)
    found = counted(pairs)
    label = np.concatenate([label.ravel() for _, label in pairs])
    score = np.concatenate([score.ravel() for score, _ in pairs])
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(label, score), abs=1e-9)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(label, score), abs=1e-9)
    assert found["pro"] == pytest.approx(pro_by_hand(pairs), abs=5e-3)


def test_many_distinct_scores_are_pooled_closely():
    pairs = images(2 * FOLD)
    found = counted(pairs)
    label = np.concatenate([label.ravel() for _, label in pairs])
    score = np.concatenate([score.ravel() for score, _ in pairs])
    assert np.unique(score).size > 60_000
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(label, score), abs=2e-4)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(label, score), abs=1e-3)
    assert found["pro"] == pytest.approx(pro_by_hand(pairs), abs=1e-3)


def test_the_order_of_images_changes_nothing():
    pairs = images(FOLD + 9, steps=50)
    backwards = counted(pairs[::-1])
    assert counted(pairs) == pytest.approx(backwards)


def test_without_anomalies_nothing_is_defined():
    score = images(1)[0][0]
    assert counted([(score, np.zeros(SHAPE, bool))]) == dict.fromkeys(
        ("pixel_auroc", "pixel_ap", "pro")
    )


def test_a_score_that_is_not_finite_is_refused():
    score, label = images(2)[1]
    score[3, 4] = np.nan
    with pytest.raises(InputError, match="must have a finite score"):
        PixelCounts().add(score, label)
