"""The Gaussian of residuals: covariance and variance map from normal scans, and the NLL."""

import math
from collections.abc import Iterable
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from SpatialARAnomalyLib.engine.slices.slice_stack import COLUMN, ROW, SLICE
from SpatialARAnomalyLib.engine.specs import MAP_SHAPE, Variance

RIDGE = 1e-4
"""Share of the mean variance added to a covariance, so that it can be inverted. Above the
rounding of tokens in half precision, below differences between tissues."""

SMOOTHING_NODES = 1.0
"""Standard deviation of the Gaussian that smooths a variance map, in nodes."""

PRIOR_TOKENS = 20.0
"""Prior weight of the average variance at every node of a map, in pseudo-tokens."""

LEAST, MOST = 0.2, 5.0
"""Bounds of a variance map with mean 1, so that no position is fully ignored or always flagged."""


def second_moment(residuals: Float[Tensor, "n c"], variance: Variance) -> Float[Tensor, "*c"]:
    """Sum eᵢeⱼ over residuals, [c, c], or only eᵢ², [c]; in float64 on the CPU."""
    if variance is not Variance.FULL:
        return residuals.square().sum(dim=0).cpu().double()
    # First to the CPU: MPS has no float64.
    exact = residuals.cpu().double()
    return exact.T @ exact


def whitener(covariance: Float[Tensor, "c c"]) -> Float[Tensor, "c c"]:
    """Return W with WᵀW the inverse of the covariance plus `RIDGE`: W·e has unit covariance."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    regularized = covariance + RIDGE * covariance.diagonal().mean() * eye
    root: Tensor = torch.linalg.cholesky(regularized)
    return cast(Tensor, torch.linalg.solve_triangular(root, eye, upper=False))


def mean_log_variance(whitening: Float[Tensor, "c c"]) -> float:
    """Return the log determinant, per channel, of the covariance of a (triangular) whitener."""
    return -2.0 * float(whitening.diagonal().cpu().double().log().mean())


def nll_of_squares(
    squares: Float[Tensor, "b h w"], log_variance: float | Float[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    """Return ½·(ln 2π + log variance + squares), in nats per channel.

    `squares` is the mean over channels of squared residuals in standard deviations,
    `log_variance` the mean over channels of the log variances.
    """
    return 0.5 * (math.log(2 * math.pi) + log_variance + squares)


def _hats(coordinate: Float[Tensor, "b h w"], nodes: int) -> Float[Tensor, "b h w n"]:
    """Return the weight of every node at a coordinate: linear interpolation, held at the ends."""
    at = (coordinate.clamp(-1, 1) + 1) * (nodes - 1) / 2
    return (1 - (at[..., None] - torch.arange(nodes, device=at.device)).abs()).clamp_min(0)


def _weights(places: Float[Tensor, "b p h w"]) -> list[Float[Tensor, "b h w _"]]:
    coordinates = (places[:, SLICE], places[:, ROW], places[:, COLUMN])
    return [_hats(one, nodes) for one, nodes in zip(coordinates, MAP_SHAPE, strict=True)]


def variance_at(
    variance_map: Float[Tensor, "z y x"], places: Float[Tensor, "b p h w"]
) -> Float[Tensor, "b h w"]:
    """Interpolate the map at every token, linearly between nodes."""
    z, y, x = _weights(places)
    planes = torch.einsum("bhwz,zyx->bhwyx", z, variance_map)
    return torch.einsum("bhwyx,bhwy,bhwx->bhw", planes, y, x)


def fit_variance_map(
    seen: Iterable[tuple[Float[Tensor, "b h w"], Float[Tensor, "b p h w"], Float[Tensor, "b h w"]]],
) -> Float[Tensor, "z y x"]:
    """Fit a variance map to squared residuals of normal scans, with mean 1 over them.

    `seen` yields by batch the mean squared residuals in standard deviations, their positions,
    and weights (0: not counted).
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
