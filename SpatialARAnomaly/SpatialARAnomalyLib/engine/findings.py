"""From an NLL volume to findings: connected, large enough, ranked."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt16

from .calibration import Calibration
from .errors import InputError
from .geometry import voxel_ml
from .label_box import LabelBox
from .voxel_runs import VoxelRuns

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
    runs = VoxelRuns.reaching(nll, threshold_nll)
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
