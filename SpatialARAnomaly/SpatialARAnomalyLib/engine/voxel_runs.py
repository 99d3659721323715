"""Connected regions of a mask, from the runs of voxels along its rows.

A mask of 80 million voxels has few that are set, or long runs of them; so
regions are found among runs, which is many times faster than labeling voxels
and takes little memory.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# Rows that come later in raster order and touch a row: (slices on, rows on).
#
#         j−1  j  j+1
#    k     ·   ·   ×
#    k+1   ×   ×   ×
_LATER_ROWS = ((0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True, eq=False)
class VoxelRuns:
    """Voxels that follow each other along i, in raster order."""

    k: Int[np.ndarray, " n"]
    j: Int[np.ndarray, " n"]
    first: Int[np.ndarray, " n"]
    """First i."""
    end: Int[np.ndarray, " n"]
    """Last i and one."""

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Voxels of every run."""
        return np.asarray(self.end - self.first)

    def __getitem__(self, chosen: Int[np.ndarray, " m"]) -> "VoxelRuns":
        return VoxelRuns(self.k[chosen], self.j[chosen], self.first[chosen], self.end[chosen])

    @classmethod
    def reaching(cls, values: Float[np.ndarray, "k j i"], threshold: float) -> "VoxelRuns":
        """The runs of voxels whose value is at least the threshold."""
        slices, rows, columns = values.shape
        # One voxel that is not set before the first row and after each keeps
        # runs from going on in the next row.
        width = columns + 1
        padded = np.zeros(1 + slices * rows * width, dtype=bool)
        inside = padded[1:].reshape(slices, rows, width)[..., :columns]
        np.greater_equal(values, threshold, out=inside)
        edges = np.flatnonzero(padded[1:] != padded[:-1])
        row, first = np.divmod(edges[::2], width)
        k, j = np.divmod(row, rows)
        return cls(k, j, first, first + (edges[1::2] - edges[::2]))

    def regions(self, shape_kji: tuple[int, ...]) -> Int[np.ndarray, " n"]:
        """The region of every run, from 0 in raster order of the regions' first voxels.

        Voxels that share a face, an edge or a corner belong together.
        """
        _, rows, columns = shape_kji
        width = columns + 1
        starts = (self.k * rows + self.j) * width + self.first
        ends = starts + self.lengths
        pairs = []
        for slices_on, rows_on in _LATER_ROWS:
            asking = np.flatnonzero((self.j + rows_on >= 0) & (self.j + rows_on < rows))
            shift = (slices_on * rows + rows_on) * width
            # Runs of that row which overlap this one or end beside it are neighbors in order.
            low = np.searchsorted(ends, starts[asking] + (shift - 1), side="right")
            high = np.searchsorted(starts, ends[asking] + (shift + 1), side="left")
            counts = high - low
            begin = np.repeat(np.cumsum(counts) - counts, counts)
            touching = np.arange(counts.sum()) - begin + np.repeat(low, counts)
            pairs.append((np.repeat(asking, counts), touching))
        one = np.concatenate([pair[0] for pair in pairs])
        other = np.concatenate([pair[1] for pair in pairs])
        graph = coo_array((np.ones(one.size, dtype=bool), (one, other)), shape=(starts.size,) * 2)
        _, component = connected_components(graph, directed=False)
        _, first_run, region = np.unique(component, return_index=True, return_inverse=True)
        order = np.empty_like(first_run)
        order[np.argsort(first_run)] = np.arange(first_run.size)
        return np.asarray(order[region])

    def in_box(
        self, start_kji: tuple[int, int, int], size_kji: tuple[int, int, int]
    ) -> list[tuple[int, int]]:
        """First and end of every run among the raveled voxels of a box that holds it."""
        _, rows, columns = size_kji
        row = (self.k - start_kji[0]) * rows + self.j - start_kji[1]
        begin = row * columns + self.first - start_kji[2]
        return list(zip(begin.tolist(), (begin + self.lengths).tolist(), strict=True))
