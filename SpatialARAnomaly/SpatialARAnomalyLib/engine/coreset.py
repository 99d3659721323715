"""Few tokens that stand for many: PatchCore's greedy k-center choice.

Roth et al., Towards Total Recall in Industrial Anomaly Detection, CVPR 2022
(arXiv 2106.08265), algorithm 1: add the token that lies farthest from all that
are chosen, measured on a random projection to 128 channels.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .progress import Reporter

PROJECTED_CHANNELS = 128
"""To which tokens are projected for the choice, as in PatchCore's own code."""


def coreset_size(tokens: int, ratio: float) -> int:
    """How many of so many tokens a coreset of this ratio keeps: at least one."""
    return max(1, int(tokens * ratio))


def sparse_projection(
    channels: int, projected: int, generator: torch.Generator
) -> Float[Tensor, "c p"]:
    """A random matrix that keeps distances in expectation, most of it zero.

    A share 1/√c of the entries is ±√(√c/p), the rest zero (Li, Hastie &
    Church, Very Sparse Random Projections, KDD 2006).
    """
    density = 1 / math.sqrt(channels)
    drawn = torch.rand(channels, projected, generator=generator)
    signs = torch.where(drawn < density / 2, 1.0, -1.0) * (drawn < density)
    return signs / math.sqrt(density * projected)


def k_center_greedy(
    points: Float[Tensor, "n p"], count: int, *, first: int, report: Reporter
) -> Int64[Tensor, " count"]:
    """The chosen rows, in order of choice, beginning with `first`; no row twice.

    Every next one lies farthest (Euclidean) from those before it, so that the
    largest distance of any row to the chosen ones is at most twice the best
    that so many can do (Gonzalez 1985). Raises `Cancelled` through `report`.
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
        to_nearest[row] = -1.0  # also where all others are equal to a chosen one
        row = int(to_nearest.argmax())
    report.progress(count, count, "token")
    return chosen
