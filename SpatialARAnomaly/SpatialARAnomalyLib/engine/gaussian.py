"""How unlikely a residual is: a Gaussian whose covariance comes from normal scans."""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from .specs import Variance

RIDGE = 1e-4
"""Share of the mean variance added to a covariance, so that it has an inverse. Above the
rounding of tokens stored in half precision, below what tells tissue."""


def second_moment(residuals: Float[Tensor, "n c"], variance: Variance) -> Float[Tensor, "*c"]:
    """The sum over residuals of eᵢeⱼ, [c, c], or only of eᵢ², [c]; float64, on the CPU."""
    if variance is not Variance.FULL:
        return residuals.square().sum(dim=0).cpu().double()
    # In this order: MPS has no float64; and products of float32 summed in float64 need it.
    exact = residuals.cpu().double()
    return exact.T @ exact


def whitener(covariance: Float[Tensor, "c c"]) -> Float[Tensor, "c c"]:
    """W with WᵀW the inverse of the covariance, eased by `RIDGE`: W·e has unit covariance."""
    eye = torch.eye(len(covariance), dtype=covariance.dtype)
    eased = covariance + RIDGE * covariance.diagonal().mean() * eye
    root: Tensor = torch.linalg.cholesky(eased)
    return cast(Tensor, torch.linalg.solve_triangular(root, eye, upper=False))


def mean_log_variance(whitening: Float[Tensor, "c c"]) -> float:
    """The log determinant of the covariance that a (triangular) whitener undoes, by channel."""
    return -2.0 * float(whitening.diagonal().cpu().double().log().mean())


def nll_of_squares(
    squares: Float[Tensor, "b h w"], log_variance: float | Float[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    """½·(ln 2π + log variance + squares), in nats per channel.

    `squares` is the mean over channels of squared residuals in standard deviations,
    `log_variance` the mean over channels of the log of the variances.
    """
    return 0.5 * (math.log(2 * math.pi) + log_variance + squares)
