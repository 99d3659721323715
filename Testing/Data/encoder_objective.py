"""The demonstration encoder's objective: tokens describe clean patches, equal in two views.

Every image is seen twice, degraded at random each time; in the first view, blocks of patches are
hidden. Three terms make tokens suitable for density models:

1. *Content*: a linear map of a token gives the low frequencies (cosine transform) of its own clean
   patch and, more coarsely, of the 3 by 3 patches around it.
2. *Context*: a small network maps a hidden patch's token to that patch.
3. *Invariance*: both views of a patch have the same token, while channels keep their variance and
   are not correlated (VICReg, arXiv 2105.04906, on tokens as in VICRegL, arXiv 2210.01571): noise
   is removed from the tokens, content is kept.

The maps of 1 and 2 are discarded after training.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH_PX = 16

CONTENT, SURROUNDINGS = 8, 4
"""Bound on frequencies down plus across: 36 numbers of a patch, 10 around it."""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Weight of each term."""

    context: float = 0.5
    surroundings: float = 0.25
    invariance: float = 1.0
    variance: float = 1.0
    covariance: float = 0.02


def cosine_filters(side_px: int, frequencies: int) -> tuple[Tensor, Tensor]:
    """Return cosine-transform filters [n, 1, side, side], the mean first, and their orders."""
    position = (np.arange(side_px) + 0.5) / side_px
    waves = np.cos(np.pi * np.arange(frequencies)[:, None] * position)
    pairs = sorted((u + v, u, v) for u in range(frequencies) for v in range(frequencies - u))
    gain = [math.sqrt(2.0 ** ((u > 0) + (v > 0))) / side_px**2 for _, u, v in pairs]
    filters = [g * np.outer(waves[u], waves[v]) for g, (_, u, v) in zip(gain, pairs, strict=True)]
    orders = [order for order, _, _ in pairs]
    return torch.tensor(np.stack(filters)[:, None], dtype=torch.float32), torch.tensor(orders)


class Objective(nn.Module):
    """The loss, with its maps, which the encoder does not keep."""

    own: Tensor
    around: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, channels: int, images: Tensor, shares: Shares) -> None:
        """Scale each frequency by its strength in `images` [n, 1, y, x]."""
        super().__init__()
        self.shares = shares
        own, own_order = cosine_filters(PATCH_PX, CONTENT)
        around, around_order = cosine_filters(3 * PATCH_PX, SURROUNDINGS)
        self.register_buffer("own", own)
        self.register_buffer("around", around)
        self.register_buffer("scale", torch.ones(len(own) + len(around)))
        targets, seen = self.targets(images)
        self.scale = targets[seen].std(dim=0)
        # Fine detail has less weight: half of it is noise.
        weight = torch.cat([1 / (1 + own_order), shares.surroundings / (1 + around_order)])
        self.register_buffer("weight", weight)
        self.describe = nn.Linear(channels, len(weight))
        self.guess = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, len(own))
        )

    def targets(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the targets [b, n, t] of the tokens, and a mask of patches with more than air."""
        own = F.conv2d(images, self.own, stride=PATCH_PX)
        around = F.conv2d(images, self.around, stride=PATCH_PX, padding=PATCH_PX)
        targets = torch.cat([own, around], dim=1).flatten(2).transpose(1, 2) / self.scale
        return targets, F.max_pool2d(images, PATCH_PX).flatten(1) > 0.02

    def forward(
        self, images: Tensor, tokens: tuple[Tensor, Tensor], hidden: Tensor
    ) -> dict[str, Tensor]:
        """Compute the terms from clean images, both views' tokens [b, n, c] and hidden patches."""
        first, second = tokens
        targets, seen = self.targets(images)
        shown = ~hidden
        # Air is the same everywhere: a tenth of it is enough.
        share = torch.where(seen, 1.0, 0.1)
        content = self._error(self.describe(second), targets, share)
        content = (content + self._error(self.describe(first), targets, share * shown)) / 2
        orders = slice(len(self.own))
        context = self._error(self.guess(first), targets[..., orders], share * hidden)
        compared = seen & shown
        if int(compared.sum()) < 2:  # an image of air, or all of it hidden
            compared = torch.ones_like(shown)
        one, other = first[compared], second[compared]
        both = torch.stack([one, other])
        centered = both - both.mean(dim=1, keepdim=True)
        covariance = centered.transpose(1, 2) @ centered / max(1, both.shape[1] - 1)
        variance = covariance.diagonal(dim1=1, dim2=2)
        crossed = covariance.square().sum() - variance.square().sum()
        return {
            "content": content,
            "context": self.shares.context * context,
            "invariance": self.shares.invariance * (one - other).square().mean(),
            "variance": self.shares.variance * F.relu(1 - (variance + 1e-4).sqrt()).mean(),
            "covariance": self.shares.covariance * crossed / (2 * both.shape[-1]),
        }

    def _error(self, predicted: Tensor, targets: Tensor, share: Tensor) -> Tensor:
        """Average the error over the tokens by share; linear for large errors."""
        weight = self.weight[: predicted.shape[-1]]
        error = F.smooth_l1_loss(predicted, targets, reduction="none") @ weight / weight.sum()
        return (error * share).sum() / share.sum().clamp(min=1)
