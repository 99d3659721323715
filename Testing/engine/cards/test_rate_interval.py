"""The interval of a rate covers what new normal scans show, and is wide with few."""

import numpy as np
import pytest
from scipy import stats
from SpatialARAnomalyLib.engine.cards.calibration import (
    RATES,
    interval_of,
    shares_at,
)

LEAST = 1e-5
RATE = 0.01


def cohorts(spread: float, normals: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares of held-out and of 200 new scans above the threshold at which the former's mean
    is `RATE`; a scan's NLL is gamma-distributed, of a scale that differs between scans.
    """
    random = np.random.RandomState(seed)
    scale = np.exp(random.normal(0, spread, (300, normals + 200)))
    low, high = np.zeros((300, 1)), np.full((300, 1), 500.0)
    for _ in range(40):
        middle = (low + high) / 2
        mean = stats.gamma.sf(middle / scale[:, :normals], 8).mean(axis=1, keepdims=True)
        low, high = np.where(mean > RATE, middle, low), np.where(mean > RATE, high, middle)
    shares = stats.gamma.sf(high / scale, 8)
    return shares[:, :normals], shares[:, normals:]


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.3])
@pytest.mark.parametrize("normals", [2, 3, 5, 12])
def test_it_covers_what_new_normal_scans_show(spread, normals):
    held_out, fresh = cohorts(spread, normals, seed=normals)
    scan, mean = [], []
    for known, new in zip(held_out.tolist(), fresh, strict=True):
        interval = interval_of(RATE, known, LEAST)
        scan.append(np.mean((interval.scan[0] <= new) & (new <= interval.scan[1])))
        mean.append(interval.mean[0] <= new.mean() <= interval.mean[1])
    assert 0.92 < np.mean(scan) < 0.995
    assert np.mean(mean) > 0.92


def test_it_narrows_with_more_scans_down_to_their_spread():
    widths = []
    for normals in (2, 3, 5, 12, 60):
        held_out, _ = cohorts(0.1, normals, seed=1)
        intervals = [interval_of(RATE, known, LEAST) for known in held_out.tolist()]
        ends = np.maximum([[one.scan, one.mean] for one in intervals], LEAST)
        widths.append(np.median(np.log(ends[..., 1] / ends[..., 0]), axis=0))
    widths = np.array(widths)
    assert (np.diff(widths, axis=0) < 0).all()
    assert widths[0, 1] > np.log(50)  # two scans: next to nothing is known
    assert widths[-1, 1] < np.log(3)
    assert (widths[:, 0] > widths[:, 1]).all()


def test_for_one_scan_it_is_students_prediction_interval():
    shares = [0.004, 0.009, 0.02, 0.013, 0.007]
    probits = stats.norm.ppf(shares)
    reach = stats.t.ppf(0.975, 4) * probits.std(ddof=1) * np.sqrt(6 / 5)
    interval = interval_of(RATE, shares, LEAST)
    expected = stats.norm.cdf([probits.mean() - reach, probits.mean() + reach])
    assert interval.scan == pytest.approx(expected.tolist())


def test_of_very_many_scans_the_mean_is_known():
    """On the probit scale normal, their mean is that of a normal sample, by integration."""
    middle, spread = -2.3, 0.4
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    shares = stats.norm.cdf(middle + spread * stats.norm.ppf(quantiles))
    low, high = interval_of(float(shares.mean()), shares.tolist(), LEAST).mean
    assert low < shares.mean() < high
    assert (low, high) == pytest.approx((shares.mean(),) * 2, rel=0.03)


def test_equal_scans_leave_no_doubt_and_one_scan_leaves_all():
    assert interval_of(RATE, [RATE] * 4, LEAST).scan == pytest.approx((RATE, RATE))
    assert interval_of(RATE, [RATE], LEAST) is None
    assert interval_of(RATE, [], LEAST) is None


def test_a_scan_without_anything_above_counts_as_the_least():
    assert interval_of(RATE, [0.0, 0.02], LEAST) == interval_of(RATE, [LEAST, 0.02], LEAST)
    assert interval_of(RATE, [1e-9, 1e-9], LEAST).scan == pytest.approx((0.0, RATE))


def test_nothing_is_above_all():
    assert 0.99 < interval_of(0.3, [0.01, 0.59], LEAST).scan[1] <= 1.0
    assert interval_of(0.3, [0.0, 1.0], LEAST).mean[1] <= 1.0


def test_between_kept_rates_shares_go_as_a_power():
    shares = [[rate**power for rate in RATES] for power in (0.8, 1.0, 1.3)]
    for rate in (*RATES, 0.2, 0.0123, 2e-5):
        expected = [rate**power for power in (0.8, 1.0, 1.3)]
        assert shares_at(rate, RATES, shares) == pytest.approx(expected)
    for outside in (0.31, 0.9e-5):
        assert shares_at(outside, RATES, shares) is None
    assert shares_at(0.01, (), []) is None
