"""Memory banks: the distance of a token to its nearest normal token.

The full bank with the cosine distance is AnomalyDINO's rule (Damm et al., WACV 2025,
arXiv 2405.14529); a coreset with the Euclidean distance is PatchCore's (Roth et al.,
CVPR 2022, arXiv 2106.08265). Both use the tokens as given.
"""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import torch
from Benchmark.peers.coreset import (
    PROJECTED_CHANNELS,
    coreset_size,
    k_center_greedy,
    sparse_projection,
)
from jaxtyping import Bool, Float, Float16, Float32
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.progress import (
    Reporter,
    SilentReporter,
)
from torch import Tensor

NormalTokens = Float16[np.ndarray, "_ c h w"] | Float32[np.ndarray, "_ c h w"]
"""Tokens of one normal volume; may be memory-mapped."""

Inside = Bool[np.ndarray, "_ h w"]
"""Mask of the tokens of a volume that count."""

CHUNK = 16_384
"""Bank tokens compared at once; with `QUERIES` it bounds the memory needed."""
QUERIES = 1_024
"""Query tokens compared at once."""

CORESET_RATIO = 0.1
"""Share of the tokens in PatchCore's coreset, the default of anomalib."""


class Distance(StrEnum):
    """Distance between two tokens."""

    COSINE = "cosine"
    """1 − the cosine of the angle between them."""
    EUCLIDEAN = "euclidean"
    """The length of their difference."""


class MemoryBank:
    """Normal tokens [n, c], stored unchanged; memory grows with the number of images."""

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
        """Build the bank from all normal tokens or from a coreset of them.

        Args:
            normals: One array [image, c, h, w] per volume.
            inside: One mask [image, h, w] per volume; without it all tokens count.
            distance: Distance for the coreset selection and for scoring.
            coreset_ratio: Share of the tokens to keep; without it all are kept.
            seed: Seed of the first coreset token and of the projection.
            device: Device that holds the bank.
            report: Receives the progress of the coreset selection and cancels it.

        Raises:
            InputError: `bank-empty` if no token is inside.
            Cancelled: Through `report`.
        """
        tokens = _flatten(normals, inside).to(device)
        if coreset_ratio is not None:
            chosen = _select_coreset(
                tokens, distance, coreset_ratio, seed, report or SilentReporter()
            )
            tokens = tokens[chosen.to(tokens.device)]
        return cls(tokens, distance)

    @torch.inference_mode()
    def score(self, tokens: Float[Tensor, "b c h w"]) -> Float32[Tensor, "b h w"]:
        """Compute the distance of each token to its nearest token in the bank."""
        batch, channels, height, width = tokens.shape
        device = self.tokens.device
        queries = tokens.to(device).permute(0, 2, 3, 1).reshape(-1, channels)
        parts = [
            self._nearest(queries[start : start + QUERIES])
            for start in range(0, len(queries), QUERIES)
        ]
        return torch.cat(parts).reshape(batch, height, width)

    def _nearest(self, queries: Float[Tensor, "q c"]) -> Float32[Tensor, " q"]:
        queries = _normalize(queries, self.distance)
        best = torch.full((len(queries),), -torch.inf, device=queries.device)
        nearest = torch.zeros_like(queries)
        for start in range(0, len(self.tokens), CHUNK):
            bank = _normalize(self.tokens[start : start + CHUNK], self.distance)
            # The part of −½|q − b|² that depends on b.
            closeness = queries @ bank.T - 0.5 * bank.square().sum(dim=1)
            highest, row = closeness.max(dim=1)
            better = highest > best
            best = torch.where(better, highest, best)
            nearest[better] = bank[row[better]]
        # Computed from the difference: the product above does not round to 0 for equal tokens.
        squared = (queries - nearest).square().sum(dim=1)
        # For unit vectors ½|q − b|² = 1 − q·b.
        return 0.5 * squared if self.distance is Distance.COSINE else squared.sqrt()


def bank_bytes(tokens: int, channels: int, bytes_per_value: int = 2) -> int:
    """Memory of a bank in bytes; tokens are stored as float16 by default."""
    return tokens * channels * bytes_per_value


def _flatten(
    normals: Sequence[NormalTokens], inside: Sequence[Inside] | None
) -> Float[Tensor, "n c"]:
    """Copy all tokens that count into one array, a row each."""
    masks = [None] * len(normals) if inside is None else inside
    counts = [
        volume[:, 0].size if mask is None else int(np.count_nonzero(mask))
        for volume, mask in zip(normals, masks, strict=True)
    ]
    if sum(counts) == 0:
        raise InputError(
            "bank-empty",
            "A memory bank needs at least one token inside the body; found none. Use normal "
            "images that show a body, or a smaller field of view.",
        )
    rows = np.empty((sum(counts), normals[0].shape[1]), normals[0].dtype)
    start = 0
    for volume, mask, count in zip(normals, masks, counts, strict=True):
        last = np.moveaxis(volume, 1, -1)
        kept = last.reshape(-1, rows.shape[1]) if mask is None else last[mask]
        rows[start : start + count] = kept
        start += count
    return torch.from_numpy(rows)


def _normalize(tokens: Float[Tensor, "n c"], distance: Distance) -> Float32[Tensor, "n c"]:
    """Convert tokens to float32, of unit length for the cosine (zeros stay zero)."""
    tokens = tokens.float()
    return torch.nn.functional.normalize(tokens) if distance is Distance.COSINE else tokens


def _select_coreset(
    tokens: Float[Tensor, "n c"], distance: Distance, ratio: float, seed: int, report: Reporter
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    channels = tokens.shape[1]
    points = tokens.new_empty(len(tokens), min(channels, PROJECTED_CHANNELS), dtype=torch.float32)
    projection = None
    if channels > PROJECTED_CHANNELS:
        projection = sparse_projection(channels, PROJECTED_CHANNELS, generator).to(tokens.device)
    for start in range(0, len(tokens), CHUNK):
        part = _normalize(tokens[start : start + CHUNK], distance)
        points[start : start + CHUNK] = part if projection is None else part @ projection
    first = int(torch.randint(len(tokens), (), generator=generator))
    return k_center_greedy(points, coreset_size(len(tokens), ratio), first=first, report=report)
