"""Where tokens lie: the coordinates that a network may be told beside them."""

import numpy as np
from jaxtyping import Float, Float32

ROW, COLUMN, SLICE, IN_BODY = range(4)
"""The channels of a place: three coordinates, and 1 where the token's center lies in the body.

Coordinates are distances from the middle of the body, in halves of the field of view.
"""

PLACES = 4

FREQUENCIES = (1, 2, 4)
"""Of the sines and cosines, in half-periods per half field of view, that tell a position."""

POSITION_FEATURES = 2 + 3 * (1 + 2 * len(FREQUENCIES))
"""What a network is told: two signs for the corner that its scan begins at, and for
each coordinate itself and its waves."""

MAP_SHAPE = (7, 13, 13)
"""Nodes of a map over the body, along slices, rows and columns, from −1 to 1."""

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
