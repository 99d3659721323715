"""Outlines at edges of the image: a ball is found from a coarse region, and nothing is invented."""

import numpy as np
import pytest
from scipy import ndimage
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.scoring import outlines
from SpatialARAnomalyLib.engine.scoring.findings import find_in_box
from SpatialARAnomalyLib.engine.scoring.outlines import refine_outlines

CALIBRATION = Calibration(
    levels=(0.0, 1.0), nll=(0.0, 9.0), token_nll=(0.0, 9.0), tokens=1000, volumes=2
)
SHAPE, SPACING_MM = (24, 48, 56), (2.0, 1.0, 1.0)
AFFINE = np.array([[0, -1.0, 0, 9], [1.0, 0, 0, -4], [0, 0, 2.0, 7], [0, 0, 0, 1]])
TOKEN_MM = 6.0
THRESHOLD = 1.0


def ball(center_kji, radius_mm):
    away = [
        (x - c) * mm for x, c, mm in zip(np.indices(SHAPE), center_kji, SPACING_MM, strict=True)
    ]
    return sum(one**2 for one in away) <= radius_mm**2


def coarse(lesion):
    """An NLL as of tokens: 3 in the blurred lesion's middle, 0.5 far from it."""
    nll = np.float32(0.5) + 3 * ndimage.gaussian_filter(
        lesion.astype(np.float32), [TOKEN_MM / mm / 2 for mm in SPACING_MM]
    )
    nll[:, :2] = -1.0  # outside the body
    return nll


def image(lesion, contrast=60.0):
    noise = np.random.RandomState(0).normal(0, 4, SHAPE).astype(np.float32)
    return 100 + noise + contrast * lesion


def refined(nll, voxels, token_mm=TOKEN_MM):
    found, box = find_in_box(nll, AFFINE, CALIBRATION, THRESHOLD, 0.0)
    raw = box.on_grid(SHAPE)
    after, box, moved = refine_outlines(found, box, nll, voxels, AFFINE, THRESHOLD, token_mm)
    return found, raw, after, box.on_grid(SHAPE), moved


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


LESION = ball((12, 24, 28), 9.0)


@pytest.mark.parametrize("contrast", [60.0, -60.0])
@pytest.mark.parametrize("max_voxels", [outlines.MAX_VOXELS, 4_000])
def test_a_ball_is_outlined_from_a_region_a_token_coarse(monkeypatch, contrast, max_voxels):
    monkeypatch.setattr(outlines, "MAX_VOXELS", max_voxels)
    found, raw, after, labels, moved = refined(coarse(LESION), image(LESION, contrast))
    assert moved == 1
    assert dice(raw > 0, LESION) < 0.85
    assert dice(labels > 0, LESION) > (0.93 if max_voxels > 4_000 else 0.88)
    # Measures are those of the new outline, the rest those of the raw region.
    (old,), (new,) = found, after
    assert new.voxels == np.count_nonzero(labels) != old.voxels
    assert new.volume_ml == pytest.approx(new.voxels * 0.002)
    k, j, i = np.argwhere(labels).mean(axis=0)
    assert new.centroid_ras == pytest.approx((AFFINE @ [i, j, k, 1])[:3])
    assert (new.rank, new.strength, new.peak_nll, new.mean_nll, new.peak_ras) == (
        old.rank, old.strength, old.peak_nll, old.mean_nll, old.peak_ras,
    )  # fmt: skip


@pytest.mark.parametrize("token_mm", [2.0, 6.0])
def test_no_outline_leaves_the_margin_or_the_body(token_mm):
    larger = ball((12, 8, 28), 16.0)  # it reaches beyond the body, and far beyond the region
    _, raw, _, labels, _ = refined(coarse(ball((12, 12, 28), 7.0)), image(larger), token_mm)
    away = ndimage.distance_transform_edt(raw == 0, sampling=SPACING_MM)
    assert labels.any()
    assert away[labels > 0].max() <= token_mm
    assert not labels[:, :2].any()


def test_without_an_edge_the_raw_outline_stays():
    found, raw, after, labels, moved = refined(coarse(LESION), image(LESION, 0.0))
    assert moved == 0
    assert after == found
    assert np.array_equal(labels, raw)


def test_neighbors_take_nothing_from_each_other():
    one, other = ball((12, 16, 20), 6.0), ball((12, 34, 36), 6.0)
    nll = np.maximum(coarse(one), 0.9 * coarse(other) + 0.05)
    _, raw, after, labels, moved = refined(nll, image(one | other))
    assert moved == len(after) == 2
    for rank, lesion in ((1, one), (2, other)):
        assert dice(labels == rank, lesion) > 0.85
        assert not (labels == rank)[raw == 3 - rank].any()


def test_a_mirrored_scan_has_the_mirrored_outline():
    _, _, _, labels, _ = refined(coarse(LESION), image(LESION))
    found, box = find_in_box(coarse(LESION)[::-1], AFFINE, CALIBRATION, THRESHOLD, 0.0)
    _, box, _ = refine_outlines(
        found, box, coarse(LESION)[::-1], image(LESION)[::-1], AFFINE, THRESHOLD, TOKEN_MM
    )
    assert dice(box.on_grid(SHAPE)[::-1] > 0, labels > 0) > 0.99


@pytest.mark.parametrize(("name", "limit"), [("MAX_FINDINGS", 0), ("MAX_BOX_VOXELS", 100)])
def test_what_would_take_long_stays_raw(monkeypatch, name, limit):
    monkeypatch.setattr(outlines, name, limit)
    _, raw, _, labels, moved = refined(coarse(LESION), image(LESION))
    assert moved == 0
    assert np.array_equal(labels, raw)
