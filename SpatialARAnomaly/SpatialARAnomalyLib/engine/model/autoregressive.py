"""The masked CNN that predicts every token from the tokens before it in raster order.

A branch is a network of Erdil et al., arXiv 2603.02974: five 3×3 convolutions of one dilation
with ReLU between them, zero padding, the first without the center. Masks act on space only:
all channels of a token are predicted together. The paper's presets have one branch.

With several branches of different dilations, a token is predicted from near and from far
context separately, and its NLL is the mean of the two: a composite likelihood (Varin et al.,
Statistica Sinica 21, 2011). Near context predicts small structures well, and the inside of a
large lesion from itself; far context lies outside of the lesion.

The errors of a branch are Gaussian with a covariance shrunk towards equal variances (Ledoit and
Wolf, Journal of Multivariate Analysis 88, 2004); the paper's squared error is shrinkage 1.
"""

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec

MIN_VARIANCE = 1e-12
"""Least variance, which keeps the NLL finite where tokens never vary."""


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


class AutoregressiveModel(nn.Module):
    """Predicts tokens [b, c, h, w] from earlier ones and computes their NLL."""

    variance: Tensor
    """σ² of every branch, [n]: geometric mean of the eigenvalues of its errors' covariance Σ."""
    whitener: Tensor
    """W of every branch, [n, c, c], where shrinkage is below 1: σ·Σ^(-½), of determinant 1."""

    def __init__(self, spec: AutoregressiveSpec, channels: int) -> None:
        super().__init__()
        self.spec = spec
        self.channels = channels
        self.branches = nn.ModuleList(_branch(spec, channels, one) for one in spec.dilations)
        self.register_buffer("variance", torch.ones(len(spec.dilations)))
        if spec.shrinkage < 1:
            self.register_buffer("whitener", torch.eye(channels).repeat(len(spec.dilations), 1, 1))

    @property
    def device(self) -> torch.device:
        """The device of its parameters."""
        return next(self.parameters()).device

    def forward(self, tokens: Float[Tensor, "b c h w"]) -> Float[Tensor, "n b c h w"]:
        """Predict every token from those before it, once by each branch."""
        return torch.stack([branch(tokens) for branch in self.branches])

    def errors(self, tokens: Float[Tensor, "b c h w"]) -> Float[Tensor, "n b c h w"]:
        """Return the prediction errors of every branch."""
        if tokens.device.type == "cpu":
            # oneDNN convolves fastest with the channels of a token adjacent in memory.
            tokens = tokens.contiguous(memory_format=torch.channels_last)
        return torch.stack([branch(tokens) - tokens for branch in self.branches])

    def fit_covariance(self, covariance: Float[Tensor, "n c c"]) -> None:
        """Set σ² and W from the covariance of every branch's errors.

        Σ is s·v·I + (1 − s)·covariance, v its mean variance, s the shrinkage.
        """
        found, axes = torch.linalg.eigh(covariance)
        equal = found.mean(dim=1, keepdim=True).clamp_min(MIN_VARIANCE)
        shrinkage = self.spec.shrinkage
        shrunk = shrinkage * equal + (1 - shrinkage) * found.clamp_min(0)
        variance = shrunk.log().mean(dim=1).exp()
        self.variance.copy_(variance.float())
        if shrinkage < 1:
            scales = (variance[:, None] / shrunk).sqrt()
            self.whitener.copy_((axes * scales[:, None] @ axes.mT).float())

    def nll(self, tokens: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h w"]:
        """Return the negative log-likelihood of every token, in nats per channel.

        The mean over branches n and channels c of ½·(ln 2πσ²_n + e_nc²/σ²_n), where e_n is
        W_n·(x − μ_n), or x − μ_n without W. With one branch of unit variance and no W it is half
        the paper's squared error plus a constant.
        """
        errors = self.errors(tokens)
        if self.spec.shrinkage < 1:
            errors = torch.einsum("ndc,nbchw->nbdhw", self.whitener, errors)
        variance = self.variance[:, None, None, None]
        squares = errors.square().mean(dim=2) / variance
        return 0.5 * (squares + (2 * math.pi * variance).log()).mean(dim=0)

    @property
    def lowest_nll(self) -> float:
        """NLL of a perfectly predicted token, the lowest possible."""
        return 0.5 * float((2 * math.pi * self.variance.cpu().double()).log().mean())


def _branch(spec: AutoregressiveSpec, channels: int, dilation: int) -> nn.Sequential:
    widths = [channels, *[spec.hidden_channels] * (spec.layers - 1), channels]
    layers: list[nn.Module] = []
    for index in range(spec.layers):
        if index:
            layers.append(nn.ReLU(inplace=True))
        layers.append(
            CausalConv2d(
                widths[index], widths[index + 1], dilation=dilation, include_center=index > 0
            )
        )
    return nn.Sequential(*layers)
