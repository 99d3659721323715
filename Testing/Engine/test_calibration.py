"""Threshold and p-value say the same of a sample, and what counting says of it."""

from itertools import pairwise

import numpy as np
import pytest
from SpatialARAnomalyLib.engine import calibration as module
from SpatialARAnomalyLib.engine.calibration import LEVELS, Calibration
from SpatialARAnomalyLib.engine.errors import SpecError

SAMPLE = np.random.RandomState(7).gamma(2.0, size=20_000)
GRID_RATES = (0.5, 0.25, 0.1, 0.01, 1e-3, 1e-4)
"""Rates at which quantiles are kept: nothing is interpolated between levels there."""


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return Calibration.of([SAMPLE[:12_000], SAMPLE[12_000:]], tokens=SAMPLE.size)


@pytest.mark.parametrize("rate", GRID_RATES)
def test_the_rate_asked_for_is_the_rate_on_the_sample(calibration, rate):
    exceeding = np.mean(calibration.threshold(rate) < SAMPLE)
    assert exceeding == pytest.approx(rate, abs=1 / SAMPLE.size)


def test_between_levels_the_rate_is_off_by_less_than_a_level(calibration):
    for rate in np.exp(np.random.RandomState(1).uniform(np.log(2e-4), np.log(0.9), 200)):
        exceeding = np.mean(calibration.threshold(rate) < SAMPLE)
        next_level = int(np.searchsorted(LEVELS, 1 - rate))
        above, below = 1 - LEVELS[next_level - 1], 1 - LEVELS[next_level]
        assert below - 1 / SAMPLE.size <= exceeding <= above + 1 / SAMPLE.size


def test_quantiles_are_kept_finely_enough_in_the_upper_tail():
    tail = 1 - LEVELS[LEVELS < 1]
    tail = tail[tail <= 0.1]
    assert tail[-1] == pytest.approx(1e-6)
    assert (tail[1:] / tail[:-1]).min() > 10 ** (-1 / 20) - 1e-6


@pytest.mark.parametrize("rate", [0.999, 0.9, 0.333, 0.05, 0.0123, 1e-3, 4e-5, 1e-6])
def test_p_value_inverts_the_threshold(calibration, rate):
    n = calibration.tokens
    expected = (1 + rate * n) / (1 + n)
    assert calibration.p_value(calibration.threshold(rate)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("share", GRID_RATES)
def test_p_value_is_what_counting_gives(calibration, share):
    nll = float(np.quantile(SAMPLE, 1 - share))
    counted = (1 + np.count_nonzero(nll <= SAMPLE)) / (1 + SAMPLE.size)
    assert calibration.p_value(nll) == pytest.approx(counted, abs=1 / SAMPLE.size)


def test_p_value_counts_tokens_not_voxels():
    many_voxels_a_token = Calibration.of([SAMPLE], tokens=99)
    assert many_voxels_a_token.p_value(1e9) == 1 / 100
    assert many_voxels_a_token.p_value(many_voxels_a_token.threshold(0.1)) == pytest.approx(0.109)


def test_p_value_never_rises_with_the_nll(calibration):
    values = [calibration.p_value(nll) for nll in np.linspace(-1, SAMPLE.max() + 1, 3000).tolist()]
    assert all(after <= before for before, after in pairwise(values))
    assert len(set(values)) > 1000


def test_threshold_never_falls_with_a_stricter_rate(calibration):
    thresholds = [calibration.threshold(rate) for rate in np.logspace(-0.01, -7, 500).tolist()]
    assert all(before <= after for before, after in pairwise(thresholds))
    assert thresholds[-1] <= SAMPLE.max() == pytest.approx(calibration.threshold(1e-9), rel=1e-3)


def test_p_value_is_one_at_the_minimum_and_never_zero(calibration):
    assert calibration.p_value(float(SAMPLE.min())) == 1.0
    assert calibration.p_value(-1e30) == 1.0
    for beyond in (float(np.nextafter(SAMPLE.max(), 1e9)), 1e30, float("inf")):
        assert calibration.p_value(beyond) == 1 / (1 + SAMPLE.size)


def test_ties_get_the_largest_tail():
    """Of 100 tokens 40 have 1, 50 have 2 and 10 have 3: 60 reach 2, and 10 reach 3."""
    sample = np.repeat([1.0, 2.0, 3.0], [40, 50, 10])
    calibration = Calibration.of([sample], tokens=100)
    assert calibration.p_value(1.0) == 1.0
    # Interpolated quantiles leave one sample's share of doubt at a step.
    assert calibration.p_value(2.0) == pytest.approx(61 / 101, abs=1 / 100)
    assert calibration.p_value(3.0) == pytest.approx(11 / 101, abs=1 / 100)
    assert calibration.threshold(0.3) == 2.0
    assert calibration.p_value(calibration.threshold(0.3)) == calibration.p_value(2.0)


def test_a_sample_of_one_value_says_little():
    calibration = Calibration.of([np.full(10, 2.5)], tokens=4)
    assert calibration.threshold(0.001) == 2.5
    assert calibration.p_value(2.5) == 1.0
    assert calibration.p_value(2.6) == 1 / 5


def test_what_is_kept_is_of_the_whole_sample(calibration):
    assert (calibration.volumes, calibration.tokens) == (2, 20_000)
    assert (calibration.nll[0], calibration.nll[-1]) == (SAMPLE.min(), SAMPLE.max())
    other_order = Calibration.of([SAMPLE[::-1]], tokens=SAMPLE.size)
    assert other_order.nll == calibration.nll


def test_a_large_volume_is_thinned_evenly(monkeypatch):
    monkeypatch.setattr(module, "MAX_SAMPLE", 1000)
    calibration = Calibration.of([SAMPLE[:1999]], tokens=1)
    assert calibration.nll == tuple(np.quantile(SAMPLE[:1999:2], LEVELS).tolist())
    calibration = Calibration.of([SAMPLE[:1000]], tokens=1)
    assert calibration.nll == tuple(np.quantile(SAMPLE[:1000], LEVELS).tolist())


def test_float32_samples_are_counted_in_float64():
    sample = SAMPLE.astype(np.float32)
    calibration = Calibration.of([sample], tokens=5)
    assert calibration.nll == Calibration.of([sample.astype(np.float64)], tokens=5).nll


@pytest.mark.parametrize(
    ("levels", "nll"),
    [
        ((0.0, 0.5, 1.0), (1.0, 2.0)),
        ((0.0, 0.5, 0.9), (1.0, 2.0, 3.0)),
        ((0.1, 0.5, 1.0), (1.0, 2.0, 3.0)),
        ((0.0, 0.5, 0.5, 1.0), (1.0, 2.0, 2.5, 3.0)),
        ((0.0, 0.5, 1.0), (1.0, 0.9, 3.0)),
        ((0.0, 0.5, 1.0), (1.0, 2.0, float("inf"))),
        ((0.0, float("nan"), 1.0), (1.0, 2.0, 3.0)),
        ((), ()),
    ],
)
def test_quantiles_that_are_none_are_refused(levels, nll):
    with pytest.raises(SpecError, match="Calibration: levels must rise from 0 to 1 and nll with"):
        Calibration(levels=levels, nll=nll, tokens=1, volumes=1)


def test_a_calibration_rests_on_something():
    with pytest.raises(SpecError, match="tokens and volumes must be positive"):
        Calibration(levels=(0.0, 1.0), nll=(0.0, 1.0), tokens=0, volumes=1)
