"""Places of single images, and the position features that a network gets."""

import math

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.model.autoregressive import (
    CORNERS,
    flip_to_corner,
    position_features,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import (
    COLUMN,
    IN_BODY,
    PLACES,
    ROW,
    SLICE,
    centered,
    image_places,
)
from SpatialARAnomalyLib.engine.specs import FREQUENCIES, POSITION_FEATURES


@pytest.mark.parametrize(("count", "expected"), [(1, [0.0]), (2, [-0.5, 0.5]), (4, None)])
def test_tokens_fill_the_field_of_view_side_by_side(count, expected):
    found = centered(count)
    np.testing.assert_allclose(found, expected or [-0.75, -0.25, 0.25, 0.75])


def test_the_body_fills_single_images():
    places = image_places(3, 4, 2)
    assert places.shape == (3, PLACES, 4, 2)
    for row in range(4):
        for column in range(2):
            np.testing.assert_allclose(
                places[:, [ROW, COLUMN, SLICE, IN_BODY], row, column],
                np.tile([(2 * row + 1) / 4 - 1, (2 * column + 1) / 2 - 1, 0.0, 1.0], (3, 1)),
            )


def random_places(seed: int = 0) -> torch.Tensor:
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.uniform(-1, 1, size=(2, PLACES, 3, 4)).astype(np.float32))


@pytest.mark.parametrize("corner", CORNERS)
def test_the_features_of_a_position_by_hand(corner):
    places = random_places()
    features = position_features(places, corner)
    assert features.shape == (2, POSITION_FEATURES, 3, 4)
    one = features[1, :, 2, 3].tolist()
    coordinates = [float(places[1, channel, 2, 3]) for channel in (ROW, COLUMN, SLICE)]
    expected = [1.0 if flipped else -1.0 for flipped in corner] + coordinates
    for frequency in FREQUENCIES:
        for wave in (math.sin, math.cos):
            expected += [wave(math.pi * frequency * one) for one in coordinates]
    assert one == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("corner", CORNERS)
def test_turned_features_are_those_of_turned_places(corner):
    """A feature belongs to its token, however the grid is flipped."""
    places = random_places(1)
    torch.testing.assert_close(
        flip_to_corner(position_features(places, corner), corner),
        position_features(flip_to_corner(places, corner), corner),
    )
    torch.testing.assert_close(flip_to_corner(flip_to_corner(places, corner), corner), places)


def test_every_corner_has_its_own_signs():
    told = {tuple(position_features(random_places(), one)[0, :2, 0, 0].tolist()) for one in CORNERS}
    assert len(told) == len(CORNERS) == 4
