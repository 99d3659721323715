"""A volume that does not suit a model is refused in words that say why."""

import dataclasses

import numpy as np
import pytest
from engine.model_examples import CARD
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import (
    Modality,
    Plane,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.detection import compatibility

AXIAL = dataclasses.replace(CARD, slices=dataclasses.replace(CARD.slices, plane=Plane.AXIAL))
"""Pixels of 0.9 to 1.1 mm, slices of 1 to 3 mm, bodies of 150 to 210 mm."""


def scan(spacing_ijk=(1.0, 1.0, 2.0), body_mm=(180.0, 180.0), modality=None) -> Volume:
    """An axial scan whose body is a box of that width (i) and height (j)."""
    i_mm, j_mm, k_mm = spacing_ijk
    width, height = round(body_mm[0] / i_mm), round(body_mm[1] / j_mm)
    voxels = np.zeros((4, height + 40, width + 40), dtype=np.float32)
    voxels[:, 20:-20, 20:-20] = 100.0
    return Volume(voxels, np.diag([i_mm, j_mm, k_mm, 1.0]), modality)


def errors(volume: Volume, card=AXIAL, plane=Plane.AXIAL):
    return compatibility.find_mismatches(card, volume, PlaneVolume(volume, plane, card.modality))


def mismatches(volume: Volume) -> list[str]:
    return [error.message for error in errors(volume)]


def test_a_volume_like_the_normals_suits():
    assert mismatches(scan()) == []


@pytest.mark.parametrize("spacing", [(0.45, 0.45, 2.0), (2.2, 2.2, 2.0), (0.5, 2.0, 2.0)])
def test_pixels_within_twice_the_range_suit(spacing):
    assert mismatches(scan(spacing)) == []


@pytest.mark.parametrize(
    ("spacing", "found"),
    [
        ((0.44, 1.0, 2.0), "1 × 0.44 mm"),
        ((1.0, 2.25, 2.0), "2.25 × 1 mm"),
        ((0.4, 0.4, 2.0), "0.4 × 0.4 mm"),
    ],
)
def test_pixels_beyond_twice_the_range_do_not(spacing, found):
    expected = (
        f"Model {CARD.name!r} was trained with a pixel spacing of 0.9 to 1.1 mm; "
        f"the volume has {found}."
    )
    assert mismatches(scan(spacing)) == [expected]


@pytest.mark.parametrize("slice_mm", [0.5, 1.0, 3.0, 6.0])
def test_slices_within_twice_the_range_suit(slice_mm):
    assert mismatches(scan((1.0, 1.0, slice_mm))) == []


@pytest.mark.parametrize("slice_mm", [0.49, 6.1])
def test_slices_beyond_twice_the_range_do_not(slice_mm):
    (mismatch,) = mismatches(scan((1.0, 1.0, slice_mm)))
    assert f"slice spacing of 1 to 3 mm; the volume has {slice_mm:g} mm." in mismatch


@pytest.mark.parametrize("body_mm", [(90.0, 90.0), (400.0, 400.0)])
def test_bodies_within_twice_the_range_suit(body_mm):
    assert mismatches(scan(body_mm=body_mm)) == []


@pytest.mark.parametrize("body_mm", [(180.0, 60.0), (60.0, 180.0), (460.0, 180.0)])
def test_bodies_beyond_twice_the_range_do_not(body_mm):
    volume = scan(body_mm=body_mm)
    height, width = PlaneVolume(volume, Plane.AXIAL, Modality.MR).extent_mm
    (mismatch,) = mismatches(volume)
    assert mismatch.endswith(
        f"a body size in the plane of 150 to 210 mm; the volume has {height:.3g} × {width:.3g} mm."
    )


def test_every_mismatch_is_told():
    assert len(mismatches(scan((4.0, 4.0, 9.0), body_mm=(800.0, 800.0)))) == 3


def test_spacing_is_looked_at_in_the_models_plane():
    volume = scan((1.0, 1.0, 5.0))
    assert mismatches(volume) == []
    told = " ".join(error.message for error in errors(volume, plane=Plane.SAGITTAL))
    assert "the volume has 5 × 1 mm." in told
    assert "slice spacing" not in told


@pytest.mark.parametrize("modality", [None, Modality.MR])
def test_the_models_modality_passes(modality):
    assert mismatches(scan(modality=modality)) == []


def test_a_ct_is_no_mr_as_its_header_says():
    (error,) = errors(scan(modality=Modality.CT))
    assert error.code == "model-modality"
    assert error.message == (
        f"Model {CARD.name!r} expects MR; the volume looks like CT (as its DICOM header says)."
    )
    assert error.facts == {"modality": "CT"}


def test_a_ct_is_no_mr_as_its_air_says():
    volume = scan()
    volume.voxels[:] -= 1000.0
    assert "of its voxels are as dark as air in Hounsfield units)" in mismatches(volume)[0]


def test_an_mr_is_no_ct():
    card = dataclasses.replace(AXIAL, modality=Modality.CT)
    assert (
        "expects CT; the volume looks like MR (0.0 % of its voxels are as dark"
        in errors(scan(), card)[0].message
    )
