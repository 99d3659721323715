"""Lesions of a ground truth, and how many of them are found at a threshold."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from SpatialARAnomalyLib.engine.scoring.findings import VOLUME_TOLERANCE, VoxelRuns, sum_excess
from SpatialARAnomalyLib.engine.volumes.geometry import voxel_ml


@dataclass(frozen=True, eq=False)
class Lesions:
    """Lesions of one scan: components of the truth connected by faces, edges or corners."""

    voxels: Int[np.ndarray, " n"]
    """Ascending indices of the lesions' voxels in the raveled scan."""
    lesion: Int[np.ndarray, " n"]
    """Number of the lesion of every voxel, from 0."""
    sizes: Int[np.ndarray, " l"]
    """Number of voxels of every lesion."""

    @classmethod
    def of(cls, truth: Bool[np.ndarray, "k j i"]) -> "Lesions":
        """Find the lesions of a ground truth."""
        runs = VoxelRuns.at_least(truth.astype(np.float32), 0.5)
        # Runs are in raster order, and so are their voxels.
        lesion = np.repeat(runs.regions(truth.shape), runs.lengths)
        return cls(np.flatnonzero(truth), lesion, np.bincount(lesion))

    @property
    def count(self) -> int:
        """Number of lesions."""
        return self.sizes.size


def search(
    scores: Float[np.ndarray, "k j i"],
    lesions: Lesions,
    thresholds: Sequence[float],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    min_volume_ml: float,
) -> Int[np.ndarray, "2 t"]:
    """Count the lesions found and the false findings at every threshold.

    Findings are those of `scoring.findings`. A lesion is found if a finding holds any of its
    voxels; a finding is false if it holds no voxel of a lesion. So one finding may find two
    lesions, and two findings in one lesion are both true. Voxels that cannot be found have
    the score −∞.
    """
    min_voxels = min_volume_ml * (1 - VOLUME_TOLERANCE) / voxel_ml(ras_from_voxel)
    counts = np.zeros((2, len(thresholds)), dtype=np.int64)
    for index, threshold in enumerate(thresholds):
        runs = VoxelRuns.at_least(scores, threshold)
        if not runs.lengths.size:
            continue
        region_of = runs.regions(scores.shape)
        large = np.bincount(region_of, weights=runs.lengths) >= min_voxels
        inside, run = _runs_of(lesions, runs, scores.shape)
        region = region_of[run]
        true_findings = np.unique(region[large[region]]).size
        found = np.unique(lesions.lesion[inside][large[region]]).size
        counts[:, index] = found, np.count_nonzero(large) - true_findings
    return counts


def rank_of_lesion(
    scores: Float[np.ndarray, "k j i"],
    lesions: Lesions,
    threshold: float,
    ras_from_voxel: Float[np.ndarray, "4 4"],
    min_volume_ml: float,
) -> int:
    """Return the rank by strength of the first finding with a lesion's voxel; 0 without any."""
    runs = VoxelRuns.at_least(scores, threshold)
    if not runs.lengths.size:
        return 0
    region_of = runs.regions(scores.shape)
    min_voxels = min_volume_ml * (1 - VOLUME_TOLERANCE) / voxel_ml(ras_from_voxel)
    large = np.bincount(region_of, weights=runs.lengths) >= min_voxels
    strength = np.where(large, sum_excess(scores, runs, region_of, threshold), -1.0)
    _, run = _runs_of(lesions, runs, scores.shape)
    own = strength[region_of[run]].max(initial=-1.0)
    return 0 if own < 0 else 1 + int(np.count_nonzero(strength > own))


def _runs_of(
    lesions: Lesions, runs: VoxelRuns, shape_kji: tuple[int, ...]
) -> tuple[Bool[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Return which voxels of the lesions lie in a run, and the runs of these."""
    _, rows, columns = shape_kji
    starts = (runs.k * rows + runs.j) * columns + runs.first
    run = np.searchsorted(starts, lesions.voxels, side="right") - 1
    inside = (run >= 0) & (lesions.voxels < (starts + runs.lengths)[run])
    return inside, run[inside]
