"""The phantom: one seed is one head on every grid, and its truth is true."""

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation
from SpatialARAnomalyLib.engine.errors import InputError, SpecError
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.volume import check_scan
from SpatialARAnomalyLib.service.demo.phantom import (
    EDEMA_DARKENING,
    EDEMA_REACH,
    GAIN,
    LESION_BULGE,
    NOISE,
    PhantomHead,
    add_lesion,
    centered_ras_from_voxel,
    normal_head,
)
from SpatialARAnomalyLib.service.demo.phantom_anatomy import EDGE_MM, HeadAnatomy, Tissue

SHAPE_KJI = (30, 52, 44)
SPACING_MM = (4.0, 4.0, 5.0)


@pytest.fixture(scope="module")
def head() -> PhantomHead:
    return normal_head(1)


@pytest.fixture(scope="module")
def coarse() -> PhantomHead:
    return normal_head(2, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM, noise=0.0)


def relative(head: PhantomHead) -> np.ndarray:
    return head.signal / head.white_signal


def ball_ml(radius_mm: float) -> float:
    return 4 / 3 * np.pi * radius_mm**3 / 1000


def test_same_seed_gives_the_same_bits(head):
    again = normal_head(1)
    for name in ("voxels", "ras_from_voxel", "tissues", "signal", "white_signal"):
        assert getattr(again, name).tobytes() == getattr(head, name).tobytes()


def test_another_seed_is_another_person_in_the_same_place(head):
    other = normal_head(2)
    both = head.brain & other.brain
    assert np.abs(relative(other) - relative(head))[both].mean() > 0.15
    overlap = 2 * both.sum() / (head.brain.sum() + other.brain.sum())
    assert 0.85 < overlap < 0.99


def test_noise_is_all_that_another_noise_level_changes(head):
    clean = normal_head(1, noise=0.0)
    assert np.array_equal(clean.signal, head.signal)
    assert np.array_equal(clean.voxels, np.rint(clean.signal).astype(np.int16))
    assert not np.array_equal(clean.voxels, head.voxels)


def test_noise_is_rician_of_the_stated_size(head):
    gain = np.median(head.white_signal)
    sigma = NOISE * gain
    white = head.tissues == Tissue.WHITE
    assert np.std((head.voxels - head.signal)[white]) == pytest.approx(sigma, rel=0.1)
    air = head.tissues == Tissue.AIR
    air &= head.signal == 0
    assert head.voxels[air].mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.1)


def test_a_default_head_is_a_scan_of_a_scanner(head):
    assert head.voxels.dtype == np.int16
    assert head.voxels.min() >= 0
    assert head.modality is Modality.MR
    assert head.spacing_mm == pytest.approx((1.2, 1.2, 6.0))
    check_scan(head)


def test_the_scale_is_arbitrary_and_the_field_uneven():
    small = {"shape_kji": (5, 20, 20), "spacing_mm": (9.0, 9.0, 20.0)}
    fields = [normal_head(seed, **small).white_signal for seed in range(12)]
    gains = np.array([np.median(field) for field in fields])
    assert gains.max() > 2 * gains.min()
    assert gains.min() > 0.7 * GAIN[0]
    assert gains.max() < 1.4 * GAIN[1]
    unevenness = [np.ptp(field) / np.median(field) for field in fields]
    assert 0.1 < np.mean(unevenness) < 0.6


def test_the_head_is_the_same_on_a_finer_grid(coarse):
    fine_affine = coarse.ras_from_voxel @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine_shape = tuple(2 * size - 1 for size in SHAPE_KJI)
    fine = normal_head(2, shape_kji=fine_shape, ras_from_voxel=fine_affine, noise=0.0)
    assert_same(fine.voxels[::2, ::2, ::2], coarse.voxels)


def test_the_head_is_the_same_on_a_left_handed_grid_with_other_axes(coarse):
    # i' = k, j' = j, k' = last i - i: sagittal slices, and a mirrored hand.
    other_from_axial = np.array(
        [[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, SHAPE_KJI[2] - 1], [0, 0, 0, 1]], float
    )
    affine = coarse.ras_from_voxel @ np.linalg.inv(other_from_axial)
    assert np.linalg.det(affine) * np.linalg.det(coarse.ras_from_voxel) > 0
    affine_left = affine @ np.diag([1.0, -1.0, 1.0, 1.0])
    affine_left[:3, 3] += affine[:3, 1] * (SHAPE_KJI[1] - 1)
    assert np.linalg.det(affine_left) * np.linalg.det(coarse.ras_from_voxel) < 0
    shape = (SHAPE_KJI[2], SHAPE_KJI[1], SHAPE_KJI[0])
    other = normal_head(2, shape_kji=shape, ras_from_voxel=affine_left, noise=0.0)
    assert_same(other.voxels[::-1, ::-1].transpose(2, 1, 0), coarse.voxels)


def test_the_head_is_the_same_on_an_oblique_grid(coarse):
    # A 3-4-5 triangle: every step of the oblique grid ends on an axial voxel.
    axial_from_oblique = np.array(
        [[3, -4, 0, 24], [4, 3, 0, 12], [0, 0, 2, 3], [0, 0, 0, 1]], float
    )
    oblique = normal_head(
        2,
        shape_kji=(12, 5, 5),
        ras_from_voxel=coarse.ras_from_voxel @ axial_from_oblique,
        noise=0.0,
    )
    k, j, i = np.indices(oblique.voxels.shape)
    i, j, k = 3 * i - 4 * j + 24, 4 * i + 3 * j + 12, 2 * k + 3
    assert_same(oblique.voxels, coarse.voxels[k, j, i])


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Within the rounding of a voxel value."""
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert expected.std() > 50


@pytest.mark.parametrize("seed", range(4))
def test_tissues_are_ordered_as_in_t1_and_of_human_size(seed):
    head = normal_head(seed)
    mean = {tissue: relative(head)[head.tissues == tissue].mean() for tissue in set(Tissue) - {13}}
    ordered = [
        Tissue.AIR,
        Tissue.VENTRICLE,
        Tissue.SULCUS,
        Tissue.GRAY,
        Tissue.DEEP_GRAY,
        Tissue.WHITE,
    ]
    means = [mean[tissue] for tissue in ordered]
    assert means == sorted(means)
    assert mean[Tissue.WHITE] == pytest.approx(1, abs=0.05)
    assert mean[Tissue.BONE] < mean[Tissue.MARROW] < mean[Tissue.FAT]
    assert 1200 < head.brain.sum() * head.voxel_ml < 1900
    assert 8 < (head.tissues == Tissue.VENTRICLE).sum() * head.voxel_ml < 60
    gray, white = ((head.tissues == t).sum() for t in (Tissue.GRAY, Tissue.WHITE))
    assert 1 < gray / white < 1.7


def test_air_skull_and_brain_lie_in_this_order(head):
    skull = np.isin(head.tissues, (Tissue.BONE, Tissue.MARROW))
    above_base = slice(14, 19)
    for one_slice, bone, brain in zip(
        head.tissues[above_base], skull[above_base], head.brain[above_base], strict=True
    ):
        assert np.all(ndimage.binary_fill_holes(bone)[brain])
        assert one_slice[0].max() == Tissue.AIR == one_slice[:, 0].max()


@pytest.mark.parametrize("seed", range(3))
def test_left_and_right_are_alike_but_not_equal(seed):
    anatomy = HeadAnatomy.draw(np.random.default_rng(seed))
    steps = np.arange(-72.0, 73.0, 6.0)
    x, y, z = np.meshgrid(steps, np.arange(-84.0, 84.0, 6.0), np.arange(-20.0, 61.0, 6.0))
    head_mm = np.stack([x.ravel(), y.ravel(), z.ravel()])
    ras_from_head = np.linalg.inv(anatomy.head_from_ras)
    right, left = (
        anatomy.at(ras_from_head[:3, :3] @ (head_mm * [[side], [1], [1]]) + ras_from_head[:3, 3:])
        for side in (1, -1)
    )
    correlation = np.corrcoef(right[0], left[0])[0, 1]
    assert 0.6 < correlation < 0.98
    # Blurred beyond single gyri the halves agree.
    blurred = [ndimage.gaussian_filter(half[0].reshape(x.shape), 2) for half in (right, left)]
    assert np.abs(blurred[0] - blurred[1]).mean() < 0.06


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"seed": -1}, "seed -1"),
        ({"seed": 0, "noise": -0.1}, "noise -0.1"),
        ({"seed": 0, "shape_kji": (0, 4, 4)}, r"shape \(0, 4, 4\)"),
    ],
)
def test_impossible_heads_are_refused(settings, found):
    with pytest.raises(SpecError, match=f"needs a seed and noise of at least 0.*{found}"):
        normal_head(**settings)


@pytest.mark.parametrize("radius_mm", [8.0, 14.0])
def test_a_lesion_has_the_volume_asked_for_and_lies_in_the_brain(head, radius_mm):
    for seed in range(4):
        _, truth = add_lesion(head, seed, radius_mm=radius_mm)
        assert truth.sum() * head.voxel_ml == pytest.approx(ball_ml(radius_mm), rel=0.08)
        assert np.all(head.brain[truth])
        assert not np.any(head.tissues[truth] == Tissue.VENTRICLE)
        assert ndimage.label(truth)[1] == 1


def test_a_lesion_is_uneven_but_within_its_bulge(head):
    _, truth = add_lesion(head, 3)
    k, j, i = np.nonzero(truth)
    ras_mm = (head.ras_from_voxel @ np.stack([i, j, k, np.ones(len(k))]))[:3]
    reach_mm = np.linalg.norm(ras_mm - ras_mm.mean(axis=1, keepdims=True), axis=0).max()
    assert 1.03 * 14 < reach_mm < LESION_BULGE * 14 + 3


@pytest.mark.parametrize("contrast", [0.45, -0.4])
def test_a_lesion_has_the_contrast_asked_for(head, contrast):
    lesioned, truth = add_lesion(head, 5, contrast=contrast)
    inner = ndimage.distance_transform_edt(truth, sampling=head.spacing_mm[::-1]) > 2 * EDGE_MM
    found = lesioned.voxels[inner] / head.white_signal[inner]
    assert found.mean() == pytest.approx(1 + contrast, abs=0.02)
    assert 0.02 < found.std() < 0.12
    assert np.all(lesioned.tissues[truth] == Tissue.LESION)
    assert not np.any(lesioned.tissues[~truth] == Tissue.LESION)


def test_edema_darkens_the_white_matter_around_and_nothing_beyond(head):
    lesioned, truth = add_lesion(head, 5)
    change = lesioned.signal / head.signal.clip(1) - 1
    distance_mm = ndimage.distance_transform_edt(~truth, sampling=head.spacing_mm[::-1])
    near = (distance_mm > 2) & (distance_mm < 5) & (head.tissues == Tissue.WHITE)
    assert -EDEMA_DARKENING < change[near].mean() < -EDEMA_DARKENING / 4
    beyond = distance_mm > EDEMA_REACH * LESION_BULGE * 14
    assert np.array_equal(lesioned.voxels[beyond], head.voxels[beyond])


def test_the_head_given_stays_as_it_was(head):
    before = {name: getattr(head, name).tobytes() for name in ("voxels", "tissues", "signal")}
    lesioned, _ = add_lesion(head, 0)
    assert {name: getattr(head, name).tobytes() for name in before} == before
    assert not np.array_equal(lesioned.voxels, head.voxels)


def test_the_seed_places_the_lesion(head):
    first, truth = add_lesion(head, 0)
    again, same = add_lesion(head, 0)
    _, elsewhere = add_lesion(head, 1)
    assert first.voxels.tobytes() == again.voxels.tobytes()
    assert np.array_equal(truth, same)
    assert (truth & elsewhere).sum() < 0.9 * truth.sum()


def test_a_second_lesion_keeps_clear_of_the_first(head):
    once, first = add_lesion(head, 0, radius_mm=9.0)
    for seed in range(5):
        _, second = add_lesion(once, seed, radius_mm=9.0)
        assert second.any()
        assert not np.any(first & second)


def test_a_lesion_fits_an_oblique_left_handed_grid():
    turned = np.eye(4)
    turned[:3, :3] = Rotation.from_euler("xyz", [12, -8, 20], degrees=True).as_matrix()
    shape = (44, 60, 52)
    affine = turned @ centered_ras_from_voxel(shape, (3.5, 3.5, 3.0))
    affine[:3, 3] += 51 * affine[:3, 0]
    affine[:3, 0] *= -1
    head = normal_head(4, shape_kji=shape, ras_from_voxel=affine)
    assert np.linalg.det(head.ras_from_voxel) < 0
    _, truth = add_lesion(head, 1, radius_mm=12.0)
    assert truth.sum() * head.voxel_ml == pytest.approx(ball_ml(12), rel=0.05)
    assert np.all(head.brain[truth])


def test_a_lesion_without_room_says_how_much_there_is(head):
    with pytest.raises(InputError, match=r"40 mm radius needs brain 50 mm.*at most \d+\.\d mm"):
        add_lesion(head, 0, radius_mm=40.0)


@pytest.mark.parametrize("settings", [{"radius_mm": 0.0}, {"contrast": -1.0}])
def test_impossible_lesions_are_refused(head, settings):
    with pytest.raises(SpecError, match="needs a positive radius and a contrast above -1; found"):
        add_lesion(head, 0, **settings)
