"""Scans as counts over scores: all that voxel metrics need, in a few hundred kilobytes a scan.

A voxel metric asks how many voxels of lesions and of normal body reach a
threshold. So a scan is kept as its distinct scores with the voxels that have
each. Where they are too many, a score counts as the next lower one kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from .errors import InputError
from .lesions import Lesions

MAX_SCORES = 20_000
"""Distinct scores kept. With fewer in all scans together, metrics are exact."""

FINEST_SHARE = 1e-8
"""In the upper tail, scores are kept for shares of voxels down to this one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreCounts:
    """How many voxels have which score. Those of lesions outside the body have none."""

    scores: Float[np.ndarray, " n"]
    """Ascending, distinct."""
    normal: Float[np.ndarray, " n"]
    """Voxels of the body outside lesions that have the score; whole numbers."""
    lesion: Float[np.ndarray, " n"]
    """Voxels of lesions that have the score; whole numbers."""
    overlap: Float[np.ndarray, " n"]
    """Shares of every lesion's voxels that have the score, summed over lesions."""
    missed: float
    """Voxels of lesions outside the body: no threshold finds them."""
    missed_overlap: float
    """Shares of every lesion's voxels outside the body, summed over lesions."""
    exact: bool
    """Whether all distinct scores were kept."""

    def on(self, grid: Float[np.ndarray, " m"]) -> "ScoreCounts":
        """The counts with every score lowered to the next of the ascending `grid`.

        What lies below the grid counts at its lowest score.
        """
        place = np.maximum(np.searchsorted(grid, self.scores, side="right") - 1, 0)
        normal, lesion, overlap = (
            np.bincount(place, weights=counts, minlength=grid.size)
            for counts in (self.normal, self.lesion, self.overlap)
        )
        return ScoreCounts(
            scores=grid,
            normal=normal,
            lesion=lesion,
            overlap=overlap,
            missed=self.missed,
            missed_overlap=self.missed_overlap,
            exact=self.exact and bool(np.isin(self.scores, grid).all()),
        )


def count_scores(
    scores: Float[np.ndarray, "k j i"], body: Bool[np.ndarray, "k j i"], lesions: Lesions
) -> ScoreCounts:
    """The counts of one scan; voxels outside the body have no score.

    Raises `InputError` where a score in the body is not finite.
    """
    in_lesion = np.zeros(body.size, dtype=bool)
    in_lesion[lesions.voxels] = True
    flat, flat_body = scores.ravel(), body.ravel()
    normal_scores = flat[flat_body & ~in_lesion]
    scored = flat_body[lesions.voxels]
    lesion_scores = flat[lesions.voxels[scored]]
    if not (np.isfinite(normal_scores).all() and np.isfinite(lesion_scores).all()):
        raise InputError(
            "scores-not-finite",
            "Every voxel of the body must have a finite score; found NaN or infinity.",
        )
    shares = 1.0 / lesions.sizes[lesions.lesion]
    normal_values, normal = np.unique(normal_scores, return_counts=True)
    lesion_values, place = np.unique(lesion_scores, return_inverse=True)
    values = np.union1d(normal_values, lesion_values)
    counts = np.zeros((3, values.size))
    counts[0, np.searchsorted(values, normal_values)] = normal
    at = np.searchsorted(values, lesion_values)
    counts[1, at] = np.bincount(place, minlength=at.size)
    counts[2, at] = np.bincount(place, weights=shares[scored], minlength=at.size)
    whole = ScoreCounts(
        scores=values.astype(np.float64),
        normal=counts[0],
        lesion=counts[1],
        overlap=counts[2],
        missed=float(np.count_nonzero(~scored)),
        missed_overlap=float(shares[~scored].sum()),
        exact=True,
    )
    return whole if values.size <= MAX_SCORES else whole.on(_grid([whole]))


def _grid(scans: Sequence[ScoreCounts]) -> Float[np.ndarray, " m"]:
    """The scores of all scans; where they are too many, about `MAX_SCORES` of them.

    Those kept part the voxels of normal body and those of lesions evenly, and
    the upper tails of both by powers of ten: there a small lesion is told
    from the rest of a body.
    """
    pooled = np.concatenate([scan.scores for scan in scans])
    scores, place = np.unique(pooled, return_inverse=True)
    if scores.size <= MAX_SCORES:
        return scores
    part = MAX_SCORES // 4
    tail = 1.0 - np.logspace(np.log10(0.5), np.log10(FINEST_SHARE), part)
    levels = np.concatenate([np.linspace(0.0, 1.0, part), tail])
    kept = [np.array([0])]
    for counts in ([scan.normal for scan in scans], [scan.lesion for scan in scans]):
        reached = np.cumsum(np.bincount(place, weights=np.concatenate(counts)))
        if reached[-1]:
            kept.append(np.searchsorted(reached / reached[-1], levels))
    return np.asarray(scores[np.unique(np.minimum(np.concatenate(kept), scores.size - 1))])


@dataclass(frozen=True, eq=False, kw_only=True)
class Tally:
    """Voxels by score of one scan or of many, and how many lesions there are.

    Scores are told by their rank. Rank 0 is that of lesion voxels outside the
    body, below every score.
    """

    normal: Float[np.ndarray, " m"]
    lesion: Float[np.ndarray, " m"]
    overlap: Float[np.ndarray, " m"]
    lesions: float


@dataclass(frozen=True, eq=False, kw_only=True)
class PooledCounts:
    """The counts of several scans over one grid of scores."""

    scores: Float[np.ndarray, " m"]
    """The score of rank 1, 2, …"""
    normal: Float[np.ndarray, "n ranks"]
    lesion: Float[np.ndarray, "n ranks"]
    overlap: Float[np.ndarray, "n ranks"]
    exact: bool
    """Whether all distinct scores were kept."""

    @classmethod
    def of(cls, scans: Sequence[ScoreCounts]) -> "PooledCounts":
        """The counts of these scans, one row each."""
        grid = _grid(scans)
        on_grid = [scan.on(grid) for scan in scans]
        return cls(
            scores=grid,
            normal=np.stack([np.append(0.0, one.normal) for one in on_grid]),
            lesion=np.stack([np.append(one.missed, one.lesion) for one in on_grid]),
            overlap=np.stack([np.append(one.missed_overlap, one.overlap) for one in on_grid]),
            exact=all(one.exact for one in on_grid),
        )

    def tally(self, weights: Float[np.ndarray, " n"]) -> Tally:
        """The sum over scans, each as often as its weight says."""
        overlap = weights @ self.overlap
        return Tally(
            normal=weights @ self.normal,
            lesion=weights @ self.lesion,
            overlap=overlap,
            lesions=float(overlap.sum()),
        )
