"""Voxels without a measurement are never body, and change nothing of the others."""

import dataclasses

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Modality, Plane
from SpatialARAnomalyLib.engine.volumes.volume import Volume

SHAPE = (20, 40, 40)


def ball(padding: float = 0.0) -> Volume:
    k, j, i = np.indices(SHAPE)
    inside = ((k - 9.5) * 2) ** 2 + (j - 19.5) ** 2 + (i - 19.5) ** 2 < 15**2
    noise = np.random.RandomState(0).uniform(0, 5, SHAPE)
    voxels = np.where(inside, 100.0, noise).astype(np.float32)
    if padding:
        voxels[:, :3] = padding
    return Volume(voxels, np.diag([3.0, 3.0, 6.0, 1.0]))


@pytest.mark.parametrize("padding", [5000.0, -2000.0])
def test_padding_is_no_body_whatever_its_value(padding):
    volume = ball(padding)
    outside = volume.voxels == padding
    found = PlaneVolume(dataclasses.replace(volume, outside=outside), Plane.SAGITTAL, Modality.MR)
    plain = PlaneVolume(ball(), Plane.SAGITTAL, Modality.MR)
    np.testing.assert_array_equal(found.body, plain.body)
    assert found.voxels.min() >= 0
    assert found.voxels.max() == 100


def test_missing_slices_have_no_score_and_do_not_split_the_body():
    volume = ball()
    outside = np.zeros(SHAPE, bool)
    outside[8:10] = True
    gap = dataclasses.replace(volume, outside=outside)
    found = PlaneVolume(gap, Plane.AXIAL, Modality.MR)
    assert not set(found.counted_slices) & {8, 9}
    whole = PlaneVolume(volume, Plane.AXIAL, Modality.MR)
    expected = whole.orientation.undo(whole.body) & ~outside
    body = found.orientation.undo(found.body)
    assert np.mean(body != expected) < 0.01
    read = found.orientation.undo(found.voxels)
    np.testing.assert_array_equal(read[~outside], volume.voxels[~outside])
    with pytest.raises(InputError, match="cuts across them") as caught:
        PlaneVolume(gap, Plane.CORONAL, Modality.MR)
    assert caught.value.code == "dicom-gap-plane"
