"""The masked CNN that predicts every token from the tokens before it in raster order.

The networks of Erdil et al., arXiv 2603.02974: five 3×3 convolutions with
ReLU between them, zero padding, the first without the center. Masks act on
space only: all channels of a token are predicted together.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from .specs import AutoregressiveSpec


class CausalConv2d(nn.Conv2d):
    """A 3×3 convolution that sees only earlier tokens of the raster scan.

        include_center=False     include_center=True
              1 1 1                    1 1 1
              1 0 0                    1 1 0
              0 0 0                    0 0 0

    Nothing lies below the center row, so it is computed as 2×3. The weight
    keeps the paper's shape [out, in, 3, 3] (and its initial scale); entries
    behind the mask are zero and stay so.
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
        """The convolution, of the same height and width."""
        reach = self.dilation[0]
        weight = self.weight[:, :, :2] * cast(Tensor, self.mask)
        padded = F.pad(tokens, (reach, reach, reach, 0))
        return F.conv2d(padded, weight, self.bias, dilation=reach)


def gaussian_nll(
    prediction: Float[Tensor, "b c h w"],
    target: Float[Tensor, "b c h w"],
    variance: Float[Tensor, " c"],
) -> Float[Tensor, "b h w"]:
    """Negative log-likelihood of every token, in nats per channel.

    mean over c of ½·(ln 2πσ²_c + (x_c − μ_c)²/σ²_c). With unit variance it is
    half the paper's squared error plus a constant.
    """
    per_channel = (target - prediction).square() / variance[:, None, None]
    constant = (2 * math.pi * variance).log().mean()
    return 0.5 * (per_channel.mean(dim=1) + constant)


class AutoregressiveModel(nn.Module):
    """Predicts tokens [b, c, h, w] from earlier ones and tells how unlikely they are."""

    variance: Tensor
    """σ² per channel, [c]; all equal when the variance is `fixed`."""

    def __init__(self, spec: AutoregressiveSpec, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.channels = channels
        depth = len(spec.dilations)
        widths = [channels, *[spec.hidden_channels] * (depth - 1), channels]
        layers: list[nn.Module] = []
        for index, dilation in enumerate(spec.dilations):
            if index:
                layers.append(nn.ReLU())
            layers.append(
                CausalConv2d(
                    widths[index], widths[index + 1], dilation=dilation, include_center=index > 0
                )
            )
        self.net = nn.Sequential(*layers)
        self.register_buffer("variance", torch.ones(channels))

    def forward(self, tokens: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """The mean of every token given the tokens before it."""
        return cast(Tensor, self.net(tokens))

    def nll(self, tokens: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        """Negative log-likelihood of every token, in nats per channel."""
        return gaussian_nll(self(tokens), tokens, self.variance)

    @property
    def lowest_nll(self) -> float:
        """The NLL of a perfectly predicted token: no token's is lower."""
        return 0.5 * float((2 * math.pi * self.variance.cpu().double()).log().mean())
