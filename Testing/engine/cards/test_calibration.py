"""Threshold and p-value say the same of a sample, and what counting says of it."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.scoring import calibration_fit as module
from SpatialARAnomalyLib.engine.scoring.calibration_fit import (
    LEVELS,
    case_score,
    fit_calibration,
    rates_of_others,
    thin_sample,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import AxisTiling
from SpatialARAnomalyLib.engine.specs import SliceSpec

SAMPLE = np.random.RandomState(7).gamma(2.0, size=20_000)
GRID_RATES = (0.5, 0.25, 0.1, 0.01, 1e-3, 1e-4)
"""Rates at which quantiles are kept: nothing is interpolated between levels there."""


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Of a scan whose voxels and tokens have the same NLL."""
    return both(SAMPLE)


def both(*samples: np.ndarray) -> Calibration:
    return fit_calibration(samples, samples)


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
    expected = (2 + rate * (n - 1)) / (1 + n)  # the token at the threshold is one more
    assert calibration.p_value(calibration.threshold(rate)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("share", GRID_RATES)
def test_p_value_is_what_counting_gives(calibration, share):
    nll = float(np.quantile(SAMPLE, 1 - share))
    counted = (1 + np.count_nonzero(nll <= SAMPLE)) / (1 + SAMPLE.size)
    assert calibration.p_value(nll) == pytest.approx(counted, abs=1 / SAMPLE.size)


def test_thresholds_rest_on_voxels_and_p_values_on_tokens():
    tokens = 100.0 + np.arange(99.0)
    calibration = fit_calibration([SAMPLE], [tokens])
    assert calibration.threshold(0.1) == both(SAMPLE).threshold(0.1)
    assert calibration.p_value(SAMPLE.max()) == 1.0
    assert calibration.p_value(1e9) == 1 / 100
    assert calibration.p_value(tokens[-1]) == 2 / 100
    # 10 of the 99 tokens reach the tenth from above.
    assert calibration.p_value(tokens[-10]) == pytest.approx(11 / 100)


def test_the_rate_of_a_threshold_is_the_one_asked_for(calibration):
    for rate in GRID_RATES:
        assert calibration.rate(calibration.threshold(rate)) == pytest.approx(rate, rel=1e-6)
    assert calibration.rate(1e9) == pytest.approx(1e-6)
    assert calibration.rate(-1.0) == 1.0


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
    calibration = both(sample)
    assert calibration.p_value(1.0) == 1.0
    # Interpolated quantiles leave one sample's share of doubt at a step.
    assert calibration.p_value(2.0) == pytest.approx(61 / 101, abs=1 / 100)
    assert calibration.p_value(3.0) == pytest.approx(11 / 101, abs=1 / 100)
    assert calibration.threshold(0.3) == 2.0
    assert calibration.p_value(calibration.threshold(0.3)) == calibration.p_value(2.0)


def test_a_sample_of_one_value_says_little():
    calibration = fit_calibration([np.full(10, 2.5)], [np.full(4, 2.5)])
    assert calibration.threshold(0.001) == 2.5
    assert calibration.p_value(2.5) == 1.0
    assert calibration.p_value(2.6) == 1 / 5


def test_what_is_kept_is_of_the_whole_sample(calibration):
    assert (calibration.volumes, calibration.tokens) == (1, 20_000)
    assert (calibration.nll[0], calibration.nll[-1]) == (SAMPLE.min(), SAMPLE.max())
    assert calibration.nll == pytest.approx(calibration.token_nll)
    assert both(SAMPLE[::-1]) == calibration


@pytest.mark.parametrize(("volumes", "step"), [(1, 2), (2, 4), (3, 7), (500, 1000)])
def test_volumes_are_thinned_evenly_so_that_all_fit(monkeypatch, volumes, step):
    monkeypatch.setattr(module, "MAX_SAMPLE", 1000)
    kept = thin_sample(SAMPLE[:1999], volumes)
    assert np.array_equal(kept, SAMPLE[:1999:step])
    assert kept.base is None  # the whole sample can go
    assert kept.size * volumes <= 1000


def test_a_small_volume_is_kept_whole():
    assert np.array_equal(thin_sample(SAMPLE, 400), SAMPLE)


def test_float32_samples_are_counted_in_float64():
    sample = SAMPLE.astype(np.float32)
    assert both(sample) == both(sample.astype(np.float64))


def test_a_rate_needs_ten_tokens_above_its_threshold(calibration):
    assert calibration.supports(10 / SAMPLE.size)
    assert not calibration.supports(9.9 / SAMPLE.size)
    assert both(SAMPLE[:1000]).supports(0.01)
    assert not both(SAMPLE[:1000]).supports(0.001)


def on_voxels(axis: AxisTiling, tokens: np.ndarray) -> np.ndarray:
    """The values of token grids [n, h, w] on voxels, as `SliceStack.slice_from_tokens` does it."""
    return axis.voxels_from_tokens @ tokens @ axis.voxels_from_tokens.T


@pytest.mark.slow
@pytest.mark.parametrize("spacing_mm", [1.0, 0.7, 3.1])
def test_p_values_of_normal_tokens_are_not_too_small(spacing_mm):
    """Of independent normal tokens put on voxels, a share u at most has p up to u."""
    size_px, patch_px = 224, 16
    voxels = round(size_px / spacing_mm)
    spec = SliceSpec(fov_mm=float(size_px), size_px=size_px)
    axis = AxisTiling.covering(voxels, spacing_mm, (0, voxels - 1), spec, patch_px)
    random = np.random.RandomState(11)
    held_out, fresh = random.normal(size=(2, 50, axis.tokens, axis.tokens))
    on_grid = on_voxels(axis, held_out).ravel()
    calibration = fit_calibration([on_grid], [held_out.ravel()])
    (centers,), _ = axis.voxels_under_tokens
    peaks = on_voxels(axis, fresh)[:, centers][:, :, centers].ravel()
    p = np.array([calibration.p_value(peak) for peak in peaks.tolist()])
    for u in (0.1, 0.01):
        assert 0.4 * u <= np.mean(p <= u) <= 1.3 * u
    # Resting on voxels, p would claim far too much.
    of_voxels = both(on_grid)
    p = np.array([of_voxels.p_value(token) for token in fresh.ravel().tolist()])
    assert np.mean(p <= 0.01) > 3 * 0.01


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
    good = tuple(float(number) for number in range(len(levels)))
    for values in ({"nll": nll, "token_nll": good}, {"nll": good, "token_nll": nll}):
        with pytest.raises(SpecError, match="levels must rise from 0 to 1, and nll"):
            Calibration(levels=levels, **values, tokens=1, volumes=1)


def test_a_calibration_rests_on_something():
    with pytest.raises(SpecError, match="tokens and volumes must be positive"):
        Calibration(levels=(0.0, 1.0), nll=(0.0, 1.0), token_nll=(0.0, 1.0), tokens=0, volumes=1)


UNLIKE = (SAMPLE[:5000], 1.3 * SAMPLE[5000:9000], 0.9 * SAMPLE[9000:])
"""Scans of different spread and size."""


def test_every_volume_weighs_the_same_however_many_voxels_it_has():
    calibration = both(*UNLIKE)
    finer = both(np.repeat(UNLIKE[0], 5), *UNLIKE[1:])
    for rate in GRID_RATES[:4]:
        assert finer.threshold(rate) == pytest.approx(calibration.threshold(rate), rel=0.01)
        of_tokens = np.interp(1 - rate, calibration.levels, calibration.token_nll)
        shares = [np.mean(one > of_tokens) for one in UNLIKE]
        assert np.mean(shares) == pytest.approx(rate, abs=1 / 2000)
        assert calibration.p_value(of_tokens) == pytest.approx(rate, abs=2 / 2000)


def test_quantiles_of_equal_volumes_are_numpys():
    calibration = both(SAMPLE[:10_000], SAMPLE[10_000:])
    np.testing.assert_allclose(calibration.token_nll, np.quantile(SAMPLE, LEVELS), rtol=1e-9)
    assert (calibration.nll[0], calibration.nll[-1]) == (SAMPLE.min(), SAMPLE.max())


@pytest.mark.parametrize("rate", [0.3, 0.1, 0.01])
def test_every_scan_judged_by_the_others_has_the_rate_on_average(rate):
    """The search by hand: one strictness for all, so that the mean share is the rate."""

    def mean_quantile(samples: list[np.ndarray], share: float) -> float:
        low, high = 0.0, 30.0
        for _ in range(50):
            nll = (low + high) / 2
            more = np.mean([np.mean(one > nll) for one in samples]) > share
            low, high = (nll, high) if more else (low, nll)
        return high

    def judged(strictness: float) -> list[float]:
        return [
            float(np.mean(one > mean_quantile([o for o in UNLIKE if o is not one], strictness)))
            for one in UNLIKE
        ]

    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if np.mean(judged(middle)) > rate else (middle, high)
    calibration = both(*UNLIKE)
    expected = mean_quantile(list(UNLIKE), high)
    assert calibration.threshold(rate) == pytest.approx(expected, rel=0.02)
    kept = [one[calibration.rates.index(rate)] for one in calibration.volume_shares]
    assert kept == pytest.approx(judged(high), rel=0.05, abs=2e-4)
    assert np.mean(kept) == pytest.approx(rate, rel=1e-6)


def test_new_scans_have_about_the_rate():
    """Gamma NLL whose scale differs from scan to scan, with three held-out scans in each cohort."""
    random, rate = np.random.default_rng(0), 0.01
    nll = stats.gamma.isf(np.logspace(0, -7, 300)[1:], 8) * 1.3
    scale = np.exp(random.normal(0, 0.2, (300, 103)))
    plain, asked = [], []
    for cohort in scale:
        shares = stats.gamma.sf(nll / cohort[:, None], 8)
        known, fresh = shares[:3], shares[3:].mean(axis=0)
        mean = known.mean(axis=0)[::-1]
        plain.append(np.interp(rate, mean, fresh[::-1]))
        asked.append(np.interp(rates_of_others(known, [rate])[0][0], mean, fresh[::-1]))
    assert np.median(plain) > 1.4 * rate
    assert 0.7 * rate < np.median(asked) < 1.2 * rate
    assert np.mean(asked) < 0.75 * np.mean(plain)


def test_shares_and_case_scores_of_every_volume_are_kept():
    calibration = both(*UNLIKE)
    assert len(calibration.rates) == len(calibration.volume_shares[0])
    assert np.mean(calibration.volume_shares, axis=0)[:5] == pytest.approx(calibration.rates[:5])
    assert calibration.case_scores == tuple(sorted(map(case_score, UNLIKE)))
    again = Calibration.from_dict(json.loads(json.dumps(calibration.to_dict())))
    assert again == calibration
    assert again.rate_interval(0.01) == calibration.rate_interval(0.01) is not None
    assert again.case_p_value(7.0) == calibration.case_p_value(7.0) is not None


def test_a_card_made_before_says_nothing_of_intervals_and_cases(calibration):
    values = calibration.to_dict()
    for name in ("rates", "volume_shares", "case_scores"):
        del values[name]
    old = Calibration.from_dict(values)
    assert old.threshold(0.01) == calibration.threshold(0.01)
    assert old.p_value(5.0) == calibration.p_value(5.0)
    assert old.rate_interval(0.01) is None
    assert old.case_p_value(5.0) is None


def test_of_one_volume_nothing_is_said_of_the_spread():
    alone = both(SAMPLE)
    assert alone.rate_interval(0.01) is None
    assert alone.case_p_value(1e9) is None
    assert alone.is_rough


def test_the_rate_interval_holds_the_rate_and_ends_where_tokens_do():
    calibration = both(SAMPLE[:10_000], SAMPLE[10_000:])
    for rate in np.logspace(-0.6, -3.2, 40).tolist():
        interval = calibration.rate_interval(rate)
        for low, high in (interval.scan, interval.mean):
            assert 0 <= low <= rate <= high <= 1
    assert calibration.rate_interval(0.9 * 10 / SAMPLE.size) is None
    assert calibration.rate_interval(0.5) is None


def test_twenty_normal_scans_are_enough():
    volumes = np.array_split(SAMPLE, 20)
    assert not both(*volumes).is_rough
    assert both(*volumes[1:]).is_rough


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"rates": (0.1,), "volume_shares": ((0.1,), (0.1,))}, "rates must be two or more"),
        ({"rates": (0.01, 0.1)}, "rates must be two or more falling"),
        ({"volume_shares": ((0.1,) * 10,)}, "volume_shares must hold a share"),
        ({"volume_shares": ((0.1,) * 10, (1.1,) * 10)}, "volume_shares must hold a share"),
        ({"volume_shares": ((0.1,) * 9, (0.1,) * 10)}, "volume_shares must hold a share"),
        ({"case_scores": (1.0,)}, "case_scores must hold a rising number"),
        ({"case_scores": (2.0, 1.0)}, "case_scores must hold a rising number"),
        ({"case_scores": (2.0, float("inf"))}, "case_scores must hold a rising number"),
    ],
)
def test_figures_of_volumes_that_cannot_be_are_refused(change, rule):
    calibration = both(SAMPLE[:10_000], SAMPLE[10_000:])
    with pytest.raises(SpecError, match=rule):
        dataclasses.replace(calibration, **change)
