"""From an NLL volume to findings: connected, large enough, ranked."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt16
from scipy import ndimage

from .calibration import Calibration
from .errors import InputError
from .geometry import voxel_ml

MAX_FINDINGS = np.iinfo(np.uint16).max
"""As many as the label map has numbers."""

CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)
"""Voxels that share a face, an edge or a corner belong together."""

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
    regions, count = ndimage.label(nll >= threshold_nll, structure=CONNECTIVITY)
    labels = np.zeros(nll.shape, dtype=np.uint16)
    if count == 0:
        return [], labels
    ml = voxel_ml(ras_from_voxel)
    sizes = np.zeros(count + 1, dtype=np.int64)
    for one_slice in regions:  # of all at once, `bincount` would make a copy in int64
        counts = np.bincount(one_slice.ravel())
        sizes[: counts.size] += counts
    boxes = ndimage.find_objects(regions)
    kept = []
    for region, box in enumerate(boxes, start=1):
        if sizes[region] * ml < min_volume_ml * (1 - VOLUME_TOLERANCE):
            continue
        inside = regions[box] == region
        kept.append((float(nll[box][inside].max()), region, box))
    if len(kept) > MAX_FINDINGS:
        raise InputError(
            "too-many-findings",
            f"Expected at most {MAX_FINDINGS} findings; found {len(kept)}.",
            "Lower the false-positive rate or raise the least volume.",
        )
    kept.sort(key=lambda one: (-one[0], one[1]))
    findings = []
    for rank, (peak, region, box) in enumerate(kept, start=1):
        inside = regions[box] == region
        labels[box][inside] = rank
        start = np.array([side.start for side in box], dtype=float)
        places = np.argwhere(inside)
        values = nll[box][inside].astype(np.float64)
        findings.append(
            Finding(
                rank=rank,
                volume_ml=float(sizes[region] * ml),
                peak_nll=peak,
                mean_nll=float(values.mean()),
                centroid_ras=_ras(ras_from_voxel, start + places.mean(axis=0)),
                peak_ras=_ras(ras_from_voxel, start + places[int(values.argmax())]),
                p_value=calibration.p_value(peak),
                voxels=int(sizes[region]),
            )
        )
    return findings, labels
