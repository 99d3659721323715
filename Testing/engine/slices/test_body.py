"""The body mask of scans with and without air around the patient."""

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.slices.body import body_box, body_mask
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Modality, Plane
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.demo.phantom_anatomy import Tissue

MM = (3.0, 2.0, 2.0)
RANDOM = np.random.RandomState(0)
NOISE = RANDOM.normal(0, 8, size=(12, 60, 70))
ROW, COLUMN = np.mgrid[:60, :70]


def large_bright_mass():
    mass = (ROW - 30) ** 2 + (COLUMN - 30) ** 2 < 15**2
    return 100 + NOISE + 900 * mass


@pytest.mark.parametrize(
    "voxels",
    [
        500 + NOISE,
        500 + 10 * NOISE,
        100 + 900 * COLUMN / 69 + NOISE,
        300 + 60 * np.sin(ROW / 7) * np.cos(COLUMN / 9) + NOISE,
        large_bright_mass(),
        (500 + NOISE)[:1],
    ],
    ids=["noise", "strong noise", "ramp", "texture", "bright mass", "one slice"],
)
def test_a_scan_without_air_is_all_body(voxels):
    assert body_mask(voxels, MM, Modality.MR).all()


def test_an_ellipse_in_air_is_found_with_its_rim():
    inside = ((ROW - 30) / 20) ** 2 + ((COLUMN - 35) / 25) ** 2 < 1
    voxels = np.where(inside, 500 + NOISE, np.abs(NOISE))
    mask = body_mask(voxels, MM, Modality.MR)
    assert mask[:, inside].all()
    # One block (4 mm) more on either side.
    assert 1.0 < mask.sum() / (12 * inside.sum()) < 1.3


def test_dark_holes_belong_to_the_body_and_specks_do_not():
    inside = ((ROW - 30) / 20) ** 2 + ((COLUMN - 35) / 25) ** 2 < 1
    hole = (ROW - 30) ** 2 + (COLUMN - 35) ** 2 < 6**2
    voxels = np.where(inside & ~hole, 500 + NOISE, np.abs(NOISE))
    voxels[:, 2:4, 2:4] = 600
    mask = body_mask(voxels, MM, Modality.MR)
    assert mask[:, hole].all()
    assert not mask[:, 2:4, 2:4].any()


def test_a_ct_body_by_hounsfield_units():
    inside = ((ROW - 30) / 20) ** 2 + ((COLUMN - 35) / 25) ** 2 < 1
    mask = body_mask(np.where(inside, 40 + NOISE, -1000 + NOISE), MM, Modality.CT)
    assert mask[:, inside].all()
    assert mask.mean() < 1.2 * inside.mean()


@pytest.mark.parametrize("seed", range(3))
def test_a_head_is_inside_its_mask(seed):
    head = normal_head(seed)
    head_volume = PlaneVolume(head, Plane.AXIAL, Modality.MR)
    brain = head_volume.orientation.apply(head.brain)
    air = head_volume.orientation.apply(head.tissues == Tissue.AIR)
    assert head_volume.region[brain].all()
    assert head_volume.region[air].mean() < 0.2


def test_box_of_a_mask():
    mask = np.zeros((3, 10, 12), dtype=bool)
    mask[1, 2:5, 7] = True
    mask[2, 8, 3:6] = True
    assert body_box(mask) == ((2, 8), (3, 7))
