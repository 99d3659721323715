"""The masked CNN that predicts every token from the tokens before it in raster order.

The networks of Erdil et al., arXiv 2603.02974: five 3×3 convolutions with ReLU between
them, zero padding, the first without the center. Masks act on space only: all channels of a
token are predicted together. `AutoregressiveSpec` adds whitened tokens, position features,
raster orders from other corners, a full covariance and a variance by position.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from SpatialARAnomalyLib.engine.model.gaussian import (
    mean_log_variance,
    nll_of_squares,
    variance_at,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import COLUMN, IN_BODY, ROW, SLICE, image_places
from SpatialARAnomalyLib.engine.specs import (
    FREQUENCIES,
    MAP_SHAPE,
    POSITION_FEATURES,
    AutoregressiveSpec,
    Variance,
)


class CausalConv2d(nn.Conv2d):
    """A 3×3 convolution over only the earlier tokens of the raster scan.

        include_center=False     include_center=True
              1 1 1                    1 1 1
              1 0 0                    1 1 0
              0 0 0                    0 0 0

    The row below the center is always masked, so the convolution is computed as 2×3:
    a third fewer multiplications. The weight keeps the paper's shape [out, in, 3, 3]
    and its initial scale; masked entries are zero and stay so.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, dilation: int, include_center: bool
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, dilation=dilation)
        self.include_center = include_center
        mask = torch.ones(2, 3)
        mask[1, 1] = float(include_center)
        mask[1, 2] = 0.0
        # Recomputed from the spec, hence not saved with the weights.
        self.register_buffer("mask", mask, persistent=False)
        with torch.no_grad():
            self.weight[:, :, :2] *= mask
            self.weight[:, :, 2:] = 0.0

    def forward(self, tokens: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        """Convolve, with zeros outside; height and width stay the same."""
        reach = self.dilation[0]
        rows = self.weight[:, :, :2] * cast(Tensor, self.mask)
        padded = F.pad(tokens, (reach, reach, reach, 0))
        return F.conv2d(padded, rows, self.bias, dilation=reach)


Corner = tuple[bool, bool]
"""First corner of a raster order: True for the last row, and True for the last column."""

CORNERS: tuple[Corner, ...] = ((False, False), (True, True), (False, True), (True, False))
"""Corners of a model's directions: a model with n directions uses the first n."""


def flip_to_corner(grid: Float[Tensor, "b k h w"], corner: Corner) -> Float[Tensor, "b k h w"]:
    """Flip the grid so that the corner lies at the top left; a second flip undoes it."""
    dims = [2 + axis for axis, flipped in enumerate(corner) if flipped]
    return torch.flip(grid, dims) if dims else grid


def position_features(places: Float[Tensor, "b p h w"], corner: Corner) -> Float[Tensor, "b f h w"]:
    """Return the input features of every token: the corner as signs, its position in the body."""
    coordinates = places[:, [ROW, COLUMN, SLICE]]
    features = [
        torch.full_like(coordinates[:, :2], -1.0)
        + 2.0 * torch.tensor(corner, device=places.device)[:, None, None],
        coordinates,
    ]
    for frequency in FREQUENCIES:
        angle = math.pi * frequency * coordinates
        features += [angle.sin(), angle.cos()]
    return torch.cat(features, dim=1)


class AutoregressiveModel(nn.Module):
    """Predicts tokens [b, c, h, w] from earlier ones and computes their NLL.

    The positions of tokens ([b, 4, h, w], `slice_stack`) may be left out for single
    images.
    """

    variance: Tensor
    """σ² per channel, [c]; all equal when the variance is `fixed`."""
    residual_whitener: Tensor
    """[c, c], `full` variance only: makes residuals uncorrelated, with variance 1."""
    token_mean: Tensor
    """[c], whitened tokens only."""
    token_whitener: Tensor
    """[c, c], whitened tokens only."""
    variance_map: Tensor
    """[z, y, x], position variance only: factor of the variance by position."""

    def __init__(self, spec: AutoregressiveSpec, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.channels = channels
        depth = len(spec.dilations)
        widths = [channels, *[spec.hidden_channels] * (depth - 1), channels]
        layers: list[nn.Module] = []
        for index, dilation in enumerate(spec.dilations):
            if index:
                layers.append(nn.ReLU(inplace=True))
            layers.append(
                CausalConv2d(
                    widths[index], widths[index + 1], dilation=dilation, include_center=index > 0
                )
            )
        self.net = nn.Sequential(*layers)
        if spec.position:
            hidden = spec.hidden_channels
            self.position = nn.Sequential(
                nn.Conv2d(POSITION_FEATURES, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, hidden, 1)
            )
        if spec.variance is Variance.FULL:
            self.register_buffer("residual_whitener", torch.eye(channels))
        else:
            self.register_buffer("variance", torch.ones(channels))
        if spec.whitened:
            self.register_buffer("token_mean", torch.zeros(channels))
            self.register_buffer("token_whitener", torch.eye(channels))
        if spec.position_variance:
            self.register_buffer("variance_map", torch.ones(MAP_SHAPE))

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        return next(self.parameters()).device

    @property
    def corners(self) -> tuple[Corner, ...]:
        """The corners at which its raster orders start."""
        return CORNERS[: self.spec.directions]

    def places_of(self, tokens: Float[Tensor, "b c h w"]) -> Float[Tensor, "b p h w"]:
        """Return the positions of single images."""
        images, _, height, width = tokens.shape
        return torch.from_numpy(image_places(images, height, width)).to(tokens.device)

    def scaled(self, tokens: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return the tokens as the network receives and predicts them, whitened if set."""
        if not self.spec.whitened:
            return tokens
        centered = tokens - self.token_mean[:, None, None]
        return torch.einsum("dc,bchw->bdhw", self.token_whitener, centered)

    def weights(self, places: Float[Tensor, "b p h w"]) -> Float[Tensor, "b h w"]:
        """Weights of tokens in loss and variance: with whitening 1 in the body only, else all 1."""
        in_body = places[:, IN_BODY]
        return in_body if self.spec.whitened else torch.ones_like(in_body)

    def predict(
        self,
        scaled: Float[Tensor, "b c h w"],
        places: Float[Tensor, "b p h w"],
        corner: Corner = CORNERS[0],
    ) -> Float[Tensor, "b c h w"]:
        """Predict every scaled token from those before it in the raster order from a corner."""
        hidden = self.net[0](flip_to_corner(scaled, corner))
        if self.spec.position:
            hidden = hidden + flip_to_corner(
                self.position(position_features(places, corner)), corner
            )
        rest = cast(nn.Sequential, self.net[1:])
        return flip_to_corner(rest(hidden), corner)

    def forward(
        self, tokens: Float[Tensor, "b c h w"], places: Float[Tensor, "b p h w"] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Predict every scaled token from those before it in the raster order from top left."""
        places = self.places_of(tokens) if places is None else places
        return self.predict(self.scaled(tokens), places)

    def squares(self, residuals: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        """Return the mean over channels of squared residuals in standard deviations."""
        if self.spec.variance is Variance.FULL:
            whitened = torch.einsum("dc,bchw->bdhw", self.residual_whitener, residuals)
            return whitened.square().mean(dim=1)
        return (residuals.square() / self.variance[:, None, None]).mean(dim=1)

    @property
    def log_variance(self) -> float:
        """Mean over channels of the log variances, in the units of the encoder's tokens."""
        if self.spec.variance is Variance.FULL:
            log_variance = mean_log_variance(self.residual_whitener)
        else:
            log_variance = float(self.variance.cpu().double().log().mean())
        if self.spec.whitened:
            log_variance += mean_log_variance(self.token_whitener)
        return log_variance

    def nll(
        self, tokens: Float[Tensor, "b c h w"], places: Float[Tensor, "b p h w"] | None = None
    ) -> Float[Tensor, "b h w"]:
        """Return the negative log-likelihood of every token, in nats per channel.

        The mean over c of ½·(ln 2πσ²_c + (x_c − μ_c)²/σ²_c), or its equivalent with a
        covariance; with several directions, their mean. With unit variance it is half the
        paper's squared error plus a constant.
        """
        places = self.places_of(tokens) if places is None else places
        scaled = self.scaled(tokens)
        if tokens.device.type == "cpu":
            # oneDNN convolves fastest with the channels of a token adjacent in memory.
            scaled = scaled.contiguous(memory_format=torch.channels_last)
        scans = torch.stack(
            [self.squares(scaled - self.predict(scaled, places, one)) for one in self.corners]
        )
        squares = scans.mean(dim=0)
        if not self.spec.position_variance:
            return nll_of_squares(squares, self.log_variance)
        factor = variance_at(self.variance_map, places)
        return nll_of_squares(squares / factor, self.log_variance + factor.log())

    @property
    def lowest_nll(self) -> float:
        """NLL of a perfectly predicted token, the lowest possible."""
        lowest = self.log_variance
        if self.spec.position_variance:
            lowest += float(self.variance_map.min().log())
        return 0.5 * (math.log(2 * math.pi) + lowest)
