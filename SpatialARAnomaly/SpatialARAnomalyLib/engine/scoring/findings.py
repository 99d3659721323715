"""From an NLL volume to findings: connected, large enough, ranked."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt16
from scipy.sparse import coo_array

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.geometry import voxel_ml


@dataclass(frozen=True, eq=False)
class LabelBox:
    """The part of a label map that holds all of its labels."""

    labels: UInt16[np.ndarray, "k j i"]
    start_kji: tuple[int, int, int]
    """Where the part begins in the whole."""

    def on_grid(self, size_kji: tuple[int, ...]) -> UInt16[np.ndarray, "K J I"]:
        """The whole label map, zero outside the part."""
        whole = np.zeros(size_kji, dtype=np.uint16)
        place = tuple(
            slice(start, start + size)
            for start, size in zip(self.start_kji, self.labels.shape, strict=True)
        )
        whole[place] = self.labels
        return whole


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
    def at_least(cls, values: Float[np.ndarray, "k j i"], threshold: float) -> "VoxelRuns":
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
        # Here, so that the first slices are not kept waiting for it.
        from scipy.sparse.csgraph import connected_components

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


MAX_FINDINGS = np.iinfo(np.uint16).max
"""As many as the label map has numbers."""

VOLUME_TOLERANCE = 1e-6
"""Share by which a region may fall short of the least volume: the rounding of an
oblique affine must not drop a region of exactly that volume."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A connected region whose every voxel reaches the threshold, ranked by peak NLL."""

    rank: int
    """From 1, by peak NLL; also the finding's value in the label map."""
    volume_ml: float
    peak_nll: float
    """Nats per channel."""
    mean_nll: float
    centroid_ras: tuple[float, float, float]
    """Mean position of its voxels, mm."""
    peak_ras: tuple[float, float, float]
    """Position of the voxel with the highest NLL, mm."""
    peak_ijk: tuple[int, int, int]
    """That voxel."""
    p_value: float
    """How likely a place in normal body reaches the peak (`Calibration.p_value`)."""
    voxels: int


def _ras(
    ras_from_voxel: Float[np.ndarray, "4 4"], kji: Float[np.ndarray, " 3"]
) -> tuple[float, float, float]:
    right, anterior, superior = (ras_from_voxel @ np.append(kji[::-1], 1.0))[:3].tolist()
    return right, anterior, superior


def find(
    nll: Float[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    calibration: Calibration,
    threshold_nll: float,
    min_volume_ml: float,
) -> tuple[list[Finding], UInt16[np.ndarray, "k j i"]]:
    """The findings by falling peak NLL, and their label map (value = rank)."""
    findings, box = find_in_box(nll, ras_from_voxel, calibration, threshold_nll, min_volume_ml)
    if box is None:
        return findings, np.zeros(nll.shape, dtype=np.uint16)
    return findings, box.on_grid(nll.shape)


def find_in_box(
    nll: Float[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    calibration: Calibration,
    threshold_nll: float,
    min_volume_ml: float,
) -> tuple[list[Finding], LabelBox | None]:
    """The findings by falling peak NLL, and the part of their label map that holds them all.

    Without findings there is no such part.
    """
    nll = np.ascontiguousarray(nll)
    ml = voxel_ml(ras_from_voxel)
    regions = _large_regions(nll, threshold_nll, min_volume_ml * (1 - VOLUME_TOLERANCE) / ml)
    if not regions:
        return [], None
    measured = [(_measure(nll, runs), runs) for runs in regions]
    measured.sort(key=lambda one: -one[0].peak_nll)  # of equal peaks the first in place leads
    findings = [
        Finding(
            rank=rank,
            volume_ml=region.voxels * ml,
            peak_nll=region.peak_nll,
            mean_nll=region.mean_nll,
            centroid_ras=_ras(ras_from_voxel, region.centroid_kji),
            peak_ras=_ras(ras_from_voxel, np.array(region.peak_kji, dtype=float)),
            peak_ijk=region.peak_kji[::-1],
            p_value=calibration.p_value(region.peak_nll),
            voxels=region.voxels,
        )
        for rank, (region, _) in enumerate(measured, start=1)
    ]
    return findings, _label([runs for _, runs in measured])


def _large_regions(
    nll: Float[np.ndarray, "k j i"], threshold_nll: float, min_voxels: float
) -> list[VoxelRuns]:
    """The regions that reach the threshold and are large enough, by first voxel."""
    runs = VoxelRuns.at_least(nll, threshold_nll)
    region_of = runs.regions(nll.shape)
    # Sums of lengths are exact in double precision.
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


@dataclass(frozen=True, eq=False)
class _Region:
    """What is measured of a region, in voxels."""

    voxels: int
    peak_nll: float
    mean_nll: float
    centroid_kji: Float[np.ndarray, " 3"]
    peak_kji: tuple[int, int, int]


def _measure(nll: Float[np.ndarray, "k j i"], runs: VoxelRuns) -> _Region:
    whole = (nll.shape[0], nll.shape[1], nll.shape[2])
    flat = nll.ravel()
    values = np.concatenate([flat[first:end] for first, end in runs.in_box((0, 0, 0), whole)])
    lengths = runs.lengths
    # The first of the voxels with the highest NLL, and the run that it is in.
    place = int(values.argmax())
    ends = np.cumsum(lengths)
    run = int(np.searchsorted(ends, place, side="right"))
    peak_i = int(runs.end[run] - (ends[run] - place))
    # Sums of places are whole or half numbers: exact.
    sums = [runs.k @ lengths, runs.j @ lengths, (runs.first + runs.end - 1) @ lengths / 2]
    return _Region(
        voxels=int(ends[-1]),
        peak_nll=float(values[place]),
        mean_nll=float(values.mean(dtype=np.float64)),
        centroid_kji=np.array(sums, dtype=float) / values.size,
        peak_kji=(int(runs.k[run]), int(runs.j[run]), peak_i),
    )


def _label(regions: list[VoxelRuns]) -> LabelBox:
    """The box of all regions, each labeled by its place in the list (from 1)."""
    low = np.min([[one.k.min(), one.j.min(), one.first.min()] for one in regions], axis=0)
    high = np.max([[one.k.max() + 1, one.j.max() + 1, one.end.max()] for one in regions], axis=0)
    k, j, i = low.tolist()
    depth, height, width = (high - low).tolist()
    labels = np.zeros(depth * height * width, dtype=np.uint16)
    for rank, runs in enumerate(regions, start=1):
        for first, end in runs.in_box((k, j, i), (depth, height, width)):
            labels[first:end] = rank
    return LabelBox(labels.reshape(depth, height, width), (k, j, i))
