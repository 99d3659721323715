"""Geometry: slices of every plane, spacing, and affines that are refused."""

import itertools

import numpy as np
import pytest
from engine.grids import random_grid
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Plane
from SpatialARAnomalyLib.engine.volumes.geometry import (
    PlaneOrientation,
    check_ras_from_voxel,
    lengths_text,
    voxel_spacing_mm,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume

# RAS directions in which slices, rows and columns of a plane advance.
ADVANCE = {
    Plane.AXIAL: ((0, 0, 1), (0, -1, 0), (-1, 0, 0)),
    Plane.CORONAL: ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
    Plane.SAGITTAL: ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
}


def copies(voxels: np.ndarray, ras_from_voxel: np.ndarray):
    """The same scan stored in all 48 axis orders and directions."""
    for order in itertools.permutations(range(3)):  # of k, j, i
        for flips in itertools.product([False, True], repeat=3):
            reordered = voxels.transpose(order)
            affine = ras_from_voxel.copy()
            affine[:3, :3] = ras_from_voxel[:3, :3][:, [2 - axis for axis in order[::-1]]]
            for axis, flip in enumerate(flips):
                if flip:
                    reordered = np.flip(reordered, axis)
                    column = 2 - axis
                    affine[:3, 3] += affine[:3, column] * (reordered.shape[axis] - 1)
                    affine[:3, column] *= -1
            yield reordered, affine


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("seed", range(4))
def test_every_copy_of_a_scan_gives_the_same_slices(seed, plane):
    grid = random_grid(seed, plane=plane, slices=4)
    voxels = np.random.RandomState(seed).rand(*grid.shape_kji)
    first = PlaneOrientation.of(grid.ras_from_voxel, plane)
    expected = first.apply(voxels)
    expected_place = first.ras_from_plane(grid.ras_from_voxel, grid.shape_kji)
    for reordered, affine in copies(voxels, grid.ras_from_voxel):
        orientation = PlaneOrientation.of(affine, plane)
        np.testing.assert_array_equal(orientation.apply(reordered), expected)
        place = orientation.ras_from_plane(affine, reordered.shape)
        np.testing.assert_allclose(place, expected_place, atol=1e-9)


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("seed", range(6))
def test_undo_is_the_inverse_and_positions_are_kept(seed, plane):
    grid = random_grid(seed, plane=plane, slices=3 + seed)
    orientation = PlaneOrientation.of(grid.ras_from_voxel, plane)
    ras = grid.ras()
    for axis in range(3):
        reordered = orientation.apply(ras[axis])
        np.testing.assert_array_equal(orientation.undo(reordered), ras[axis])
        n, r, c = np.indices(reordered.shape, dtype=float)
        affine = orientation.ras_from_plane(grid.ras_from_voxel, grid.shape_kji)
        by_plane = affine[axis, 0] * c + affine[axis, 1] * r + affine[axis, 2] * n + affine[axis, 3]
        np.testing.assert_allclose(by_plane, reordered, atol=1e-9)


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("seed", range(6))
def test_slices_are_in_radiological_convention(seed, plane):
    grid = random_grid(seed, plane=plane, slices=3)
    orientation = PlaneOrientation.of(grid.ras_from_voxel, plane)
    affine = orientation.ras_from_plane(grid.ras_from_voxel, grid.shape_kji)
    for column, direction in zip((2, 1, 0), ADVANCE[plane], strict=True):
        unit = affine[:3, column] / np.linalg.norm(affine[:3, column])
        assert unit @ direction > np.cos(np.deg2rad(26))


def test_spacing_is_the_length_of_each_step():
    affine = np.array([[0, 3.0, 0, 9], [-2.0, 0, 0, 9], [0, 4.0, 0.5, 9], [0, 0, 0, 1]])
    assert voxel_spacing_mm(affine) == (2.0, 5.0, 0.5)


@pytest.mark.parametrize(
    ("column", "code", "words"),
    [
        ([0, 0, 0], "spacing-zero", "found 1 × 0 × 1 mm"),
        ([1, 0, 0], "affine-singular", "must span space"),
        ([np.nan, 0, 0], "affine-not-finite", "must be finite"),
        ([np.inf, 0, 0], "affine-not-finite", "must be finite"),
    ],
)
def test_an_invalid_affine_is_refused(column, code, words):
    affine = np.eye(4)
    affine[:3, 1] = column
    with pytest.raises(InputError, match=words) as error:
        check_ras_from_voxel(affine)
    assert error.value.code == code


def test_a_sheared_affine_is_accepted():
    affine = np.eye(4)
    affine[1, 2] = np.tan(np.deg2rad(30))  # a gantry tilted by 30 degrees
    check_ras_from_voxel(affine)


@pytest.mark.parametrize("seed", range(2))
def test_a_volume_is_turned_to_the_axes_of_a_grid(seed):
    """Every order and direction of the axes gives the grid's own array."""
    grid = random_grid(seed, plane=Plane.AXIAL, slices=4, largest_mm=70.0)
    voxels = np.random.RandomState(seed).rand(*grid.shape_kji)
    for stored, place in copies(voxels, grid.ras_from_voxel):
        turned = Volume(stored, place).turned(grid.ras_from_voxel)
        np.testing.assert_array_equal(turned.voxels, voxels)
        np.testing.assert_allclose(turned.ras_from_voxel, grid.ras_from_voxel, atol=1e-9)


@pytest.mark.parametrize(
    ("values", "text"),
    [((1180.0, 0.1), "1180 × 0.1"), ((0.46875, 5.0), "0.469 × 5"), ((12345.6,), "12300")],
)
def test_sizes_are_written_without_powers_of_ten(values, text):
    assert lengths_text(values) == text
