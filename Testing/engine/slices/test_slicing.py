"""Slices and tiles: resampling in both directions, and tokens on voxels."""

import numpy as np
import pytest
from engine.grids import random_grid
from SpatialARAnomalyLib.engine.slices.slice_stack import (
    AxisTiling,
    PlaneVolume,
    SliceStack,
)
from SpatialARAnomalyLib.engine.specs import (
    IntensityMethod,
    IntensitySpec,
    Modality,
    Plane,
    SliceSpec,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume

PATCH_PX = 16


def tiling(voxels=100, spacing_mm=1.0, box=None, fov_mm=160.0, size_px=160) -> AxisTiling:
    spec = SliceSpec(fov_mm=fov_mm, size_px=size_px)
    return AxisTiling.covering(voxels, spacing_mm, box or (0, voxels - 1), spec, PATCH_PX)


def seeded_tilings(count=40):
    random = np.random.RandomState(3)
    for _ in range(count):
        voxels = int(random.randint(1, 400))
        first = int(random.randint(0, voxels))
        last = int(random.randint(first, voxels))
        yield tiling(
            voxels,
            float(random.uniform(0.3, 6.0)),
            (first, last),
            float(random.uniform(50, 300)),
            16 * int(random.randint(2, 20)),
        )


def test_maps_of_pixels_voxels_and_tokens_have_inverses():
    for axis in seeded_tilings():
        voxel = np.linspace(-3, axis.voxels + 3, 17)
        for tile in range(len(axis.centers)):
            pixel = axis.pixel_of_voxel(tile, voxel)
            np.testing.assert_allclose(axis.voxel_of_pixel(tile, pixel), voxel, atol=1e-9)
            # Neighboring pixels are one pixel apart in mm.
            step = np.diff(axis.voxel_of_pixel(tile, np.arange(5))) * axis.spacing_mm
            np.testing.assert_allclose(step, axis.spec.pixel_mm)
            token = axis.token_of_pixel(pixel)
            np.testing.assert_allclose(axis.pixel_of_token(token), pixel, atol=1e-9)


def test_the_first_token_is_centered_on_its_patch():
    """Pixels 0 to 15 belong to token 0: its center lies between pixels 7 and 8."""
    axis = tiling()
    np.testing.assert_array_equal(axis.pixel_of_token(np.array([0, 1])), [7.5, 23.5])


def test_the_middle_of_the_body_is_the_middle_of_the_image():
    axis = tiling(voxels=200, spacing_mm=0.5, box=(20, 119))
    assert axis.centers == (69.5,)
    np.testing.assert_allclose(axis.voxel_of_pixel(0, np.array([79.5])), [69.5])


def test_a_linear_image_is_resampled_exactly():
    """Voxels that hold their own coordinate give pixels that hold theirs, away from the rim."""
    for axis in seeded_tilings():
        coordinate = np.arange(axis.voxels, dtype=float)
        reach = max(1.0, axis.spec.pixel_mm / axis.spacing_mm)
        for tile, matrix in enumerate(axis.pixels_from_voxels):
            at = axis.voxel_of_pixel(tile, np.arange(axis.spec.size_px))
            inner = (at >= reach) & (at <= axis.voxels - 1 - reach)
            # A triangle over a coarse grid is symmetric only about voxels and
            # midpoints; elsewhere it is off by less than an eighth of a voxel.
            tolerance = 1e-4 if reach == 1.0 else 0.125
            np.testing.assert_allclose((matrix @ coordinate)[inner], at[inner], atol=tolerance)


def test_constant_inside_zero_outside():
    for axis in seeded_tilings():
        for tile, matrix in enumerate(axis.pixels_from_voxels):
            at = axis.voxel_of_pixel(tile, np.arange(axis.spec.size_px))
            inside = (at > -0.5) & (at < axis.voxels - 0.5)
            np.testing.assert_allclose(matrix.sum(axis=1), inside.astype(float), atol=1e-5)


def test_no_voxel_is_skipped_where_pixels_are_coarser():
    """Four voxels a pixel: each takes part, with the same total weight."""
    axis = tiling(voxels=400, spacing_mm=0.25, fov_mm=160, size_px=160)
    weight = axis.pixels_from_voxels[0].sum(axis=0)
    np.testing.assert_allclose(weight[8:-8], 0.25, atol=1e-3)


def test_identity_where_pixels_are_voxels():
    axis = tiling(voxels=160, spacing_mm=1.0)
    np.testing.assert_allclose(axis.pixels_from_voxels[0], np.eye(160), atol=1e-6)


def test_tiles_cover_the_body_and_blend_to_one():
    tiled = 0
    for axis in seeded_tilings(120):
        total = axis.blend_weights.sum(axis=0)
        np.testing.assert_allclose(total[axis.covered], 1.0, atol=1e-12)
        assert (axis.blend_weights >= 0).all()
        matrix = axis.voxels_from_tokens
        np.testing.assert_allclose(matrix.sum(axis=1), axis.covered, atol=1e-5)
        tiled += len(axis.centers) > 1
    assert tiled > 20


@pytest.mark.parametrize(("extent", "tiles"), [(160, 1), (161, 2), (279, 2), (281, 3), (500, 4)])
def test_as_many_tiles_as_needed_with_a_quarter_overlap(extent, tiles):
    axis = tiling(voxels=600, box=(50, 50 + extent - 1))
    assert len(axis.centers) == tiles
    body = axis.covered[50 : 50 + extent]
    assert body.all()
    if tiles > 1:
        steps = np.diff(axis.centers)
        assert steps.max() <= 0.75 * 160 + 1e-9
        assert axis.centers[0] - 79.5 == pytest.approx(50)
        assert axis.centers[-1] + 79.5 == pytest.approx(50 + extent - 1)


def test_coordinates_of_tokens_are_interpolated_exactly():
    """Tokens with their own coordinate as value: voxels between their centers get theirs."""
    for axis in seeded_tilings(60):
        sent = [
            axis.voxel_of_pixel(tile, axis.pixel_of_token(np.arange(axis.tokens)))
            for tile in range(len(axis.centers))
        ]
        received = axis.voxels_from_tokens.astype(float) @ np.concatenate(sent)
        voxel = np.arange(axis.voxels)
        between = np.ones(axis.voxels, dtype=bool)
        for tile, blend in enumerate(axis.blend_weights):
            outer = (voxel < sent[tile][0]) | (voxel > sent[tile][-1])
            between &= ~(outer & (blend > 0))
        between &= axis.covered
        np.testing.assert_allclose(received[between], voxel[between], atol=2e-3)


def block(grid, low=0.3) -> np.ndarray:
    """Tissue in every voxel."""
    return np.random.RandomState(0).uniform(low, 1.0, size=grid.shape_kji).astype(np.float32)


def stack_of(grid, plane, voxels, fov_mm=200.0, size_px=160) -> SliceStack:
    intensity = IntensitySpec(method=IntensityMethod.WINDOW, low=0.0, high=1.0)
    slices = SliceSpec(plane=plane, fov_mm=fov_mm, size_px=size_px)
    plane_volume = PlaneVolume(Volume(voxels, grid.ras_from_voxel), plane, Modality.MR)
    return SliceStack(plane_volume, slices, intensity, PATCH_PX)


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("seed", range(5))
def test_images_show_the_right_positions(seed, plane):
    """Voxels with their own RAS coordinate as value: every inner pixel shows its coordinate."""
    grid = random_grid(seed, plane=plane, slices=3, largest_mm=300.0)
    for axis in range(3):
        ras = grid.ras()[axis]
        low, high = float(ras.min()), float(ras.max())
        voxels = ((ras - low) / (high - low)).astype(np.float32)
        stack = stack_of(grid, plane, block(grid))
        stack.voxels = stack.plane_volume.orientation.apply(voxels)
        place = stack.plane_volume.orientation.ras_from_plane(grid.ras_from_voxel, grid.shape_kji)
        pixel = np.arange(stack.rows.spec.size_px)
        for index in stack.indices:
            images = stack.images(index)
            tiles = [
                (a, b)
                for a in range(len(stack.rows.centers))
                for b in range(len(stack.columns.centers))
            ]
            for image, (a, b) in zip(images[:, 0], tiles, strict=True):
                row = stack.rows.voxel_of_pixel(a, pixel)
                column = stack.columns.voxel_of_pixel(b, pixel)
                shown = (
                    place[axis, 0] * column[None, :]
                    + place[axis, 1] * row[:, None]
                    + place[axis, 2] * index
                    + place[axis, 3]
                )
                inner = np.outer(
                    (row >= 4) & (row <= stack.rows.voxels - 5),
                    (column >= 4) & (column <= stack.columns.voxels - 5),
                )
                seen = image * (high - low) + low
                # Linear interpolation is exact; coarser pixels to an eighth of a voxel.
                error = np.abs(seen - shown)[inner]
                assert error.size == 0 or error.max() < 0.25 * max(stack.plane_volume.spacing_mm)


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("seed", range(8))
def test_constant_values_come_back_constant_on_the_body(seed, plane):
    grid = random_grid(seed, plane=plane, slices=4, largest_mm=400.0)
    stack = stack_of(grid, plane, block(grid))
    side = stack.rows.tokens
    values = [np.full((stack.tiles, side, side), 2.5, np.float32) for _ in stack.indices]
    back = stack.volume_from_tokens(values, outside=-1.0)
    assert back.shape == grid.shape_kji
    inside = stack.inside_volume()
    assert inside.mean() > 0.9
    np.testing.assert_allclose(back[inside], 2.5, rtol=1e-5)
    np.testing.assert_array_equal(back[~inside], -1.0)


def test_slices_without_body_are_left_out():
    voxels = np.zeros((20, 40, 40), np.float32)
    voxels[5:11, 8:32, 8:32] = 1.0
    grid_affine = np.diag([4.0, 4.0, 8.0, 1.0])
    plane_volume = PlaneVolume(Volume(voxels, grid_affine), Plane.AXIAL, Modality.MR)
    # One slice more on either side, because the mask has a rim.
    assert plane_volume.counted_slices == list(range(4, 12))


def test_reversing_the_slices_changes_nothing_but_their_order():
    grid = random_grid(1, plane=Plane.AXIAL, slices=5)
    voxels = block(grid)
    stack = stack_of(grid, Plane.AXIAL, voxels)
    axis = stack.plane_volume.orientation.axes[0]
    flipped = stack_of(grid, Plane.AXIAL, np.flip(voxels, axis).copy())
    for index in range(5):
        np.testing.assert_array_equal(flipped.images(4 - index), stack.images(index))


@pytest.mark.parametrize("plane", list(Plane))
@pytest.mark.parametrize("seed", range(4))
def test_tokens_inside_are_those_centered_on_the_body(seed, plane):
    """By brute force over tiles and tokens."""
    grid = random_grid(seed, plane=plane, slices=2, largest_mm=300.0)
    stack = stack_of(grid, plane, block(grid))
    stack.counted = np.random.RandomState(seed).rand(*stack.counted.shape) > 0.4
    found = stack.tokens_inside(1)
    side = np.arange(stack.rows.tokens)
    tile = 0
    for a in range(len(stack.rows.centers)):
        for b in range(len(stack.columns.centers)):
            rows = stack.rows.voxel_of_pixel(a, stack.rows.pixel_of_token(side))
            columns = stack.columns.voxel_of_pixel(b, stack.columns.pixel_of_token(side))
            for t, row in enumerate(rows):
                for u, column in enumerate(columns):
                    r, c = round(row), round(column)
                    on_grid = 0 <= r < stack.rows.voxels and 0 <= c < stack.columns.voxels
                    assert found[tile, t, u] == (on_grid and stack.counted[1, r, c])
            tile += 1
    assert 0 < found.mean() < 1
