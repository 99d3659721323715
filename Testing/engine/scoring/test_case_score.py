"""The case score is the mean of the highest hundredth less the median, for any order of voxels."""

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.scoring.calibration_fit import TOP_SHARE, case_score

NLL = np.random.RandomState(3).gamma(2.0, size=12_345)


def by_counting(nll: np.ndarray) -> float:
    """Every voxel as 1 / `TOP_SHARE` equal parts; the mean of the highest `nll.size` parts."""
    parts = np.repeat(np.sort(nll)[::-1], round(1 / TOP_SHARE))
    return float(parts[: nll.size].mean() - np.median(nll))


@pytest.mark.parametrize("voxels", [1, 2, 99, 100, 101, 150, 199, 200, 12_345])
def test_it_is_the_mean_of_the_highest_hundredth(voxels):
    assert case_score(NLL[:voxels]) == pytest.approx(by_counting(NLL[:voxels]), rel=1e-12)


def test_with_few_voxels_it_is_the_highest():
    assert case_score(NLL[:60]) == NLL[:60].max() - np.median(NLL[:60])


@pytest.mark.parametrize("times", [2, 3, 7])
def test_finer_voxels_of_the_same_body_have_the_same_score(times):
    assert case_score(np.repeat(NLL, times)) == pytest.approx(case_score(NLL), rel=1e-12)


def test_the_order_of_voxels_does_not_matter_and_stays_unchanged():
    shuffled = np.random.RandomState(4).permutation(NLL)
    before = shuffled.copy()
    assert case_score(shuffled) == case_score(NLL)
    assert np.array_equal(shuffled, before)


def test_it_scales_with_the_nll_and_does_not_depend_on_its_zero():
    assert case_score(2.5 * NLL - 30.0) == pytest.approx(2.5 * case_score(NLL), rel=1e-12)


def test_it_never_falls_when_an_unlikely_voxel_rises():
    random = np.random.RandomState(5)
    for _ in range(50):
        raised = NLL.copy()
        unlikely = np.flatnonzero(np.median(NLL) < NLL)
        raised[random.choice(unlikely, size=20)] += random.gamma(1.0, size=20)
        assert case_score(raised) >= case_score(NLL)
    lesion = np.append(NLL[:-130], np.full(130, 50.0))
    assert case_score(lesion) == pytest.approx(50.0 - np.median(lesion))


def test_single_precision_gives_the_same_score():
    single = NLL.astype(np.float32)
    assert case_score(single) == case_score(single.astype(np.float64))


@pytest.mark.parametrize("nll", [[], [1.0, float("nan")], [float("inf")]])
def test_without_finite_voxels_there_is_no_score(nll):
    with pytest.raises(InputError, match=r"finite NLL of at least one voxel; found \d voxels"):
        case_score(np.array(nll))
