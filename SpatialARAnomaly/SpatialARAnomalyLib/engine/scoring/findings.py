"""Findings of an NLL volume: connected components above a threshold, measured and ranked.

Findings are ranked, and compared with those of normal scans, by their *strength*: the excess
of the NLL over the threshold, summed over the volume (the cluster mass of functional imaging,
Bullmore et al. 1999). A small, bright vessel has a high peak, but little of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, UInt16
from scipy.sparse import coo_array

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.geometry import voxel_ml


@dataclass(frozen=True, eq=False)
class LabelBox:
    """The box of a label map that contains all of its labels."""

    labels: UInt16[np.ndarray, "k j i"]
    start_kji: tuple[int, int, int]
    """Index of the box's first voxel in the label map."""

    def on_grid(self, size_kji: tuple[int, ...]) -> UInt16[np.ndarray, "K J I"]:
        """Return the whole label map, which is zero outside the box."""
        whole = np.zeros(size_kji, dtype=np.uint16)
        (k, j, i), (depth, height, width) = self.start_kji, self.labels.shape
        whole[k : k + depth, j : j + height, i : i + width] = self.labels
        return whole


# The rows (×) later in raster order that touch a row (·), as (slice offset, row offset):
#
#         j−1  j  j+1
#    k     ·   ·   ×
#    k+1   ×   ×   ×
_LATER_ROWS = ((0, 1), (1, -1), (1, 0), (1, 1))


@dataclass(frozen=True, eq=False)
class VoxelRuns:
    """Runs of adjacent voxels along i, in raster order."""

    k: Int[np.ndarray, " n"]
    j: Int[np.ndarray, " n"]
    first: Int[np.ndarray, " n"]
    """First i of every run."""
    end: Int[np.ndarray, " n"]
    """Last i of every run plus one."""

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        """Number of voxels of every run."""
        return np.asarray(self.end - self.first)

    def __getitem__(self, chosen: Int[np.ndarray, " m"]) -> "VoxelRuns":
        return VoxelRuns(self.k[chosen], self.j[chosen], self.first[chosen], self.end[chosen])

    @classmethod
    def at_least(cls, values: Float[np.ndarray, "k j i"], threshold: float) -> "VoxelRuns":
        """Return the runs of voxels whose value is at least the threshold."""
        slices, rows, columns = values.shape
        # An unset voxel before the first row and after every row ends the runs there.
        width = columns + 1
        padded = np.zeros(1 + slices * rows * width, dtype=bool)
        inside = padded[1:].reshape(slices, rows, width)[..., :columns]
        np.greater_equal(values, threshold, out=inside)
        edges = np.flatnonzero(padded[1:] != padded[:-1])
        row, first = np.divmod(edges[::2], width)
        k, j = np.divmod(row, rows)
        return cls(k, j, first, first + (edges[1::2] - edges[::2]))

    def regions(self, shape_kji: tuple[int, ...]) -> Int[np.ndarray, " n"]:
        """Return the connected component of every run, from 0 in order of their first voxels.

        Voxels that share a face, an edge or a corner are connected.
        """
        _, rows, columns = shape_kji
        width = columns + 1
        starts = (self.k * rows + self.j) * width + self.first
        ends = starts + self.lengths
        pairs = []
        for slice_offset, row_offset in _LATER_ROWS:
            run = np.flatnonzero((self.j + row_offset >= 0) & (self.j + row_offset < rows))
            shift = (slice_offset * rows + row_offset) * width
            # The runs of the later row that touch a run are consecutive: low, …, high - 1.
            low = np.searchsorted(ends, starts[run] + (shift - 1), side="right")
            high = np.searchsorted(starts, ends[run] + (shift + 1), side="left")
            counts = high - low
            begin = np.repeat(np.cumsum(counts) - counts, counts)
            touching = np.arange(counts.sum()) - begin + np.repeat(low, counts)
            pairs.append(np.stack([np.repeat(run, counts), touching]))
        edges = np.concatenate(pairs, axis=1)
        graph = coo_array((np.ones(edges.shape[1], dtype=bool), edges), shape=(starts.size,) * 2)
        # Here, so that the first slices are not kept waiting for it.
        from scipy.sparse.csgraph import connected_components

        _, component = connected_components(graph, directed=False)
        _, first_run, region = np.unique(component, return_index=True, return_inverse=True)
        order = np.empty_like(first_run)
        order[np.argsort(first_run)] = np.arange(first_run.size)
        return np.asarray(order[region])

    def in_box(
        self, start_kji: tuple[int, int, int], size_kji: tuple[int, ...]
    ) -> list[tuple[int, int]]:
        """Return first and end of every run in the raveled voxels of a box around all runs."""
        _, rows, columns = size_kji
        row = (self.k - start_kji[0]) * rows + self.j - start_kji[1]
        begin = row * columns + self.first - start_kji[2]
        return list(zip(begin.tolist(), (begin + self.lengths).tolist(), strict=True))


MAX_FINDINGS = np.iinfo(np.uint16).max
"""Number of labels of a label map."""

VOLUME_TOLERANCE = 1e-6
"""Share by which a finding may be smaller than the smallest volume, so that the rounding
of an oblique affine does not drop a finding of exactly that volume."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A connected component of voxels that reach the threshold."""

    rank: int
    """Number from 1 by falling strength; also the finding's value in the label map."""
    per_normal_scan: float | None
    """Findings in a normal scan that are as strong or stronger (`FindingCounts.expected`);
    None if the calibration has no findings."""
    strength: float
    """Excess of the NLL over the threshold, summed over the volume: nats per channel × mL."""
    volume_ml: float
    peak_nll: float
    """Highest NLL in nats per channel."""
    mean_nll: float
    """Mean NLL in nats per channel."""
    centroid_ras: tuple[float, float, float]
    """Mean position of the voxels in mm."""
    peak_ras: tuple[float, float, float]
    """Position of the voxel with the highest NLL in mm."""
    peak_ijk: tuple[int, int, int]
    """Index of the voxel with the highest NLL."""
    peak_p_value: float
    """Probability that a place in normal body reaches the peak (`Calibration.p_value`)."""
    voxels: int


def find_in_box(
    nll: Float[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    calibration: Calibration,
    threshold_nll: float,
    min_volume_ml: float,
) -> tuple[list[Finding], LabelBox | None]:
    """Find the findings by falling strength, and the box of their label map (value = rank).

    The box is None without findings.
    """
    nll = np.ascontiguousarray(nll)
    ml = voxel_ml(ras_from_voxel)
    regions = _large_regions(nll, threshold_nll, min_volume_ml * (1 - VOLUME_TOLERANCE) / ml)
    if not regions:
        return [], None
    measured = [
        (_measure(nll, runs, ras_from_voxel, ml, calibration, threshold_nll), runs)
        for runs in regions
    ]
    measured.sort(key=lambda one: -one[0].strength)  # stable: equal ones stay in raster order
    counts, rate = calibration.findings, calibration.rate(threshold_nll)
    findings = [
        replace(
            one,
            rank=rank,
            per_normal_scan=None if counts is None else counts.expected(one.strength, rate),
        )
        for rank, (one, _) in enumerate(measured, start=1)
    ]
    return findings, _label([runs for _, runs in measured])


def find_strengths(
    nll: Float[np.ndarray, "k j i"], ml: float, threshold_nll: float
) -> Float[np.ndarray, " n"]:
    """Return the strength of every component of voxels of `ml` milliliters, of any volume."""
    runs = VoxelRuns.at_least(nll, threshold_nll)
    if not runs.lengths.size:
        return np.empty(0)
    return sum_excess(nll, runs, runs.regions(nll.shape), threshold_nll) * ml


def sum_excess(
    nll: Float[np.ndarray, "k j i"],
    runs: VoxelRuns,
    region_of: Int[np.ndarray, " n"],
    threshold_nll: float,
) -> Float[np.ndarray, " c"]:
    """Return the excess of each component (`region_of`, by run), summed over its voxels."""
    # Runs are in raster order, and so are their voxels.
    excess = nll[nll >= threshold_nll].astype(np.float64) - threshold_nll
    sums = np.add.reduceat(excess, np.cumsum(runs.lengths) - runs.lengths)
    return np.bincount(region_of, weights=sums)


def _large_regions(
    nll: Float[np.ndarray, "k j i"], threshold_nll: float, min_voxels: float
) -> list[VoxelRuns]:
    """Return the components that reach the threshold and are large enough, by first voxel."""
    runs = VoxelRuns.at_least(nll, threshold_nll)
    region_of = runs.regions(nll.shape)
    sizes = np.bincount(region_of, weights=runs.lengths)
    kept = np.flatnonzero(sizes >= min_voxels)
    if kept.size > MAX_FINDINGS:
        raise InputError(
            "too-many-findings", f"Expected at most {MAX_FINDINGS} findings; found {kept.size}."
        )
    if not kept.size:
        return []
    chosen = np.flatnonzero(np.isin(region_of, kept))
    chosen = chosen[np.argsort(region_of[chosen], kind="stable")]
    borders = np.flatnonzero(np.diff(region_of[chosen])) + 1
    return [runs[part] for part in np.split(chosen, borders)]


def _measure(
    nll: Float[np.ndarray, "k j i"],
    runs: VoxelRuns,
    ras_from_voxel: Float[np.ndarray, "4 4"],
    ml: float,
    calibration: Calibration,
    threshold_nll: float,
) -> Finding:
    """Measure one component of voxels of `ml` milliliters; it has no rank yet (0)."""
    flat = nll.ravel()
    values = np.concatenate([flat[first:end] for first, end in runs.in_box((0, 0, 0), nll.shape)])
    lengths = runs.lengths
    # The first voxel with the highest NLL, and its run.
    place = int(values.argmax())
    ends = np.cumsum(lengths)
    run = int(np.searchsorted(ends, place, side="right"))
    peak = (int(runs.end[run] - (ends[run] - place)), int(runs.j[run]), int(runs.k[run]))
    # Sums of whole and half numbers: exact.
    sums = [(runs.first + runs.end - 1) @ lengths / 2, runs.j @ lengths, runs.k @ lengths]

    def ras(ijk: Sequence[float]) -> tuple[float, float, float]:
        right, anterior, superior = (ras_from_voxel @ [*ijk, 1.0])[:3].tolist()
        return right, anterior, superior

    return Finding(
        rank=0,
        per_normal_scan=None,
        strength=float((values.astype(np.float64) - threshold_nll).sum()) * ml,
        volume_ml=values.size * ml,
        peak_nll=float(values[place]),
        mean_nll=float(values.mean(dtype=np.float64)),
        centroid_ras=ras([total / values.size for total in sums]),
        peak_ras=ras(peak),
        peak_ijk=peak,
        peak_p_value=calibration.p_value(float(values[place])),
        voxels=values.size,
    )


def _label(regions: list[VoxelRuns]) -> LabelBox:
    """Return the box around all components, each labeled by its number in the list (from 1)."""
    low = np.min([[one.k.min(), one.j.min(), one.first.min()] for one in regions], axis=0)
    high = np.max([[one.k.max() + 1, one.j.max() + 1, one.end.max()] for one in regions], axis=0)
    k, j, i = low.tolist()
    depth, height, width = (high - low).tolist()
    labels = np.zeros(depth * height * width, dtype=np.uint16)
    for rank, runs in enumerate(regions, start=1):
        for first, end in runs.in_box((k, j, i), (depth, height, width)):
            labels[first:end] = rank
    return LabelBox(labels.reshape(depth, height, width), (k, j, i))
