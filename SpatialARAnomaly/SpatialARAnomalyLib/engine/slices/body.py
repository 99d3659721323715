"""The body mask, which excludes air from results and statistics."""

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage
from skimage.filters import threshold_otsu

from SpatialARAnomalyLib.engine.specs import Modality

COARSE_MM = 3.0
"""Approximate size of the blocks on which the mask is computed."""

CT_BODY_HU = -300.0
"""CT: threshold between lung and soft tissue; lungs are filled as holes."""

TISSUE_SHARE = 0.2
"""MR: threshold of tissue, as a share of the way from the dark to the bright class's mean."""

AIR_SHARE = 0.08
"""MR: largest value of noise in air, as a share of bright tissue."""

CLOSING_MM = 6.0
"""Half the width of the widest gap that is closed (skull, sulci)."""

MAX_REACH = 64
"""Largest radius of a ball in blocks; blocks are smaller than `COARSE_MM` in tiny scans only."""

MIN_SHARE = 0.02
"""Smallest share of the volume that is a body; otherwise the whole volume is the mask."""

MIN_COMPONENT = 0.1
"""Size of the smallest component kept, as a share of the largest (table, noise)."""


def body_mask(
    voxels: Num[np.ndarray, "n r c"],
    spacing_mm: tuple[float, float, float],
    modality: Modality,
) -> Bool[np.ndarray, "n r c"]:
    """Return the voxels of the patient, with a rim of one block (about 3 mm), holes filled.

    `voxels` are [slice, row, column], `spacing_mm` in the same order. A volume without air
    (a cropped one) is all body.
    """
    blocks = tuple(
        max(1, min(size, round(COARSE_MM / mm)))
        for size, mm in zip(voxels.shape, spacing_mm, strict=True)
    )
    coarse = block_mean(voxels, blocks)
    threshold = CT_BODY_HU if modality is Modality.CT else _tissue_threshold(coarse)
    coarse_mm = [mm * block for mm, block in zip(spacing_mm, blocks, strict=True)]
    mask = _solid(coarse > threshold, coarse_mm)
    if mask.mean() < MIN_SHARE:
        mask[:] = True
    for axis, block in enumerate(blocks):
        mask = np.repeat(mask, block, axis=axis)
    n, r, c = voxels.shape
    return mask[:n, :r, :c]


def body_box(mask: Bool[np.ndarray, "n r c"]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return first and last row, first and last column of the body over all slices."""
    rows = np.flatnonzero(mask.any(axis=(0, 2)))
    columns = np.flatnonzero(mask.any(axis=(0, 1)))
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))


def _tissue_threshold(coarse: Float[np.ndarray, "N R C"]) -> float:
    """Return a value between air and the darkest tissue of an MR scan.

    Otsu's threshold may separate dark tissue from bright instead, or lie at the edge of the
    air's noise, so only the means of its two classes are used.
    """
    low, high = np.percentile(coarse, (0.0, 98.0))  # without a few very bright voxels
    if high <= low:
        return float(high)
    clipped = np.clip(coarse, low, high)
    bright = clipped > threshold_otsu(clipped.ravel())  # flat: it may take a 3-D array for colors
    dark_mean, bright_mean = clipped[~bright].mean(), clipped[bright].mean()
    if np.percentile(coarse, 2.0) > AIR_SHARE * bright_mean:
        return -np.inf  # nothing is as dark as air: a cropped scan is all body
    return float(dark_mean + TISSUE_SHARE * (bright_mean - dark_mean))


def block_mean(
    voxels: Num[np.ndarray, "n r c"], blocks: tuple[int, ...]
) -> Float[np.ndarray, "N R C"]:
    """Return the means of blocks; the last block of an axis may be smaller."""
    mean: Num[np.ndarray, "_ _ _"] = voxels
    # Columns shrink most; first, so that the volume is never copied whole.
    for axis in (2, 1, 0):
        size = voxels.shape[axis]
        starts = np.arange(0, size, blocks[axis])
        counts = np.diff(np.append(starts, size)).astype(np.float32)
        total = np.add.reduceat(mean, starts, axis=axis, dtype=np.float32)
        mean = total / np.expand_dims(counts, [other for other in range(3) if other != axis])
    return np.asarray(mean, dtype=np.float32)


def _ball(radius_mm: float, spacing_mm: list[float]) -> Bool[np.ndarray, "a b c"]:
    reach = [min(int(radius_mm / mm), MAX_REACH) for mm in spacing_mm]
    grid = np.meshgrid(
        *(np.arange(-n, n + 1) * mm for n, mm in zip(reach, spacing_mm, strict=True)),
        indexing="ij",
    )
    return np.asarray(sum(axis**2 for axis in grid) <= radius_mm**2)


def _solid(bright: Bool[np.ndarray, "N R C"], spacing_mm: list[float]) -> Bool[np.ndarray, "N R C"]:
    """Close the large components, fill holes slice by slice, and grow by one voxel."""
    ball = _ball(CLOSING_MM, spacing_mm)
    margin = max(ball.shape)
    closed = ndimage.binary_closing(np.pad(bright, margin), ball)[
        margin:-margin, margin:-margin, margin:-margin
    ]
    labels, count = ndimage.label(closed)
    if count == 0:
        return np.zeros_like(bright)
    sizes = np.bincount(labels.ravel())[1:]
    kept = np.flatnonzero(sizes >= MIN_COMPONENT * sizes.max()) + 1
    mask = np.isin(labels, kept)
    for one_slice in mask:
        one_slice[:] = ndimage.binary_fill_holes(one_slice)
    return np.asarray(ndimage.binary_dilation(mask), dtype=bool)
