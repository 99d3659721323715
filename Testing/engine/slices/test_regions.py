"""Where a model looks: the body, the inside of a head, or a mask."""

import dataclasses

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import IntensitySpec, Modality, Plane, Region, SliceSpec
from SpatialARAnomalyLib.engine.volumes.volume import Volume

SPACING_MM = 4.0
CENTER = np.array([16.0, 32.0, 30.0])
Z, Y, X = np.indices((32, 64, 60))
RADIUS_MM = SPACING_MM * np.sqrt((Z - CENTER[0]) ** 2 + (Y - CENTER[1]) ** 2 + (X - CENTER[2]) ** 2)
BRAIN_MM, SKULL_MM, HEAD_MM = 72.0, 82.0, 92.0
"""Outer radii of a round head's brain, skull and scalp."""
MR = {"air": 0.0, "brain": 500.0, "bone": 40.0, "scalp": 900.0}
CT = {"air": -1000.0, "brain": 35.0, "bone": 1200.0, "scalp": 20.0}


def affine() -> np.ndarray:
    return np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])


def head(
    values: dict[str, float],
    *,
    stripped: bool = False,
    seed: int = 0,
    radius_mm: np.ndarray = RADIUS_MM,
) -> Volume:
    """A round head; RAS, slices toward the vertex."""
    voxels = np.select(
        [radius_mm < BRAIN_MM, radius_mm < SKULL_MM, radius_mm < HEAD_MM],
        [values["brain"], values["bone"], values["scalp"]],
        values["air"],
    )
    if stripped:
        voxels = np.where(radius_mm < BRAIN_MM, voxels, values["air"])
    noise = np.random.RandomState(seed).normal(0, 5, voxels.shape)
    return Volume((voxels + noise).astype(np.float32), affine())


def region(volume: Volume, modality: Modality, plane: Plane = Plane.AXIAL) -> np.ndarray:
    """The region `head-interior` on the volume's own voxels."""
    found = PlaneVolume(volume, plane, modality, Region.HEAD_INTERIOR)
    return np.asarray(found.orientation.undo(found.region))


@pytest.mark.parametrize(("values", "modality"), [(MR, Modality.MR), (CT, Modality.CT)])
def test_the_inside_of_a_head_is_its_brain(values, modality):
    found = region(head(values), modality)
    assert found[RADIUS_MM < BRAIN_MM - SPACING_MM].all()
    assert not found[RADIUS_MM > SKULL_MM + SPACING_MM].any()


def test_scalp_above_the_brain_is_not_inside_where_the_scan_ends_there():
    """A slice that cuts scalp and skull lengthwise: far from its border, but above the brain."""
    above_mm = SPACING_MM * (Z - 10)
    radius_mm = np.sqrt(above_mm**2 + RADIUS_MM**2 - (SPACING_MM * (Z - CENTER[0])) ** 2)
    for first_above in (BRAIN_MM, SKULL_MM):
        slices = int(first_above // SPACING_MM) + 12
        volume = head(MR, radius_mm=radius_mm[:slices])
        found = region(volume, Modality.MR)
        assert not found[-1].any()
        assert found[radius_mm[:slices] < BRAIN_MM - 2 * SPACING_MM].all()


def test_a_lesion_at_the_surface_of_the_brain_stays_inside():
    volume = head(MR)
    lesion = (RADIUS_MM < BRAIN_MM) & (CENTER[1] + 12 < Y) & (np.abs(X - CENTER[2]) < 2)
    for value in (60.0, 1500.0):  # a cyst, a bright tumor
        voxels = np.where(lesion, value, volume.voxels)
        found = region(dataclasses.replace(volume, voxels=voxels), Modality.MR)
        assert found[lesion & (RADIUS_MM < BRAIN_MM - SPACING_MM)].all()


def test_a_stripped_head_is_all_inside():
    volume = head(MR, stripped=True)
    body = PlaneVolume(volume, Plane.AXIAL, Modality.MR)
    found = PlaneVolume(volume, Plane.AXIAL, Modality.MR, Region.HEAD_INTERIOR)
    assert np.array_equal(found.region, body.region)
    assert found.notices == []


@pytest.mark.parametrize("plane", [Plane.CORONAL, Plane.SAGITTAL])
def test_the_inside_is_the_same_in_every_plane(plane):
    volume = head(MR)
    assert np.array_equal(region(volume, Modality.MR), region(volume, Modality.MR, plane))


def test_what_is_no_head_is_all_body_and_a_notice_says_so():
    body = RADIUS_MM < HEAD_MM
    noise = np.random.RandomState(0).normal(0, 5, body.shape)
    specks = 500.0 * (np.random.RandomState(1).rand(*body.shape) > 0.5)
    speckled = Volume(np.where(body, specks, 0) + noise, affine())
    found = PlaneVolume(speckled, Plane.AXIAL, Modality.MR, Region.HEAD_INTERIOR)
    assert [code for code, _ in found.notices] == ["no-head-interior"]
    assert np.array_equal(found.region, PlaneVolume(speckled, Plane.AXIAL, Modality.MR).region)


def test_a_volume_without_air_is_all_body_and_a_notice_says_so():
    voxels = 500 + np.random.RandomState(0).normal(0, 8, (8, 20, 20))
    found = PlaneVolume(Volume(voxels, affine()), Plane.AXIAL, Modality.MR)
    ((code, text),) = found.notices
    assert code == "no-air"
    assert "the whole volume counts as body" in text
    assert PlaneVolume(head(MR), Plane.AXIAL, Modality.MR).notices == []


def stack(volume: Volume, region: Region = Region.BODY) -> SliceStack:
    return SliceStack(
        PlaneVolume(volume, Plane.AXIAL, Modality.MR, region),
        SliceSpec(fov_mm=256.0, size_px=64),
        IntensitySpec.for_modality(Modality.MR),
        8,
    )


def test_a_mask_says_what_counts_and_changes_no_image():
    volume = head(MR)
    mask = (RADIUS_MM < 40) & (Z > 18)
    whole, masked = stack(volume), stack(volume.masked(mask))
    assert set(masked.indices) == set(np.flatnonzero(mask.any(axis=(1, 2))))
    for index in masked.indices:
        assert np.array_equal(masked.images(index), whole.images(index))
        assert not (masked.tokens_inside(index) & ~whole.tokens_inside(index)).any()
    assert np.array_equal(masked.inside_volume(), mask & whole.inside_volume())
    values = [np.full((1, 8, 8), 2.0, np.float32)] * len(masked.indices)
    nll = masked.volume_from_tokens(values, outside=-1.0)
    assert (nll[~masked.inside_volume()] == -1.0).all()
    assert (nll[masked.inside_volume()] == 2.0).all()


def test_the_region_mask_is_the_mask_itself():
    """Even outside of the body; images stay those of the whole scan."""
    volume = head(MR)
    mask = (RADIUS_MM < 40) & (Z > 18)
    mask[20, 2, 2] = True
    masked = stack(volume.masked(mask), Region.MASK)
    assert np.array_equal(masked.plane_volume.orientation.undo(masked.counted), mask)
    assert masked.value_range == stack(volume).value_range


@pytest.mark.parametrize(
    ("mask", "code"),
    [
        (np.zeros((32, 64, 60)), "mask-empty"),
        (np.ones((32, 64, 61)), "mask-size"),
        (np.full((32, 64, 60), np.nan), "mask-values"),
    ],
)
def test_a_mask_that_fits_no_scan_is_refused(mask, code):
    with pytest.raises(InputError) as caught:
        head(MR).masked(mask)
    assert caught.value.code == code


def test_a_mask_of_air_is_refused():
    air = np.zeros((32, 64, 60), bool)
    air[0, 0, 0] = True
    with pytest.raises(InputError) as caught:
        PlaneVolume(head(MR).masked(air), Plane.AXIAL, Modality.MR)
    assert caught.value.code == "mask-outside"


def test_a_mask_is_no_part_of_a_scans_content():
    volume = head(MR)
    assert volume.masked(RADIUS_MM < 40).content_sha256() == volume.content_sha256()
