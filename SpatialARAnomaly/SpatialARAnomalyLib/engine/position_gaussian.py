"""A peer of the autoregressive model: how unusual a token is for its place in the image.

PaDiM (Defard et al., 2020, arXiv 2011.08785): at every position a Gaussian over
the normal images, on a few channels; needs images that lie alike.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from .errors import InputError
from .memory_bank import Inside, NormalTokens

CHANNELS = 100
"""At most so many, as PaDiM takes for ResNet18."""
TOKENS_PER_CHANNEL = 4
"""Normal tokens at a position for every channel, at least.

With d channels and n tokens, noise alone spreads the eigenvalues of a
covariance by ((1 + √(d/n)) / (1 − √(d/n)))² (Marchenko & Pastur 1967): by 9 at
n = 4 d, without bound at n = d.
"""
RIDGE = 0.01
"""Added to every variance, as in PaDiM."""
BATCH = 32
"""Images looked at together: what bounds the memory."""


class Reduction(StrEnum):
    """How the channels of a token become few."""

    CHOICE = "choice"
    """A random choice, PaDiM's."""
    PCA = "pca"
    """The first principal components of all normal tokens."""


class PositionGaussian:
    """A mean and a covariance for every position of the token grid."""

    def __init__(
        self,
        basis: Float32[Tensor, "c d"],
        mean: Float64[Tensor, "h w d"],
        covariance: Float64[Tensor, "h w d d"],
        device: torch.device | str = "cpu",
    ) -> None:
        self.basis = basis.to(device)
        self.mean = mean.float().to(device)
        # L of Σ = L·Lᵀ; kept inverted, so that scoring is a product on every device.
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
        reduction: Reduction = Reduction.CHOICE,
        ridge: float = RIDGE,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> "PositionGaussian":
        """The Gaussians of the normal tokens (those inside, if told).

        One array [image, c, h, w] per volume, looked at one by one. With few
        images fewer channels are taken than asked, so that there are
        `TOKENS_PER_CHANNEL` images for each. A position with fewer tokens
        inside than that takes the Gaussian of all positions together. Raises
        `InputError` `too-few-normal-images` for fewer images than one channel
        needs, or no more tokens inside. Fitted on the CPU in float64; `device`
        is where it scores.
        """
        images = sum(len(volume) for volume in normals)
        if images < TOKENS_PER_CHANNEL:
            raise _too_few(f"{images} images")
        available = normals[0].shape[1]
        count = min(channels, available, images // TOKENS_PER_CHANNEL)
        if reduction is Reduction.CHOICE:
            order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))
            basis = torch.eye(available)[:, order[:count].sort().values]
        else:
            basis = _principal(_Moments.together(normals, inside), count)
        moments = _Moments.per_position(normals, inside, basis)
        if moments.number.sum() < TOKENS_PER_CHANNEL * count:
            raise _too_few(f"{int(moments.number.sum())} tokens inside the body")
        mean, covariance = moments.gaussians(TOKENS_PER_CHANNEL * count)
        covariance += ridge * torch.eye(count, dtype=torch.float64)
        return cls(basis, mean, covariance, device)

    @property
    def channels(self) -> int:
        """How many channels are compared."""
        return self.basis.shape[1]

    @property
    def size_bytes(self) -> int:
        """The memory that scoring needs, in float32."""
        return 4 * (self.basis.numel() + self.mean.numel() + self._whitening.numel())

    @torch.inference_mode()
    def score(self, tokens: Float[Tensor, "b c h w"]) -> Float32[Tensor, "b h w"]:
        """The Mahalanobis distance of every token to the Gaussian of its position."""
        rows = tokens.to(self.basis.device).float().permute(0, 2, 3, 1)
        off = rows @ self.basis - self.mean
        return torch.einsum("hwij,bhwj->bhwi", self._whitening, off).square().sum(dim=-1).sqrt()


class _Moments:
    """Numbers, sums and products of tokens per position, in float64."""

    def __init__(self, height: int, width: int, channels: int) -> None:
        self.number = torch.zeros(height, width, dtype=torch.float64)
        self.total = torch.zeros(height, width, channels, dtype=torch.float64)
        self.product = torch.zeros(height, width, channels, channels, dtype=torch.float64)

    @classmethod
    def per_position(
        cls,
        normals: Sequence[NormalTokens],
        inside: Sequence[Inside] | None,
        basis: Float32[Tensor, "c d"],
    ) -> "_Moments":
        """Of the reduced tokens at every position."""
        _, _, height, width = normals[0].shape
        moments = cls(height, width, basis.shape[1])
        for tokens, weight in _batches(normals, inside):
            reduced = (tokens @ basis).double()
            weighted = reduced * weight[..., None]
            moments.number += weight.sum(dim=0)
            moments.total += weighted.sum(dim=0)
            moments.product += torch.einsum("bhwi,bhwj->hwij", weighted, reduced)
        return moments

    @classmethod
    def together(
        cls, normals: Sequence[NormalTokens], inside: Sequence[Inside] | None
    ) -> "_Moments":
        """Of the whole tokens, wherever they lie, as one position."""
        channels = normals[0].shape[1]
        moments = cls(1, 1, channels)
        for tokens, weight in _batches(normals, inside):
            rows = tokens.reshape(-1, channels).double()
            weighted = rows * weight.reshape(-1, 1)
            moments.number += weight.sum()
            moments.total += weighted.sum(dim=0)
            moments.product += weighted.T @ rows
        return moments

    def gaussians(self, needed: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance per position; of all together where fewer than `needed` lie."""
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
    """Some images at a time: their tokens, and 1 for each that counts."""
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


def _principal(moments: _Moments, count: int) -> Float32[Tensor, "c d"]:
    _, covariance = _gaussian(moments.number[0, 0], moments.total[0, 0], moments.product[0, 0])
    vectors: Tensor = torch.linalg.eigh(covariance).eigenvectors  # by ascending variance
    return vectors.flip(1)[:, :count].float().contiguous()


def _too_few(found: str) -> InputError:
    return InputError(
        "too-few-normal-images",
        f"A Gaussian per position needs at least {TOKENS_PER_CHANNEL} normal images; "
        f"found {found}.",
        "Give more normal images.",
    )
