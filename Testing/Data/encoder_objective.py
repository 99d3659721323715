"""What the demonstration encoder learns: to describe clean patches and what is around them.

Every image is seen twice, degraded at random each time; in the first view, blocks of
patches are hidden. Three terms make tokens that density models can work with:

1. *Content*: along fixed orthogonal directions, a token holds the low frequencies
   (cosine transform) of its own clean patch, and of the ring of the eight patches
   around it. Distances between tokens are thus distances between patches, and a patch
   that does not go with its surroundings has a token unlike others of its intensity.
2. *Context*: a small network of a hidden patch's token gives that patch.
3. *Invariance*: both views of a patch have the same token: noise leaves it.

The directions of 1 and the network of 2 are thrown away after training.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH_PX = 16

OWN, AROUND = 8, 4
"""Frequencies down and across together stay below: 36 numbers of a patch, 10 around it."""

MEAN_GAIN, PATTERN_GAIN, CONSTANT, RADIUS = 45.0, 60.0, 11.0, 10.0
"""A patch is a vector: its mean from the middle of the scale, the amplitudes of its
patterns, times these gains, and a constant, all of it brought to the length `RADIUS` (of
11 = √128, which the final LayerNorm gives a token). What is strong saturates, then: the
cortex, whose patterns differ from one person to the next, does not drown the rest."""

MIDDLE = 0.5

AROUND_GAIN = 8.0
"""Length in a token of a step of the ring's mean from 0 to 1, and of its patterns' amplitude."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """How much the terms count beside the content."""

    context: float = 0.5
    invariance: float = 1.0


def cosine_filters(side_px: int, frequencies: int) -> tuple[Tensor, Tensor]:
    """[n, 1, side, side]: low frequencies of the cosine transform, the mean first; their orders."""
    position = (np.arange(side_px) + 0.5) / side_px
    waves = np.cos(np.pi * np.arange(frequencies)[:, None] * position)
    pairs = sorted((u + v, u, v) for u in range(frequencies) for v in range(frequencies - u))
    gain = [math.sqrt(2.0 ** ((u > 0) + (v > 0))) / side_px**2 for _, u, v in pairs]
    filters = [g * np.outer(waves[u], waves[v]) for g, (_, u, v) in zip(gain, pairs, strict=True)]
    orders = [order for order, _, _ in pairs]
    return torch.tensor(np.stack(filters)[:, None], dtype=torch.float32), torch.tensor(orders)


class Objective(nn.Module):
    """The loss, with the maps that it needs and the encoder does not keep."""

    filters: Tensor
    ring: Tensor
    directions: Tensor

    def __init__(self, channels: int, shares: Shares) -> None:
        super().__init__()
        self.shares = shares
        own, order = cosine_filters(PATCH_PX, OWN)
        gain = torch.where(order == 0, MEAN_GAIN, PATTERN_GAIN)
        self.register_buffer("filters", own * gain[:, None, None, None])
        ring, order = cosine_filters(3 * PATCH_PX, AROUND)
        ring[..., PATCH_PX : 2 * PATCH_PX, PATCH_PX : 2 * PATCH_PX] = 0
        gain = AROUND_GAIN / order.clamp(min=1).sqrt()
        self.register_buffer("ring", ring * gain[:, None, None, None] * 9 / 8)
        # The final LayerNorm takes the mean over channels away: no direction lies along it.
        count = 1 + len(own) + len(ring)
        drawn = torch.cat([torch.ones(channels, 1), torch.randn(channels, count)], dim=1)
        basis = torch.linalg.qr(drawn).Q
        self.register_buffer("directions", basis[:, 1:])
        self.guess = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, 1 + len(own))
        )

    def targets(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the tokens [b, n] are to hold, [b, n, t], and which of them show more than air."""
        own = F.conv2d(images - MIDDLE, self.filters, stride=PATCH_PX)
        own = torch.cat([torch.full_like(own[:, :1], CONSTANT), own], dim=1)
        own = RADIUS * F.normalize(own, dim=1)
        padded = F.pad(images, (PATCH_PX,) * 4) - MIDDLE
        ring = F.conv2d(padded, self.ring, stride=PATCH_PX)
        targets = torch.cat([own, ring], dim=1).flatten(2).transpose(1, 2)
        return targets, F.max_pool2d(images, PATCH_PX).flatten(1) > 0.02

    def start(self) -> tuple[Tensor, Tensor]:
        """Patch filters [c, 1, side, side] and bias [c] of tokens that hold their own patch.

        From white noise, a training as short as this would leave the filters noisy.
        The LayerNorm brings the vectors to one length.
        """
        own = self.directions[:, 1 : 1 + len(self.filters)]
        weight = (own @ self.filters.flatten(1)).reshape(-1, 1, PATCH_PX, PATCH_PX)
        bias = CONSTANT * self.directions[:, 0] - MIDDLE * weight.sum(dim=(1, 2, 3))
        return weight, bias

    def forward(
        self, images: Tensor, tokens: tuple[Tensor, Tensor], hidden: Tensor
    ) -> dict[str, Tensor]:
        """The terms, of clean images and the tokens [b, n, c] of both views.

        In the first view some were `hidden` [b, n].
        """
        first, second = tokens
        targets, seen = self.targets(images)
        # Air is the same everywhere: a tenth of it is enough.
        share = torch.where(seen, 1.0, 0.1)
        shown = share * ~hidden
        content = _error(second @ self.directions, targets, share)
        content = (content + _error(first @ self.directions, targets, shown)) / 2
        own = targets[..., : 1 + len(self.filters)]
        context = _error(self.guess(first), own, share * hidden)
        apart = (first - second).square().mean(dim=-1)
        return {
            "content": content,
            "context": self.shares.context * context,
            "invariance": self.shares.invariance * (apart * shown).sum() / shown.sum(),
        }


def _error(told: Tensor, targets: Tensor, share: Tensor) -> Tensor:
    """Mean error over the tokens by their share; what is rare and strong counts by its size."""
    error = F.smooth_l1_loss(told, targets, reduction="none").mean(dim=-1)
    return (error * share).sum() / share.sum().clamp(min=1)
