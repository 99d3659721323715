"""PatchCore's coreset: a greedy k-center selection of tokens.

Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022
(arXiv 2106.08265), algorithm 1: add the token farthest from all selected ones, measured
on a random projection to 128 channels.
"""

import math

import torch
from jaxtyping import Float, Int64
from SpatialARAnomalyLib.engine.progress import Reporter
from torch import Tensor

PROJECTED_CHANNELS = 128
"""Channels of the random projection used for the selection, as in PatchCore's code."""


def coreset_size(tokens: int, ratio: float) -> int:
    """Number of tokens that a coreset of this ratio keeps: at least one."""
    return max(1, int(tokens * ratio))


def sparse_projection(
    channels: int, projected: int, generator: torch.Generator
) -> Float[Tensor, "c p"]:
    """Draw a sparse random matrix that preserves distances in expectation.

    A share 1/√c of the entries is ±√(√c/p), the rest is zero (Li, Hastie & Church, Very
    Sparse Random Projections, KDD 2006).
    """
    density = 1 / math.sqrt(channels)
    drawn = torch.rand(channels, projected, generator=generator)
    signs = torch.where(drawn < density / 2, 1.0, -1.0) * (drawn < density)
    return signs / math.sqrt(density * projected)


def k_center_greedy(
    points: Float[Tensor, "n p"], count: int, *, first: int, report: Reporter
) -> Int64[Tensor, " count"]:
    """Select `count` distinct rows of `points`, in order of selection, starting with `first`.

    Each next row is the one with the largest Euclidean distance to the rows selected so
    far. The largest distance of any row to the selection is then at most twice the optimum
    for `count` rows (Gonzalez 1985). Raises `Cancelled` through `report`.
    """
    assert 1 <= count <= len(points), f"{count} of {len(points)} tokens"
    chosen = torch.empty(count, dtype=torch.int64)
    to_nearest = torch.full((len(points),), math.inf, device=points.device)
    lengths = points.square().sum(dim=1)
    row = first
    for index in range(count):
        if index % 256 == 0:
            report.check_cancelled()
            report.progress(index, count, "token")
        chosen[index] = row
        to_chosen = lengths + lengths[row] - 2 * (points @ points[row])
        torch.minimum(to_nearest, to_chosen, out=to_nearest)
        # Excludes selected rows even where all remaining ones equal a selected one.
        to_nearest[row] = -1.0
        row = int(to_nearest.argmax())
    report.progress(count, count, "token")
    return chosen
