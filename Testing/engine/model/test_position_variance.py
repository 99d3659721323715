"""The map of how much normal scans differ: interpolation by brute force, known fields found."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from SpatialARAnomalyLib.engine.model.gaussian import (
    LEAST,
    MOST,
    fit_variance_map,
    variance_at,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import COLUMN, IN_BODY, ROW, SLICE
from SpatialARAnomalyLib.engine.specs import MAP_SHAPE


def random_places(seed: int, images: int = 20, side: int = 12, reach: float = 1.0) -> torch.Tensor:
    """Tokens anywhere within `reach`."""
    random = np.random.RandomState(seed)
    places = random.uniform(-reach, reach, size=(images, 4, side, side)).astype(np.float32)
    places[:, IN_BODY] = 1.0
    return torch.from_numpy(places)


def nodes(places: torch.Tensor) -> np.ndarray:
    """Where on the map's own grid the tokens lie, [3, b, h, w]."""
    coordinates = places[:, [SLICE, ROW, COLUMN]].movedim(1, 0).double().numpy()
    sides = np.array(MAP_SHAPE)[:, None, None, None]
    return (coordinates + 1) * (sides - 1) / 2


@pytest.mark.parametrize("seed", range(3))
def test_a_value_between_nodes_is_trilinear(seed):
    """As SciPy has it, the edge's values held beyond the edge."""
    random = np.random.RandomState(seed)
    variance_map = random.uniform(0.3, 3.0, size=MAP_SHAPE)
    places = random_places(seed, reach=1.3)
    expected = ndimage.map_coordinates(variance_map, nodes(places), order=1, mode="nearest")
    found = variance_at(torch.from_numpy(variance_map.astype(np.float32)), places)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_at_a_node_it_is_the_node_s_value():
    variance_map = torch.arange(1.0, 1.0 + np.prod(MAP_SHAPE)).reshape(MAP_SHAPE)
    places = torch.zeros(1, 4, 1, 3)
    for coordinate, channel in ((-1.0, SLICE), (1.0, ROW), (-1.0, COLUMN)):
        places[:, channel, 0, 0] = coordinate
    found = variance_at(variance_map, places)[0, 0]
    middle = tuple(side // 2 for side in MAP_SHAPE)
    torch.testing.assert_close(found[0], variance_map[0, -1, 0])
    torch.testing.assert_close(found[1:], variance_map[middle].expand(2))


def field(places: torch.Tensor) -> torch.Tensor:
    """A smooth field of mean 1 over the cube, different along every axis."""
    return (
        1 + 0.4 * places[:, ROW] + 0.3 * places[:, SLICE] * places[:, ROW] - 0.2 * places[:, COLUMN]
    )


def many(seed: int, values=field, parts: int = 2):
    """Squares of normal residuals whose variance is the field, batch by batch."""
    random = np.random.RandomState(seed)
    for part in range(parts):
        places = random_places(100 * seed + part, side=30)
        noise = random.chisquare(20, size=places[:, 0].shape).astype(np.float32) / 20
        yield values(places) * torch.from_numpy(noise), places, places[:, IN_BODY]


def test_a_known_smooth_field_is_found():
    variance_map = fit_variance_map(many(0, parts=15))
    inner = random_places(5, reach=0.6)
    torch.testing.assert_close(variance_at(variance_map, inner), field(inner), rtol=0, atol=0.1)
    assert variance_at(variance_map, inner).std() > 0.12
    seen = torch.cat([variance_at(variance_map, places) for _, places, _ in many(1)])
    assert float(seen.mean()) == pytest.approx(1.0, abs=0.02)


def test_the_level_of_the_squares_does_not_matter():
    variance_map = fit_variance_map(many(0))
    louder = fit_variance_map((50 * one, places, weights) for one, places, weights in many(0))
    torch.testing.assert_close(louder, variance_map)


def test_the_same_everywhere_is_a_map_of_ones():
    same = fit_variance_map(
        (torch.full_like(one, 3.0), places, weights) for one, places, weights in many(1)
    )
    torch.testing.assert_close(same, torch.ones(MAP_SHAPE), rtol=1e-5, atol=1e-5)


def test_what_weighs_nothing_does_not_count():
    outside = [
        (torch.where(places[:, ROW] > 0, 1e4, one), places, (places[:, ROW] <= 0).float())
        for one, places, _ in many(2)
    ]
    left = [
        (torch.where(places[:, ROW] > 0, 0.0, one), places, (places[:, ROW] <= 0).float())
        for one, places, _ in many(2)
    ]
    torch.testing.assert_close(fit_variance_map(outside), fit_variance_map(left))


def test_no_place_is_excused_or_blamed_without_limit():
    def steep(places: torch.Tensor) -> torch.Tensor:
        return torch.exp(9 * places[:, ROW])

    variance_map = fit_variance_map(many(3, steep, parts=15))
    assert float(variance_map.min()) == pytest.approx(LEAST)
    assert float(variance_map.max()) == pytest.approx(MOST)


def test_where_nothing_was_seen_the_map_is_near_one():
    """A corner of the field of view that no body reaches."""

    def near(seed: int):
        for one, places, weights in many(seed):
            places[:, [ROW, COLUMN, SLICE]] *= 0.3
            yield one, places, weights

    variance_map = fit_variance_map(near(4))
    assert float(variance_map[0, 0, 0]) == pytest.approx(1.0, abs=1e-3)
