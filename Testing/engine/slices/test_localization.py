"""The highest NLL lies on a small bright sphere for any grid, from voxels to NLL volume."""

import numpy as np
import pytest
from engine.grids import Grid, random_grid
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.model.training import fit
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import embed_slices, nll_volume
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    IntensityMethod,
    IntensitySpec,
    Modality,
    Plane,
    SliceSpec,
    TrainingSpec,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume

pytestmark = pytest.mark.slow

FOV_MM, SIZE_PX, PATCH_PX = 160.0, 224, 16
PATCH_MM = FOV_MM / SIZE_PX * PATCH_PX
INTENSITY = IntensitySpec(method=IntensityMethod.WINDOW, low=0.0, high=1200.0)
PLANES = list(Plane)

# Numbers of slices: from a single one to those of thin slices.
SLICES = (1, 2, 3, 5, 8, 12, 20, 31, 47)
GRIDS = [(seed, PLANES[seed % 3], SLICES[seed % len(SLICES)]) for seed in range(66)]
GRIDS += [(66, Plane.AXIAL, 300), (67, Plane.CORONAL, 180), (68, Plane.SAGITTAL, 250)]


def body(grid: Grid, seed: int) -> np.ndarray:
    """An ellipsoid of tissue in air: slowly varying, with noise."""
    random = np.random.RandomState(seed)
    ras = grid.ras()
    middle = (grid.ras_from_voxel @ np.append((np.array(grid.shape_kji[::-1]) - 1) / 2, 1))[:3]
    index = np.indices(grid.shape_kji, dtype=float)
    shape = np.array(grid.shape_kji)[:, None, None, None]
    inside = (((index - (shape - 1) / 2) / (0.48 * shape)) ** 2).sum(axis=0) <= 1
    waves = np.cos((ras - middle[:, None, None, None]) / 30.0).sum(axis=0)
    tissue = 400.0 + 40.0 * waves + random.normal(0, 12.0, size=grid.shape_kji)
    return np.where(inside, tissue, random.uniform(0, 10, size=grid.shape_kji)).astype(np.float32)


def stack_of(volume: Volume, plane: Plane) -> SliceStack:
    slices = SliceSpec(plane=plane, fov_mm=FOV_MM, size_px=SIZE_PX)
    return SliceStack(PlaneVolume(volume, plane, Modality.MR), slices, INTENSITY, PATCH_PX)


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("demonstration")


@pytest.fixture(scope="module")
def model(encoder):
    """A model trained on bodies on other grids."""
    tokens = []
    for number in range(12):
        plane = PLANES[number % 3]
        grid = random_grid(1000 + number, plane=plane, slices=6)
        stack = stack_of(Volume(body(grid, number), grid.ras_from_voxel), plane)
        slices = np.stack(list(embed_slices(stack, encoder, SilentReporter())))
        tokens.append(slices.reshape(-1, *slices.shape[2:]).astype(np.float16))
    run = fit(
        tokens[:10],
        tokens[10:],
        AutoregressiveSpec(hidden_channels=48),
        TrainingSpec(epochs=20, batch_size=16),
        report=SilentReporter(),
    )
    return run.model.eval()


@pytest.mark.parametrize(("seed", "plane", "slices"), GRIDS)
def test_peak_is_on_the_body(seed, plane, slices, encoder, model):
    grid = random_grid(seed, plane=plane, slices=slices)
    voxels = body(grid, seed)
    random = np.random.RandomState(seed)
    # Well inside the tissue, at least a patch from its rim; not on a voxel.
    share = random.uniform(-0.2, 0.2, size=3)
    place_kji = (0.5 + share) * (np.array(grid.shape_kji) - 1)
    place = grid.ras_from_voxel @ np.append(place_kji[::-1], 1.0)
    distance = np.linalg.norm(grid.ras() - place[:3, None, None, None], axis=0)
    spot = distance <= max(0.5 * PATCH_MM, distance.min() + 1e-6)
    voxels[spot] = 1200.0
    volume = Volume(voxels, grid.ras_from_voxel)
    stack = stack_of(volume, plane)

    nll = nll_volume(stack, encoder, model, SilentReporter())

    assert nll.shape == voxels.shape
    assert nll.dtype == np.float32
    peak_kji = np.array(np.unravel_index(int(nll.argmax()), nll.shape))
    # In the slices' own directions: one slice off the body at most (it may span
    # several), one patch off its middle in the slice.
    slice_axis, row_axis, column_axis = stack.plane_volume.orientation.axes
    slices_with_body = np.unique(np.nonzero(spot)[slice_axis])
    assert np.abs(slices_with_body - peak_kji[slice_axis]).min() <= 1
    off = np.abs(peak_kji - place_kji)[[row_axis, column_axis]] * stack.plane_volume.spacing_mm[1:]
    assert max(off) <= PATCH_MM
