"""Anomalies in template heads: their places, what they change, and what they keep."""

import functools

import numpy as np
import pytest
from Data.template_anomalies import (
    FAMILIES,
    GRAIN,
    MISSING_CHANGE,
    RADII_MM,
    SHIFT,
    SUBTLE_CONTRAST,
    anomalous_head,
    radius_of,
)
from Data.template_cohort import CONTRASTS, template_head
from scipy import ndimage

pytestmark = pytest.mark.slow

SPACING_MM = 4.0

made = functools.cache(functools.partial(anomalous_head, spacing_mm=SPACING_MM))


def changed_signal(anomaly):
    """Return the change of signal in units of white matter."""
    change = anomaly.head.signal.astype(float) - anomaly.healthy.signal
    return change / anomaly.healthy.white_signal


@pytest.mark.parametrize(("size", "seed"), [("small", 5001), ("large", 5002)])
@pytest.mark.parametrize("family", FAMILIES)
def test_only_truth_and_ignored_voxels_differ_from_the_healthy_head(family, size, seed):
    head, truth, healthy, ignored = made(family, size, seed)
    same = ~truth & ~ignored
    assert np.array_equal(head.voxels[same], healthy.voxels[same])
    assert np.all(head.voxels[ignored] != healthy.voxels[ignored])
    assert not np.any(truth & ignored)
    assert np.all(healthy.brain[truth])
    assert np.count_nonzero(head.voxels[truth] != healthy.voxels[truth]) > 0.4 * truth.sum() > 0
    assert np.all(head.voxels[~healthy.brain] == 0)
    # Neither extends beyond a mass's edema: a ball around the truth's middle.
    if family != "subtle":
        middle = np.argwhere(truth).mean(axis=0)
        reach_mm = SPACING_MM * np.linalg.norm(np.argwhere(truth | ignored) - middle, axis=1)
        assert reach_mm.max() < 2.4 * radius_of(family, size) + 2 * SPACING_MM


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_bits_and_the_healthy_head_is_the_cohort_s(family):
    first = made(family, "large", 5002)
    again = anomalous_head(family, radius_of(family, "large"), 5002, spacing_mm=SPACING_MM)
    assert first.head.voxels.tobytes() == again.head.voxels.tobytes()
    assert first.truth.tobytes() == again.truth.tobytes()
    healthy = template_head(5002, spacing_mm=SPACING_MM)
    assert first.healthy.voxels.tobytes() == healthy.voxels.tobytes()


@pytest.mark.parametrize("family", ["bright", "dark", "displaced", "texture"])
def test_a_size_is_the_radius_of_a_ball_of_equal_volume(family):
    for size in ("medium", "large"):
        _, truth, healthy, _ = made(family, size, 5002)
        ball_ml = 4 / 3 * np.pi * RADII_MM[size] ** 3 / 1000
        assert truth.sum() * healthy.voxel_ml == pytest.approx(ball_ml, rel=0.2)


@pytest.mark.parametrize(("family", "sign"), [("bright", 1), ("dark", -1)])
def test_a_mass_has_its_family_s_contrast(family, sign):
    head, truth, _, ignored = made(family, "large", 5002)
    inner = ndimage.binary_erosion(truth)
    contrast = sign * ((head.signal / head.white_signal)[inner].mean() - 1)
    assert CONTRASTS[0] - 0.03 < contrast < CONTRASTS[1] + 0.03
    # Edema darkens.
    edema = ignored & ~ndimage.binary_dilation(truth)
    assert changed_signal(made(family, "large", 5002))[edema].mean() < -0.02


@pytest.mark.parametrize("seed", [5002, 5003, 5005])
def test_subtle_lesions_are_few_faint_and_of_one_sign(seed):
    anomaly = made("subtle", "large", seed)
    labels, count = ndimage.label(anomaly.truth, np.ones((3, 3, 3)))
    assert 1 <= count <= 3
    change = changed_signal(anomaly)
    sign = 1 if seed % 2 else -1
    for label in range(1, count + 1):
        strongest = (sign * change[labels == label]).max()
        assert SUBTLE_CONTRAST[0] - 1e-3 < strongest < SUBTLE_CONTRAST[1] + 1e-3


def test_displaced_tissue_is_found_where_it_was_pushed_from():
    """Brute force compares the healthy head's patch at every shift with the one in the middle."""
    radius_mm, spacing_mm = 13.0, 2.0
    head, truth, healthy, _ = anomalous_head("displaced", radius_mm, 5001, spacing_mm=spacing_mm)
    middle = np.rint(np.argwhere(truth).mean(axis=0)).astype(int)
    around = np.mgrid[-2:3, -2:3, -2:3]
    before, after = (each.signal / each.white_signal for each in (healthy, head))
    patch = after[tuple(around + middle[:, None, None, None])]
    shifts = np.array(list(np.ndindex(13, 13, 13))) - 6
    difference = np.array(
        [
            np.abs(before[tuple(around + (middle + shift)[:, None, None, None])] - patch).mean()
            for shift in shifts
        ]
    )
    length_mm = spacing_mm * np.linalg.norm(shifts, axis=1)
    expected = np.abs(length_mm - SHIFT * radius_mm) < spacing_mm
    assert difference[expected].min() < 0.4 * difference[length_mm < 4].min()
    assert difference[expected].min() < 0.04
    # The truth ends where half of the shift is left.
    reach_mm = spacing_mm * np.linalg.norm(np.argwhere(truth) - middle, axis=1).max()
    assert reach_mm == pytest.approx(radius_mm, abs=1.5)


@pytest.mark.parametrize("seed", [5002, 5003])
def test_a_missing_structure_leaves_a_smooth_place(seed):
    anomaly = made("missing", "large", seed)
    change = changed_signal(anomaly)
    assert np.all(np.abs(change[anomaly.truth]) > MISSING_CHANGE - 1e-6)
    ball = ndimage.binary_erosion(ndimage.binary_closing(anomaly.truth, iterations=2))
    before = (anomaly.healthy.signal / anomaly.healthy.white_signal)[ball].std()
    after = (anomaly.head.signal / anomaly.head.white_signal)[ball].std()
    assert before > 0.1
    assert after < 0.6 * before


@pytest.mark.parametrize("seed", [5001, 5002])
def test_texture_changes_the_detail_and_not_the_mean(seed):
    head, truth, healthy, _ = anomalous_head("texture", "large", seed, spacing_mm=2.0)
    before, after = (each.signal / each.white_signal for each in (healthy, head))
    assert after[truth].mean() == pytest.approx(before[truth].mean(), abs=0.01)
    inner = ndimage.binary_erosion(truth)
    added = (after - before)[inner]
    fine_before, fine_after = (
        (image - ndimage.gaussian_filter(image, 1.0))[inner].std() for image in (before, after)
    )
    if seed % 2:
        assert added.std() == pytest.approx(GRAIN, rel=0.2)
        assert abs(np.corrcoef(added, before[inner])[0, 1]) < 0.2
        assert fine_after > 1.3 * fine_before
    else:
        assert fine_after < 0.5 * fine_before


def test_an_unknown_family_or_size_is_an_error():
    with pytest.raises(ValueError, match="not in tuple"):
        anomalous_head("swollen", "large", 1, spacing_mm=6.0)
    with pytest.raises(KeyError, match="huge"):
        anomalous_head("bright", "huge", 1, spacing_mm=6.0)
