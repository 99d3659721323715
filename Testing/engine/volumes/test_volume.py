"""A scan in memory: its affine, hash and modality, and voxels that are not a scan."""

from dataclasses import replace

import numpy as np
import pytest
from Data.template_cohort import template_head
from engine.grids import random_grid
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Modality, Plane
from SpatialARAnomalyLib.engine.volumes.files import write_nrrd
from SpatialARAnomalyLib.engine.volumes.volume import (
    Volume,
    check_scan,
    infer_modality,
    scan_notices,
)
from SpatialARAnomalyLib.service.array_files import affine_rows
from SpatialARAnomalyLib.service.demo.phantom import PhantomHead, normal_head
from SpatialARAnomalyLib.service.scans import ScanSource


@pytest.fixture(scope="module")
def head() -> PhantomHead:
    return normal_head(0)


def random_volume(seed: int) -> Volume:
    grid = random_grid(seed, plane=Plane.AXIAL, slices=5, largest_mm=90.0)
    voxels = np.random.RandomState(seed).randint(0, 3000, grid.shape_kji).astype(np.int16)
    return Volume(voxels, grid.ras_from_voxel)


def reoriented(volume: Volume, order: tuple[int, int, int], flips: list[bool]) -> Volume:
    """The same voxels at the same positions, with axes (i, j, k) permuted and reversed."""
    kji = [2 - axis for axis in order][::-1]
    voxels = volume.voxels.transpose(kji)
    old_from_new = np.zeros((4, 4))
    old_from_new[3, 3] = 1.0
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        old_from_new[old, new] = -1.0 if flip else 1.0
        if flip:
            voxels = np.flip(voxels, 2 - new)
            old_from_new[old, 3] = voxels.shape[2 - new] - 1
    return Volume(voxels, volume.ras_from_voxel @ old_from_new)


def affine_of(*spacing_mm: float, origin=(0.0, 0.0, 0.0)) -> np.ndarray:
    ras_from_voxel = np.diag([*spacing_mm, 1.0])
    ras_from_voxel[:3, 3] = origin
    return ras_from_voxel


def test_spacing_and_voxel_size_are_those_of_the_affine():
    volume = Volume(np.zeros((2, 3, 4), np.int16), affine_of(-0.5, 2.0, -3.0))
    assert volume.spacing_mm == (0.5, 2.0, 3.0)
    assert volume.voxel_ml == pytest.approx(0.003)
    sheared = affine_of(0.5, 2.0, 3.0)
    sheared[0, 2] = 4.0  # as of a tilted gantry: the height of a slice stays 3 mm
    assert Volume(volume.voxels, sheared).voxel_ml == pytest.approx(0.003)
    assert Volume(volume.voxels, sheared).spacing_mm[2] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("ras_from_voxel", "code", "message"),
    [
        (affine_of(1, 0, 1), "spacing-zero", "found 1 × 0 × 1 mm"),
        (affine_of(1, np.nan, 1), "affine-not-finite", "NaN or infinity"),
        (np.ones((4, 4)), "affine-singular", "its affine is singular"),
    ],
)
def test_an_invalid_affine_is_refused(ras_from_voxel, code, message):
    with pytest.raises(InputError, match=message) as caught:
        Volume(np.zeros((2, 2, 2), np.int16), ras_from_voxel)
    assert caught.value.code == code


# Content hash


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("order", "flips"),
    [
        ((0, 1, 2), [True, True, False]),
        ((0, 1, 2), [False, True, False]),
        ((2, 0, 1), [False, False, True]),
        ((1, 0, 2), [True, False, True]),
    ],
)
def test_copies_in_another_orientation_have_one_hash(seed, order, flips):
    volume = random_volume(seed)
    copy = reoriented(volume, order, flips)
    i, j, k = 1, 2, 3
    was, became = (i, j, k), [0, 0, 0]
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        became[new] = copy.voxels.shape[2 - new] - 1 - was[old] if flip else was[old]
    # The helper keeps every voxel at its position.
    assert copy.voxels[became[2], became[1], became[0]] == volume.voxels[k, j, i]
    np.testing.assert_allclose(
        copy.ras_from_voxel @ [*became, 1], volume.ras_from_voxel @ [*was, 1], atol=1e-9
    )
    assert copy.content_sha256() == volume.content_sha256()


@pytest.mark.parametrize("spacing_mm", [0.9375, 0.4285, 0.4297, 1 / 3, 0.7, 1.0005])
def test_common_spacings_do_not_lie_between_two_hashes(spacing_mm):
    # 937.5 µm is half way between two steps of a micrometer: rounding errors must not choose.
    voxels = np.random.RandomState(0).randint(0, 9, (3, 256, 255)).astype(np.int16)
    volume = Volume(
        voxels,
        affine_of(-spacing_mm, -spacing_mm, 5.0, origin=(-110.25, 0.1 + spacing_mm / 2, 0.0005)),
    )
    copy = reoriented(volume, (1, 2, 0), [True, False, True])
    hashes = {volume.content_sha256(), copy.content_sha256()}
    for error in (1e-7, -1e-7):
        hashes.add(replace(volume, ras_from_voxel=volume.ras_from_voxel + error).content_sha256())
    assert len(hashes) == 1


def test_another_voxel_or_position_is_another_hash():
    volume = random_volume(0)
    voxels = volume.voxels.copy()
    voxels[3, 2, 1] += 1
    moved = volume.ras_from_voxel.copy()
    moved[1, 3] += 1.0
    mirrored = Volume(volume.voxels[..., ::-1], volume.ras_from_voxel)
    hashes = {
        one.content_sha256()
        for one in (
            volume,
            replace(volume, voxels=voxels),
            replace(volume, ras_from_voxel=moved),
            mirrored,
        )
    }
    assert len(hashes) == 4


def test_hash_does_not_depend_on_the_type_of_the_voxels():
    volume = random_volume(1)
    as_float = replace(volume, voxels=volume.voxels.astype(np.float32))
    assert as_float.content_sha256() == volume.content_sha256()


# Modality


def test_modality_is_what_the_file_says():
    dark = Volume(np.full((2, 2, 2), -1000, np.int16), np.eye(4), Modality.MR)
    assert infer_modality(dark) is Modality.MR


@pytest.mark.parametrize(
    ("darkest", "dark", "modality"),
    [
        (-1024, 20, Modality.CT),
        (-1024, 19, Modality.MR),  # ringing of splines
        (-300, 900, Modality.MR),
        (0, 900, Modality.MR),
    ],
)
def test_modality_is_ct_where_a_share_of_voxels_is_as_dark_as_air(darkest, dark, modality):
    voxels = np.full((10, 10, 10), 500, np.int16)
    voxels.ravel()[:dark] = darkest
    assert infer_modality(Volume(voxels, np.eye(4))) is modality


# Voxels that are not a scan


def refused(voxels: np.ndarray) -> InputError:
    with pytest.raises(InputError) as caught:
        check_scan(Volume(voxels, np.eye(4)))
    return caught.value


@pytest.mark.parametrize(
    ("value", "count"), [(np.nan, 1), (np.inf, 2), (-np.inf, 3)], ids=["nan", "inf", "-inf"]
)
def test_voxels_that_are_not_finite_are_background(value, count):
    voxels = np.random.RandomState(0).rand(4, 5, 6).astype(np.float32)
    lowest = voxels.flat[count:].min()
    bad = np.arange(120).reshape(4, 5, 6) < count
    voxels[bad] = value
    volume = check_scan(Volume(voxels, np.eye(4)))
    np.testing.assert_array_equal(volume.outside, bad)
    np.testing.assert_array_equal(volume.voxels, np.where(bad, lowest, voxels))
    ((code, text),) = scan_notices(volume)
    assert code == "voxels-not-finite"
    assert text.startswith(f"{count} of 120 voxels are NaN or infinite")
    assert not PlaneVolume(volume, Plane.AXIAL, Modality.MR).counted.all()


def test_voxels_that_are_not_finite_are_the_same_in_an_array_of_slicer(tmp_path):
    """The panel sends arrays as Slicer has them; the command line reads the same file."""
    voxels = normal_head(0).voxels.astype(np.float32)
    voxels[:2] = np.nan
    voxels[9, 9, 9] = np.inf
    np.save(tmp_path / "a.npy", voxels)
    write_nrrd(tmp_path / "a.nrrd", voxels, np.diag([1.0, 2, 3, 1]))
    affine = affine_rows(np.diag([1.0, 2, 3, 1]))
    sources = (
        ScanSource(path=tmp_path / "a.nrrd"),
        ScanSource(voxels=tmp_path / "a.npy", affine=affine),
    )
    one, other = (source.read()[1] for source in sources)
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.outside, other.outside)
    assert scan_notices(one) == scan_notices(other)


def test_a_scan_without_finite_voxels_is_refused():
    error = refused(np.full((3, 4, 5), np.nan, np.float32))
    assert error.code == "voxels-not-finite"


def test_background_that_is_nan_changes_nothing_else():
    """Brains are often stored with NaN around them, by programs such as SPM."""
    head = normal_head(0).voxels.astype(np.float32)
    outside = np.zeros(head.shape, dtype=bool)
    outside[:, :12] = True
    in_nan = check_scan(Volume(np.where(outside, np.nan, head), np.eye(4)))
    lowest = Volume(np.where(outside, head[~outside].min(), head), np.eye(4))
    one, other = (PlaneVolume(v, Plane.AXIAL, Modality.MR) for v in (in_nan, lowest))
    np.testing.assert_array_equal(one.voxels, other.voxels)
    np.testing.assert_array_equal(one.body, other.body & ~one.orientation.apply(outside))


def test_a_sheared_grid_has_a_notice_with_its_tilt():
    tilted = np.eye(4)
    tilted[1, 2] = np.tan(np.radians(14))
    ((code, text),) = scan_notices(Volume(normal_head(0).voxels, tilted))
    assert (code, "tilted by 14.00°" in text) == ("grid-sheared", True)
    assert scan_notices(Volume(normal_head(0).voxels, np.diag([1.0, 2, 3, 1]))) == ()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_constant_volume_is_refused(dtype):
    error = refused(np.full((3, 4, 5), 7, dtype))
    assert error.code == "volume-constant"
    assert "all its voxels are 7." in error.message


def test_empty_volume_is_refused():
    assert refused(np.zeros((0, 4, 5), np.int16)).code == "volume-empty"


def parcellation(shape: tuple[int, int, int], parts: int) -> np.ndarray:
    """Nearest-seed regions, numbered from 1, within a ball."""
    random = np.random.RandomState(parts)
    kji = np.indices(shape).reshape(3, -1).T / np.array(shape)
    seeds = random.rand(parts, 3)
    nearest = np.concatenate(
        [((part[:, None] - seeds) ** 2).sum(-1).argmin(1) for part in np.array_split(kji, 20)]
    )
    ball = ((kji - 0.5) ** 2).sum(1) < 0.2
    return (np.where(ball, nearest + 1, 0)).reshape(shape).astype(np.int16)


def sparse_mask() -> np.ndarray:
    mask = np.zeros((20, 30, 40), np.uint8)
    mask[np.random.RandomState(0).rand(*mask.shape) < 1e-3] = 1
    return mask


LABEL_MAPS = {
    "tissues": lambda: normal_head(0).tissues,
    "tissues of thin slices": lambda: template_head(0, spacing_mm=4.0).tissues,
    "mask": lambda: (normal_head(0).tissues > 0).astype(np.uint8),
    "mask of 255": lambda: (normal_head(0).tissues > 0).astype(np.uint8) * np.uint8(255),
    "few voxels": sparse_mask,
    "one slice": lambda: normal_head(0).tissues[12:13],
    "parcellation": lambda: parcellation((30, 60, 60), 150),
    "parcellation, sparse labels": lambda: parcellation((30, 60, 60), 80) * np.int16(13),
}


@pytest.mark.parametrize("dtype", [None, np.float32], ids=["as stored", "float"])
@pytest.mark.parametrize("name", LABEL_MAPS)
def test_label_map_is_refused(name, dtype):
    labels = LABEL_MAPS[name]()
    error = refused(labels if dtype is None else labels.astype(dtype))
    assert error.code == "label-map"
    assert f"({np.unique(labels).size} distinct integers" in error.message


def ct_like(air: int, body_share: float, dtype: type) -> np.ndarray:
    """Exactly `air` outside of a noisy body, as reconstruction circles leave it."""
    random = np.random.RandomState(0)
    inside = np.abs(np.linspace(-1, 1, 120)) < np.sqrt(body_share)
    voxels = np.full((6, 120, 120), air)
    body = air + 1040 + np.rint(random.normal(0, 15, voxels.shape)).astype(int)
    return np.where(inside[:, None] & inside, body, voxels).astype(dtype)


def ramp(k: float, j: float, i: float) -> np.ndarray:
    kk, jj, ii = np.indices((30, 80, 90))
    return (k * kk + j * jj + i * ii).astype(np.int16)


def quantized(voxels: np.ndarray) -> np.ndarray:
    return (voxels / voxels.max() * 255).astype(np.uint8)


SCANS = {
    "phantom": lambda: normal_head(0).voxels,
    "phantom, one slice": lambda: normal_head(0).voxels[12:13],
    "phantom as float": lambda: normal_head(0).voxels.astype(np.float32),
    "phantom without noise": lambda: np.rint(normal_head(0).signal).astype(np.int16),
    "phantom in 8 bits": lambda: quantized(normal_head(0).voxels),
    "phantom in 8 bits without noise": lambda: quantized(normal_head(0).signal),
    "skull-stripped": lambda: template_head(0, spacing_mm=4.0).voxels,
    "skull-stripped in 8 bits": lambda: quantized(template_head(0, spacing_mm=4.0).voxels),
    "noise": lambda: np.random.RandomState(0).randint(0, 40, (9, 30, 30)).astype(np.uint8),
    "smooth ramp": lambda: ramp(1, 1, 2),
    "ramp across slices": lambda: ramp(3, 0, 0),
    "ramp along rows": lambda: ramp(0, 0, 5),
    "CT": lambda: ct_like(-1000, 0.4, np.int16),
    "CT, small body": lambda: ct_like(-1024, 0.03, np.int16),
    "CT without rescale, small body": lambda: ct_like(24, 0.03, np.uint16),
    "every voxel twice": lambda: normal_head(0).voxels[:, :90, :90].repeat(2, 1).repeat(2, 2),
}


@pytest.mark.parametrize("name", SCANS)
def test_a_scan_is_accepted(name):
    voxels = SCANS[name]()
    check_scan(Volume(voxels, np.eye(4)))


def test_fractions_are_accepted(head):
    # Flat regions as in a label map, but their values are not integers.
    voxels = head.tissues.astype(np.float32) + 0.5
    check_scan(Volume(voxels, np.eye(4)))
