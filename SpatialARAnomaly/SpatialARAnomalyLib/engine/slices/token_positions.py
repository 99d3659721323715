"""Where tokens lie: the coordinates that a network may be told beside them."""

import numpy as np
from jaxtyping import Float, Float32

from SpatialARAnomalyLib.engine.specs import FREQUENCIES as FREQUENCIES
from SpatialARAnomalyLib.engine.specs import MAP_SHAPE as MAP_SHAPE
from SpatialARAnomalyLib.engine.specs import POSITION_FEATURES as POSITION_FEATURES

ROW, COLUMN, SLICE, IN_BODY = range(4)
"""The channels of a place: three coordinates, and 1 where the token's center lies in the body.

Coordinates are distances from the middle of the body, in halves of the field of view.
"""

PLACES = 4

PlaceArray = Float[np.ndarray, "_ place h w"]


def centered(count: int) -> Float32[np.ndarray, " n"]:
    """The coordinates of so many tokens side by side that fill the field of view."""
    return ((2 * np.arange(count) + 1) / count - 1).astype(np.float32)


def image_places(images: int, height: int, width: int) -> PlaceArray:
    """The places of images that stand for themselves: the body fills each, in no depth."""
    places = np.zeros((images, PLACES, height, width), np.float32)
    places[:, ROW] = centered(height)[:, None]
    places[:, COLUMN] = centered(width)
    places[:, IN_BODY] = 1.0
    return places
