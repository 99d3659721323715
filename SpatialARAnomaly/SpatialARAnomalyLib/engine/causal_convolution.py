"""The masked convolution of the autoregressive model, without the rows that its mask empties."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class CausalConv2d(nn.Conv2d):
    """A 3×3 convolution that sees only earlier tokens of the raster scan.

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
