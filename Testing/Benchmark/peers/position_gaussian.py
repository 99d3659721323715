"""PaDiM: a Gaussian over the normal images at each position of the token grid.

Defard et al., 2020, arXiv 2011.08785. It uses few channels and needs aligned images.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from Benchmark.peers.memory_bank import Inside, NormalTokens
from jaxtyping import Float, Float32, Float64
from SpatialARAnomalyLib.engine.errors import InputError
from torch import Tensor

CHANNELS = 100
"""Default maximum number of channels, PaDiM's for ResNet18."""
TOKENS_PER_CHANNEL = 4
"""Minimum number of normal tokens at a position per channel.

With d channels and n tokens, noise alone spreads the eigenvalues of a covariance by
((1 + √(d/n)) / (1 − √(d/n)))² (Marchenko & Pastur 1967): by 9 at n = 4 d, without bound
at n = d.
"""
RIDGE = 0.01
"""Variance added to each channel, as in PaDiM."""
BATCH = 32
"""Images processed at once; bounds the memory needed."""


class PositionGaussian:
    """Mean and covariance of randomly chosen channels at each position of the token grid.

    Args:
        basis: Columns of the identity matrix that select the channels.
        mean: Mean per position.
        covariance: Covariance per position, positive definite.
        device: Device that scores.
    """

    def __init__(
        self,
        basis: Float32[Tensor, "c d"],
        mean: Float64[Tensor, "h w d"],
        covariance: Float64[Tensor, "h w d d"],
        device: torch.device | str = "cpu",
    ) -> None:
        self.basis = basis.to(device)
        self.mean = mean.float().to(device)
        # Σ = L·Lᵀ. L is stored inverted, so that scoring is a matrix product on every device.
        lower = torch.linalg.cholesky(covariance)
        one = torch.eye(lower.shape[-1], dtype=lower.dtype).expand_as(lower)
        inverse: Tensor = torch.linalg.solve_triangular(lower, one, upper=False)
        self._whitening = inverse.float().to(device)

    @classmethod
    def fit(
        cls,
        normals: Sequence[NormalTokens],
        inside: Sequence[Inside] | None = None,
        *,
        channels: int = CHANNELS,
        ridge: float = RIDGE,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> "PositionGaussian":
        """Estimate the Gaussians of the normal tokens, on the CPU in float64.

        With few images fewer channels are used, so that there are `TOKENS_PER_CHANNEL`
        images per channel. A position with fewer tokens inside than that uses the Gaussian
        of all positions together.

        Args:
            normals: One array [image, c, h, w] per volume; volumes are read one by one.
            inside: One mask [image, h, w] per volume; without it all tokens count.
            channels: Maximum number of channels.
            ridge: Variance added to each channel.
            seed: Seed of the random choice of channels.
            device: Device that will score.

        Raises:
            InputError: `too-few-normal-images` if there are fewer images than one channel
                needs, or no more tokens inside.
        """
        images = sum(len(volume) for volume in normals)
        if images < TOKENS_PER_CHANNEL:
            raise _too_few(f"{images} images")
        available = normals[0].shape[1]
        count = min(channels, available, images // TOKENS_PER_CHANNEL)
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
        basis = torch.eye(available)[:, order[:count].sort().values]
        moments = _Moments.accumulate(normals, inside, basis)
        if moments.number.sum() < TOKENS_PER_CHANNEL * count:
            raise _too_few(f"{int(moments.number.sum())} tokens inside the body")
        mean, covariance = moments.gaussians(TOKENS_PER_CHANNEL * count)
        covariance += ridge * torch.eye(count, dtype=torch.float64)
        return cls(basis, mean, covariance, device)

    @property
    def channels(self) -> int:
        """Number of channels compared."""
        return self.basis.shape[1]

    @property
    def size_bytes(self) -> int:
        """Memory needed to score, in bytes of float32 values."""
        return 4 * (self.basis.numel() + self.mean.numel() + self._whitening.numel())

    @torch.inference_mode()
    def score(self, tokens: Float[Tensor, "b c h w"]) -> Float32[Tensor, "b h w"]:
        """Compute the Mahalanobis distance of each token to the Gaussian of its position."""
        rows = tokens.to(self.basis.device).float().permute(0, 2, 3, 1)
        off = rows @ self.basis - self.mean
        return torch.einsum("hwij,bhwj->bhwi", self._whitening, off).square().sum(dim=-1).sqrt()


class _Moments:
    """Numbers, sums and outer products of tokens per position, in float64."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.number = torch.zeros(height, width, dtype=torch.float64)
        self.total = torch.zeros(height, width, channels, dtype=torch.float64)
        self.product = torch.zeros(height, width, channels, channels, dtype=torch.float64)

    @classmethod
    def accumulate(
        cls,
        normals: Sequence[NormalTokens],
        inside: Sequence[Inside] | None,
        basis: Float32[Tensor, "c d"],
    ) -> "_Moments":
        """Sum over all normal tokens, reduced to the channels of `basis`."""
        _, _, height, width = normals[0].shape
        moments = cls(height, width, basis.shape[1])
        for tokens, weight in _batches(normals, inside):
            reduced = (tokens @ basis).double()
            weighted = reduced * weight[..., None]
            moments.number += weight.sum(dim=0)
            moments.total += weighted.sum(dim=0)
            moments.product += torch.einsum("bhwi,bhwj->hwij", weighted, reduced)
        return moments

    def gaussians(self, needed: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance per position; pooled over positions with fewer than `needed`."""
        mean, covariance = _gaussian(self.number, self.total, self.product)
        all_mean, all_covariance = _gaussian(
            self.number.sum(), self.total.sum(dim=(0, 1)), self.product.sum(dim=(0, 1))
        )
        few = self.number < needed
        mean[few], covariance[few] = all_mean, all_covariance
        return mean, covariance


def _batches(
    normals: Sequence[NormalTokens], inside: Sequence[Inside] | None
) -> Iterator[tuple[Float32[Tensor, "b h w c"], Float64[Tensor, "b h w"]]]:
    """Yield tokens of some images with their weights: 1 inside, 0 elsewhere."""
    masks = [None] * len(normals) if inside is None else inside
    for volume, mask in zip(normals, masks, strict=True):
        for start in range(0, len(volume), BATCH):
            part = np.moveaxis(volume[start : start + BATCH], 1, -1).astype(np.float32)
            weight = np.ones(part.shape[:3])
            if mask is not None:
                weight = mask[start : start + BATCH].astype(np.float64)
            yield torch.from_numpy(part), torch.from_numpy(weight)


def _gaussian(number: Tensor, total: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    mean = total / number.clamp_min(1)[..., None]
    outer = mean[..., :, None] * mean[..., None, :]
    scatter = product - number[..., None, None] * outer
    return mean, scatter / (number - 1).clamp_min(1)[..., None, None]


def _too_few(found: str) -> InputError:
    return InputError(
        "too-few-normal-images",
        f"A Gaussian per position needs at least {TOKENS_PER_CHANNEL} normal images; "
        f"found {found}.",
    )
