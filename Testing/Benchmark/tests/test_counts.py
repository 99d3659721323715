"""Measures from histograms by patient against those of all pixels, and what resamples obey."""

import numpy as np
import pytest
from Benchmark.real.counts import (
    BINS,
    MEASURES,
    REGIONS,
    Counts,
    Estimate,
    bins_of,
    over_seeds,
    patient_resamples,
)
from Benchmark.real.patients import Compared
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score
from SpatialARAnomalyLib.engine.errors import InputError

pytestmark = pytest.mark.slow

SHAPE = (40, 50)


def patients(count: int, steps: int | None = None) -> list[list[Compared]]:
    """Smooth scores that correlate with their labels, two images a patient, one in three normal."""
    random = np.random.RandomState(1)
    made = []
    for index in range(2 * count):
        lesion = ndimage.gaussian_filter(random.normal(size=SHAPE), 2) > 0.18
        if index % 3 == 0:
            lesion[:] = False
        scores = ndimage.gaussian_filter(random.normal(size=SHAPE) + 2.0 * lesion, 1)
        if steps is not None:
            scores = np.round(scores * steps) / steps
        body = ndimage.gaussian_filter(random.normal(size=SHAPE), 4) > -0.05
        made.append(Compared(scores.astype(np.float32), body, lesion))
    return [made[start : start + 2] for start in range(0, len(made), 2)]


def counted(made: list[list[Compared]], **limits) -> Counts:
    scores = np.concatenate([one.scores.ravel() for some in made for one in some])
    low, high = limits.get("low", scores.min()), limits.get("high", scores.max())
    return Counts.of(made, float(low), float(high))


def pro_by_hand(images: list[Compared], limit: float = 0.3) -> float:
    """Compute the mean overlap of regions over the false-positive rate, at every threshold."""
    regions = []
    for one in images:
        numbered, number = ndimage.label(one.lesion & one.body, np.ones((3, 3)))
        regions += [one.scores[numbered == index] for index in range(1, number + 1)]
    normal = np.sort(np.concatenate([one.scores[one.body & ~one.lesion] for one in images]))
    thresholds = np.unique(np.concatenate([one.scores[one.body] for one in images]))[::-1]
    rate = 1 - np.searchsorted(normal, thresholds) / normal.size
    overlap = np.mean(
        [1 - np.searchsorted(np.sort(one), thresholds) / one.size for one in regions], axis=0
    )
    rate, overlap = np.append(0.0, rate), np.append(0.0, overlap)
    grid = np.union1d(rate[rate <= limit], [limit])
    return float(np.trapezoid(np.interp(grid, rate, overlap), grid) / limit)


@pytest.mark.parametrize("steps", [30, None])
@pytest.mark.parametrize("region", REGIONS)
def test_binned_measures_are_those_of_all_pixels(steps, region):
    made = patients(6, steps)
    images = [one for some in made for one in some]
    if region == "all":
        images = [Compared(one.scores, np.ones(SHAPE, bool), one.lesion) for one in images]
    found = counted(made).resampled(np.ones((1, 6)))[region]
    label = np.concatenate([one.lesion[one.body] for one in images])
    score = np.concatenate([one.scores[one.body] for one in images])
    highest = [one.scores[one.body].max() for one in images]
    ill = [one.lesion.any() for one in images]
    assert found["pixel_auroc"][0] == pytest.approx(roc_auc_score(label, score), abs=2e-4)
    assert found["pixel_ap"][0] == pytest.approx(average_precision_score(label, score), abs=1e-3)
    assert found["pro"][0] == pytest.approx(pro_by_hand(images), abs=6e-3 if steps else 1e-3)
    assert found["image_auroc"][0] == pytest.approx(roc_auc_score(ill, highest))
    assert found["image_ap"][0] == pytest.approx(average_precision_score(ill, highest))


def test_a_resample_is_the_set_in_which_a_patient_is_there_more_often():
    made = patients(4)
    limits = {"low": -5.0, "high": 5.0}
    weights = np.array([[0.0, 2.0, 1.0, 1.0]])
    found = counted(made, **limits).resampled(weights)
    drawn = counted([made[1], made[1], made[2], made[3]], **limits).resampled(np.ones((1, 4)))
    for region in REGIONS:
        for measure in MEASURES:
            assert found[region][measure] == pytest.approx(drawn[region][measure])


def test_measures_depend_only_on_the_order_of_scores():
    made = patients(3, steps=20)
    stretched = [
        [Compared(np.exp(one.scores), one.body, one.lesion) for one in some] for some in made
    ]
    found, same = (counted(one).resampled(np.ones((1, 3))) for one in (made, stretched))
    for measure in MEASURES:
        assert found["all"][measure] == pytest.approx(same["all"][measure], abs=1e-6)


def test_bins_rise_with_the_score_and_are_fine_near_both_ends():
    scores = np.sort(np.concatenate([np.geomspace(1e-4, 1, 4000), np.linspace(0, 1, 4000)]))
    bins = bins_of(scores, 0.0, 1.0)
    assert (bins[0], bins[-1]) == (0, BINS - 1)
    assert (np.diff(bins) >= 0).all()
    assert np.unique(bins_of(np.arange(256) / 255, 0.0, 1.0)).size == 256
    assert not bins_of(np.full((2, 3), 4.0), 4.0, 4.0).any()


def test_without_anomalies_pixels_define_nothing():
    (some,) = patients(1)
    normal = [Compared(one.scores, one.body, np.zeros(SHAPE, bool)) for one in some]
    found = counted([normal]).resampled(np.ones((1, 1)))["all"]
    assert all(np.isnan(values).all() for values in found.values())


def test_a_score_that_is_not_finite_is_refused():
    made = patients(1)
    made[0][1].scores[3, 4] = np.nan
    with pytest.raises(InputError, match="must have a finite score"):
        counted(made, low=0.0, high=1.0)


def test_counts_are_read_as_they_were_saved(tmp_path):
    counts = counted(patients(2))
    counts.save(tmp_path / "run.npz", score_ms=1.5)
    again, more = Counts.read(tmp_path / "run.npz")
    assert more == {"score_ms": 1.5}
    for name in ("pixels", "images", "anomalous", "patient"):
        np.testing.assert_array_equal(getattr(again, name), getattr(counts, name))


def test_the_interval_holds_patients_and_seeds():
    weights = patient_resamples(30, 400)
    assert weights.shape == (401, 30)
    assert (weights[0] == 1).all()
    assert (weights.sum(axis=1) == 30).all()
    generator = np.random.default_rng(0)
    runs = []
    for shift in (-0.1, 0.0, 0.1):
        values = np.append(0.5, 0.5 + 0.01 * generator.normal(size=400)) + shift
        runs.append({region: dict.fromkeys(MEASURES, values) for region in REGIONS})
    one = Estimate.of(runs[1]["all"]["pixel_ap"])
    three = Estimate.of(over_seeds(runs, 1)["all"]["pixel_ap"])
    assert one.value == three.value == pytest.approx(0.5)
    assert one.high - one.low == pytest.approx(0.04, abs=0.01)
    # The mean of three drawn seeds has a deviation of 0.047.
    assert three.high - three.low == pytest.approx(4 * 0.047, rel=0.25)


def test_the_difference_of_a_method_from_itself_is_none():
    counts = counted(patients(5))
    draws = counts.resampled(patient_resamples(5, 50))["body"]["pixel_auroc"]
    same = Estimate.of(draws - draws)
    assert (same.value, same.low, same.high) == (0, 0, 0)
