"""A peer of the autoregressive model: how far a token is from the nearest normal one.

The full bank with the cosine distance is AnomalyDINO's rule (Damm et al., WACV
2025, arXiv 2405.14529); a coreset with the Euclidean distance is PatchCore's
(Roth et al., CVPR 2022, arXiv 2106.08265), both on the tokens as given.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Bool, Float, Float16, Float32
from torch import Tensor

from .coreset import PROJECTED_CHANNELS, coreset_size, k_center_greedy, sparse_projection
from .errors import InputError
from .progress import Reporter, SilentReporter

NormalTokens = Float16[np.ndarray, "_ c h w"] | Float32[np.ndarray, "_ c h w"]
"""The tokens of one normal volume; may be mapped from disk."""

Inside = Bool[np.ndarray, "_ h w"]
"""Which of a volume's tokens count."""

CHUNK = 16_384
"""Tokens of the bank compared at once, and the most queries: what bounds the memory."""
QUERIES = 1_024

CORESET_RATIO = 0.1
"""PatchCore's, as anomalib has it by default."""


class Distance(StrEnum):
    """How two tokens are compared."""

    COSINE = "cosine"
    """1 − the cosine of their angle."""
    EUCLIDEAN = "euclidean"
    """The length of their difference."""


class MemoryBank:
    """Normal tokens, kept as they are; memory grows with the training images."""

    def __init__(self, tokens: Float[Tensor, "n c"], distance: Distance = Distance.COSINE) -> None:
        self.tokens = tokens
        self.distance = distance

    @classmethod
    def fit(
        cls,
        normals: Sequence[NormalTokens],
        inside: Sequence[Inside] | None = None,
        *,
        distance: Distance = Distance.COSINE,
        coreset_ratio: float | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        report: Reporter | None = None,
    ) -> "MemoryBank":
        """The bank of all tokens (those inside, if told), or of a coreset of them.

        One array [image, c, h, w] per volume. `coreset_ratio` is the share
        kept, chosen by the distance with which the bank will be asked; `seed`
        draws the first token and the projection. Raises `InputError`
        `bank-empty` where no token is inside, and `Cancelled` through `report`.
        """
        tokens = _rows(normals, inside).to(device)
        if coreset_ratio is not None:
            chosen = _coreset(tokens, distance, coreset_ratio, seed, report or SilentReporter())
            tokens = tokens[chosen.to(tokens.device)]
        return cls(tokens, distance)

    @torch.inference_mode()
    def score(self, tokens: Float[Tensor, "b c h w"]) -> Float32[Tensor, "b h w"]:
        """The distance of every token to the nearest of the bank; 0 for one that is in it."""
        batch, channels, height, width = tokens.shape
        device = self.tokens.device
        queries = tokens.to(device).permute(0, 2, 3, 1).reshape(-1, channels)
        parts = [
            self._nearest(queries[start : start + QUERIES])
            for start in range(0, len(queries), QUERIES)
        ]
        return torch.cat(parts).reshape(batch, height, width)

    def _nearest(self, queries: Float[Tensor, "q c"]) -> Float32[Tensor, " q"]:
        queries = _comparable(queries, self.distance)
        best = torch.full((len(queries),), -torch.inf, device=queries.device)
        nearest = torch.zeros_like(queries)
        for start in range(0, len(self.tokens), CHUNK):
            bank = _comparable(self.tokens[start : start + CHUNK], self.distance)
            # Of ½|q − b|² only this part depends on b.
            closeness = queries @ bank.T - 0.5 * bank.square().sum(dim=1)
            highest, row = closeness.max(dim=1)
            better = highest > best
            best = torch.where(better, highest, best)
            nearest[better] = bank[row[better]]
        # From the difference itself: the product above would leave rounding where it is 0.
        squared = (queries - nearest).square().sum(dim=1)
        # Of unit vectors ½|q − b|² = 1 − q·b.
        return 0.5 * squared if self.distance is Distance.COSINE else squared.sqrt()


def bank_bytes(tokens: int, channels: int, bytes_per_value: int = 2) -> int:
    """The memory of a bank of so many tokens as they are stored (float16)."""
    return tokens * channels * bytes_per_value


def _rows(normals: Sequence[NormalTokens], inside: Sequence[Inside] | None) -> Float[Tensor, "n c"]:
    """All tokens that count, one per row, copied once."""
    masks = [None] * len(normals) if inside is None else inside
    counts = [
        volume[:, 0].size if mask is None else int(np.count_nonzero(mask))
        for volume, mask in zip(normals, masks, strict=True)
    ]
    if sum(counts) == 0:
        raise InputError(
            "bank-empty",
            "A memory bank needs at least one token inside the body; found none.",
            "Give normal images with a body, or a smaller field of view.",
        )
    rows = np.empty((sum(counts), normals[0].shape[1]), normals[0].dtype)
    start = 0
    for volume, mask, count in zip(normals, masks, counts, strict=True):
        last = np.moveaxis(volume, 1, -1)
        kept = last.reshape(-1, rows.shape[1]) if mask is None else last[mask]
        rows[start : start + count] = kept
        start += count
    return torch.from_numpy(rows)


def _comparable(tokens: Float[Tensor, "n c"], distance: Distance) -> Float32[Tensor, "n c"]:
    """The tokens in float32, of unit length for the cosine (a zero stays zero)."""
    tokens = tokens.float()
    return torch.nn.functional.normalize(tokens) if distance is Distance.COSINE else tokens


def _coreset(
    tokens: Float[Tensor, "n c"], distance: Distance, ratio: float, seed: int, report: Reporter
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    channels = tokens.shape[1]
    points = tokens.new_empty(len(tokens), min(channels, PROJECTED_CHANNELS), dtype=torch.float32)
    projection = None
    if channels > PROJECTED_CHANNELS:
        projection = sparse_projection(channels, PROJECTED_CHANNELS, generator).to(tokens.device)
    for start in range(0, len(tokens), CHUNK):
        part = _comparable(tokens[start : start + CHUNK], distance)
        points[start : start + CHUNK] = part if projection is None else part @ projection
    first = int(torch.randint(len(tokens), (), generator=generator))
    return k_center_greedy(points, coreset_size(len(tokens), ratio), first=first, report=report)
