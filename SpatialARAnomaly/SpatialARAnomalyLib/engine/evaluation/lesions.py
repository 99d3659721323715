"""The lesions of a ground truth, and which of them a search at a threshold finds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from SpatialARAnomalyLib.engine.scoring.findings import VOLUME_TOLERANCE, VoxelRuns
from SpatialARAnomalyLib.engine.volumes.geometry import voxel_ml


@dataclass(frozen=True, eq=False)
class Lesions:
    """The lesions of one scan: voxels of the truth that share a face, an edge or a corner."""

    voxels: Int[np.ndarray, " n"]
    """Places of the voxels among the raveled voxels of the scan, ascending."""
    lesion: Int[np.ndarray, " n"]
    """The lesion of every voxel, from 0."""
    sizes: Int[np.ndarray, " l"]
    """Voxels of every lesion."""

    @classmethod
    def of(cls, truth: Bool[np.ndarray, "k j i"]) -> "Lesions":
        """The lesions of a truth."""
        runs = VoxelRuns.reaching(truth.astype(np.float32), 0.5)
        # Runs are in raster order, and so are their voxels.
        lesion = np.repeat(runs.regions(truth.shape), runs.lengths)
        return cls(np.flatnonzero(truth), lesion, np.bincount(lesion))

    @property
    def count(self) -> int:
        """How many there are."""
        return self.sizes.size


@dataclass(frozen=True, eq=False)
class Search:
    """What was found in one scan at every threshold of a search.

    A finding is a connected region whose every voxel reaches the threshold and
    that is large enough, as `findings.find` has it. A lesion is found if a
    finding holds any of its voxels; a finding is false if it holds no voxel of
    a lesion. So one finding may find two lesions, and of two findings in one
    lesion none is false.
    """

    found: Int[np.ndarray, " t"]
    """Lesions found."""
    false_findings: Int[np.ndarray, " t"]


def search(
    scores: Float[np.ndarray, "k j i"],
    lesions: Lesions,
    thresholds: Sequence[float],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    min_volume_ml: float,
) -> Search:
    """Look for the lesions at every threshold; where nothing is to be found, scores are −∞."""
    min_voxels = min_volume_ml * (1 - VOLUME_TOLERANCE) / voxel_ml(ras_from_voxel)
    points = [_search_at(scores, lesions, threshold, min_voxels) for threshold in thresholds]
    found, false_findings = np.array(points, dtype=np.int64).reshape(-1, 2).T
    return Search(found, false_findings)


def _search_at(
    scores: Float[np.ndarray, "k j i"], lesions: Lesions, threshold: float, min_voxels: float
) -> tuple[int, int]:
    """Lesions found and false findings."""
    runs = VoxelRuns.reaching(scores, threshold)
    if not runs.lengths.size:
        return 0, 0
    region_of = runs.regions(scores.shape)
    large = np.bincount(region_of, weights=runs.lengths) >= min_voxels
    _, rows, columns = scores.shape
    starts = (runs.k * rows + runs.j) * columns + runs.first
    run = np.searchsorted(starts, lesions.voxels, side="right") - 1
    inside = (run >= 0) & (lesions.voxels < (starts + runs.lengths)[run])
    region = region_of[run[inside]]
    found = np.unique(lesions.lesion[inside][large[region]]).size
    true_findings = np.unique(region[large[region]]).size
    return found, int(np.count_nonzero(large)) - true_findings
