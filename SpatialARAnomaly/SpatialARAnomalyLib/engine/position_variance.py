"""How much normal scans differ by place: a smooth map over the body."""

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from .token_place import COLUMN, MAP_SHAPE, ROW, SLICE

SMOOTHING_NODES = 1.0
"""Standard deviation of the Gaussian that shares what was seen with neighboring nodes."""

PRIOR_TOKENS = 20.0
"""So many tokens of average variance are added to every node: it takes as many to differ."""

LEAST, MOST = 0.2, 5.0
"""Bounds of the map, around a mean of 1: a place must not be excused or blamed without limit."""


def _hats(coordinate: Float[Tensor, "b h w"], nodes: int) -> Float[Tensor, "b h w n"]:
    """How much every node says at a coordinate: linear between two, held at the ends."""
    at = (coordinate.clamp(-1, 1) + 1) * (nodes - 1) / 2
    return (1 - (at[..., None] - torch.arange(nodes, device=at.device)).abs()).clamp_min(0)


def _weights(places: Float[Tensor, "b p h w"]) -> list[Float[Tensor, "b h w _"]]:
    coordinates = (places[:, SLICE], places[:, ROW], places[:, COLUMN])
    return [_hats(one, nodes) for one, nodes in zip(coordinates, MAP_SHAPE, strict=True)]


def variance_at(
    variance_map: Float[Tensor, "z y x"], places: Float[Tensor, "b p h w"]
) -> Float[Tensor, "b h w"]:
    """The map's value at every token, linear between nodes."""
    z, y, x = _weights(places)
    planes = torch.einsum("bhwz,zyx->bhwyx", z, variance_map)
    return torch.einsum("bhwyx,bhwy,bhwx->bhw", planes, y, x)


def fit_variance_map(
    seen: Iterable[tuple[Float[Tensor, "b h w"], Float[Tensor, "b p h w"], Float[Tensor, "b h w"]]],
) -> Float[Tensor, "z y x"]:
    """The map that squares of normal residuals ask for, of mean 1 over them.

    `seen` gives, batch by batch, mean squared residuals in standard deviations, their
    places, and weights (0: not counted).
    """
    total = torch.zeros(MAP_SHAPE, dtype=torch.float64)
    count = torch.zeros(MAP_SHAPE, dtype=torch.float64)
    for squares, places, weights in seen:
        z, y, x = (one.double() for one in _weights(places.cpu()))
        for values, into in ((squares.cpu() * weights.cpu(), total), (weights.cpu(), count)):
            rows = torch.einsum("bhw,bhwy,bhwx->bhwyx", values.double(), y, x)
            into += torch.einsum("bhwyx,bhwz->zyx", rows, z)
    mean = float(total.sum() / count.sum().clamp_min(1e-12))
    shared = [
        ndimage.gaussian_filter(one.numpy(), SMOOTHING_NODES, mode="constant")
        for one in (total / max(mean, 1e-12), count)
    ]
    smooth = (shared[0] + PRIOR_TOKENS) / (shared[1] + PRIOR_TOKENS)
    return torch.from_numpy(np.clip(smooth, LEAST, MOST).astype(np.float32))
