"""The correction near the edge of a region: it only lowers, and makes the tail rate even."""

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.cards.rim import RimCorrection
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.scoring.calibration_fit import RIM_EDGES, RIM_RATE, fit_rim
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import IntensitySpec, Modality, Plane, Region, SliceSpec
from SpatialARAnomalyLib.engine.volumes.volume import Volume


def normals(seed: int, rim: float, count: int = 60_000) -> tuple[np.ndarray, np.ndarray]:
    """NLL and distances of tokens whose NLL is `rim` higher within a token of the edge."""
    random = np.random.RandomState(seed)
    distances = random.uniform(-1.0, 5.0, count)
    nll = random.gamma(4.0, 0.25, count) + rim * (distances < 1.0)
    return nll.astype(np.float32), distances.astype(np.float32)


def rates(nll: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Share above the threshold of the inside, by bin of distance."""
    threshold = np.quantile(nll[distances > RIM_EDGES[-1]], 1 - RIM_RATE)
    bins = np.digitize(distances, RIM_EDGES) - 1
    return np.array([(nll[bins == one] > threshold).mean() for one in range(len(RIM_EDGES) - 1)])


def test_the_rate_of_fresh_normals_is_even_after_the_correction():
    rim = fit_rim(*normals(0, 0.5))
    fresh, distances = normals(1, 0.5)
    assert rates(fresh, distances)[:3].min() > 3 * RIM_RATE
    corrected = rates(rim.lower(fresh, distances, 0.0), distances)
    assert corrected.max() < 1.5 * RIM_RATE
    assert (rim.lower(fresh, distances, 0.0) <= fresh).all()
    inside = distances > RIM_EDGES[-1] + 0.25
    assert np.array_equal(rim.lower(fresh, distances, 0.0)[inside], fresh[inside])


def test_a_rim_that_is_likelier_than_the_inside_is_not_raised():
    nll, distances = normals(0, -0.5)
    rim = fit_rim(nll, distances)
    assert rim is None or rim.nll[0] == rim.nll[1] == rim.nll[2] == 0.0


def test_too_few_tokens_are_not_corrected():
    nll, distances = normals(0, 0.5, count=900)
    assert fit_rim(nll, distances) is None


def test_nothing_falls_below_the_lowest_nll():
    rim = RimCorrection(distances=(0.0, 1.0), nll=(2.0, 0.0))
    lowered = rim.lower(np.float32([1.0, 1.0]), np.float32([0.0, 1.0]), 0.5)
    assert lowered.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    "values", [{"distances": (1.0, 0.0), "nll": (1.0, 0.0)}, {"distances": (0.0,), "nll": (1.0,)}]
)
def test_an_impossible_correction_is_refused(values):
    with pytest.raises(SpecError):
        RimCorrection(**values)


def test_distances_from_the_edge_of_a_disc():
    """A disc of 40 mm radius; tokens of 8 mm."""
    rows, columns = np.indices((128, 128)) - 63.5
    disc = np.broadcast_to(np.hypot(rows, columns) < 40, (3, 128, 128))
    voxels = np.random.RandomState(0).rand(3, 128, 128).astype(np.float32)
    volume = Volume(voxels, np.diag([1.0, 1.0, 5.0, 1.0])).masked(disc)
    stack = SliceStack(
        PlaneVolume(volume, Plane.AXIAL, Modality.MR, Region.MASK),
        SliceSpec(fov_mm=128.0, size_px=128),
        IntensitySpec.for_modality(Modality.MR),
        8,
    )
    centers = 8 * (np.arange(16) - 7.5)
    expected = (40 - np.hypot(centers[:, None], centers)) / 8
    (found,) = stack.edge_distances(1)
    near = np.abs(expected) < 2
    np.testing.assert_allclose(found[near], expected[near], atol=0.3)
    assert (found[expected > 2] > 1.7).all()
    assert (found[expected < -2] < -1.7).all()
