"""The demonstration encoder's objective: tokens are a fixed description of the clean image.

Every token is a weighted sum of five standardized parts:

1. *levels*: a soft histogram of the gray values in its patch, so that dark and bright are equally
   far from gray, and a homogeneous patch is far from a mixed one of the same mean;
2. *around* and *wide*: the mean histogram of the 3 × 3 and 7 × 7 patches around it;
3. *texture*: the strength of waves of three lengths in four directions (Gabor filters), as in
   scattering transforms (arXiv 1101.2286) and MaskFeat (arXiv 2112.09133);
4. *layout*: the low frequencies (cosine transform) of the patch.

`SHARES` are their shares of the tokens' variance. Euclidean and cosine distances of tokens
therefore measure differences that can be seen. The network has noisy, coarse images, the
description is of the clean ones: noise is removed from the tokens.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH_PX = 16

SHARES = {"levels": 0.45, "around": 0.3, "wide": 0.15, "texture": 0.06, "layout": 0.04}
"""Share of the tokens' variance of each part of the description."""

LEVELS, LEVEL_WIDTH = 12, 0.1
"""Gray levels of a histogram, and the standard deviation of a level's Gaussian weight."""

WAVE_PX, DIRECTIONS, OCTAVES = 5.0, 4, 3
"""Shortest wavelength of the texture, directions, and number of doublings of the wavelength."""

FREQUENCIES = 4
"""Bound on frequencies down plus across of the layout."""

SPREAD = 0.2
"""Mean squared distance of a token from the mean, relative to the squared norm of LayerNorm."""

LARGEST = 0.95
"""Bound on the squared norm of a description, relative to the same."""


def cosine_filters(side_px: int, frequencies: int) -> tuple[Tensor, Tensor]:
    """Return cosine-transform filters [n, 1, side, side], the mean first, and their orders."""
    position = (np.arange(side_px) + 0.5) / side_px
    waves = np.cos(np.pi * np.arange(frequencies)[:, None] * position)
    pairs = sorted((u + v, u, v) for u in range(frequencies) for v in range(frequencies - u))
    gain = [math.sqrt(2.0 ** ((u > 0) + (v > 0))) / side_px**2 for _, u, v in pairs]
    filters = [g * np.outer(waves[u], waves[v]) for g, (_, u, v) in zip(gain, pairs, strict=True)]
    orders = [order for order, _, _ in pairs]
    return torch.tensor(np.stack(filters)[:, None], dtype=torch.float32), torch.tensor(orders)


def gabor_filters(side_px: int = 9) -> Tensor:
    """Return filters [2 · directions, 1, side, side] of zero sum: even and odd, by direction."""
    position = torch.arange(side_px) - (side_px - 1) / 2
    y, x = torch.meshgrid(position, position, indexing="ij")
    envelope = torch.exp(-(x.square() + y.square()) / (2 * (0.45 * WAVE_PX) ** 2))
    filters = []
    for direction in range(DIRECTIONS):
        angle = math.pi * direction / DIRECTIONS
        across = x * math.cos(angle) + y * math.sin(angle)
        for phase in (0.0, math.pi / 2):
            wave = envelope * torch.cos(2 * math.pi * across / WAVE_PX + phase)
            wave = wave - envelope * (wave.sum() / envelope.sum())
            filters.append(2 * wave / wave.abs().sum())
    return torch.stack(filters)[:, None]


def mean_around(grid: Tensor, width: int) -> Tensor:
    """Average [b, c, h, w] over squares of an odd width; the rim is repeated."""
    return F.avg_pool2d(F.pad(grid, (width // 2,) * 4, mode="replicate"), width, 1)


class Description(nn.Module):
    """The tokens that the network learns, from clean images."""

    gabor: Tensor
    cosines: Tensor
    mean: Tensor
    scale: Tensor
    rotation: Tensor

    def __init__(self, channels: int, images: Tensor) -> None:
        """Standardize every part by `images` [n, 1, y, x], where they are not air."""
        super().__init__()
        self.register_buffer("gabor", gabor_filters())
        self.register_buffer("cosines", cosine_filters(PATCH_PX, FREQUENCIES)[0][1:])
        parts = self.parts(images)
        self.sizes = {name: part.shape[1] for name, part in parts.items()}
        seen = not_air(images)
        means, scales = [], []
        for name, part in parts.items():
            values = part.flatten(2).transpose(1, 2)[seen]
            deviation = values.var(dim=0).sum().sqrt()
            gain = math.sqrt(SPREAD * channels * SHARES[name]) / deviation
            means.append(values.mean(dim=0))
            scales.append(gain.expand(part.shape[1]))
        self.register_buffer("mean", torch.cat(means))
        self.register_buffer("scale", torch.cat(scales))
        # LayerNorm's output has no mean over the channels: nothing may lie along the first row.
        size = len(self.mean)
        basis = torch.randn(channels, size + 2)
        basis[:, 0] = 1
        self.register_buffer("rotation", torch.linalg.qr(basis).Q[:, 1:].T.contiguous())

    def parts(self, images: Tensor) -> dict[str, Tensor]:
        """Return every part [b, c, h, w] of the description of images [b, 1, y, x]."""
        half = F.avg_pool2d(images, 2)
        level = torch.linspace(0, 1, LEVELS, device=images.device)[:, None, None]
        weights = torch.exp(-((half - level) / LEVEL_WIDTH).square() / 2)
        levels = F.avg_pool2d(weights, PATCH_PX // 2)
        strengths = []
        for octave in range(OCTAVES):
            coarse = F.avg_pool2d(images, 2**octave)
            waves = F.conv2d(F.pad(coarse, (4,) * 4, mode="replicate"), self.gabor)
            strength = (waves.unflatten(1, (DIRECTIONS, 2)).square().sum(dim=2) + 1e-8).sqrt()
            strengths.append(F.avg_pool2d(strength, PATCH_PX // 2**octave))
        return {
            "levels": levels,
            "around": mean_around(levels, 3),
            "wide": mean_around(levels, 7),
            "texture": (torch.cat(strengths, dim=1) + 0.002).sqrt(),
            "layout": F.conv2d(images, self.cosines, stride=PATCH_PX),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Return the tokens [b, n, c] of clean images: of LayerNorm's mean and norm."""
        channels = self.rotation.shape[1]
        parts = torch.cat(list(self.parts(images).values()), dim=1).flatten(2).transpose(1, 2)
        described = (parts - self.mean) * self.scale
        squared = described.square().sum(dim=-1, keepdim=True)
        limit = LARGEST * channels
        described = described * (limit / squared.clamp(min=limit)).sqrt()
        # One further direction has the rest of the norm.
        rest = (channels - squared.clamp(max=limit)).sqrt()
        return torch.cat([rest, described], dim=-1) @ self.rotation

    def errors(self, tokens: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Return the mean squared error of tokens [b, n, c], in all and in every part.

        Each is relative to the variance of what it describes: 1 for tokens that are all alike.
        Air is the same everywhere; it has a tenth of the weight.
        """
        share = torch.where(not_air(images), 1.0, 0.1)
        error = tokens - self(images)

        def mean(squared: Tensor) -> Tensor:
            return (squared.sum(dim=-1) * share).sum() / share.sum()

        spread = SPREAD * tokens.shape[-1]
        errors = {"loss": mean(error.square()) / spread}
        by_part = (error.detach() @ self.rotation.T)[..., 1:].split(list(self.sizes.values()), -1)
        for name, part in zip(self.sizes, by_part, strict=True):
            errors[name] = mean(part.square()) / (spread * SHARES[name])
        return errors


def not_air(images: Tensor) -> Tensor:
    """Return a mask [b, n] of patches with more than air."""
    return F.max_pool2d(images, PATCH_PX).flatten(1) > 0.02
