"""Where the patient is: a mask that keeps air out of results and statistics."""

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage
from skimage.filters import threshold_otsu

from SpatialARAnomalyLib.engine.specs import Modality

COARSE_MM = 3.0
"""The mask is found on blocks of about this size: fine enough for a body, quick."""

CT_BODY_HU = -300.0
"""Between lung and soft tissue; the lungs themselves come back as holes."""

TISSUE_SHARE = 0.2
"""MR: tissue begins this part of the way from the dark to the bright class's mean."""

AIR_SHARE = 0.08
"""MR: noise in air stays below this share of bright tissue; dark tissue does not."""

CLOSING_MM = 6.0
"""Gaps narrower than twice this (skull, sulci) belong to the body."""

MIN_SHARE = 0.02
"""Less of the volume than this is not a body: the whole volume is taken instead."""

MIN_COMPONENT = 0.1
"""Parts smaller than this share of the largest (table, noise) are dropped."""


def body_mask(
    voxels: Num[np.ndarray, "n r c"],
    spacing_mm: tuple[float, float, float],
    modality: Modality,
) -> Bool[np.ndarray, "n r c"]:
    """The voxels of the patient, with a rim of a block (about 3 mm), holes filled.

    `voxels` are [slice, row, column] with `spacing_mm` in the same order. A
    volume without air (a cropped one) is body throughout.
    """
    blocks = tuple(
        max(1, min(size, round(COARSE_MM / mm)))
        for size, mm in zip(voxels.shape, spacing_mm, strict=True)
    )
    coarse = _block_mean(voxels, blocks)
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
    """First and last row, first and last column of the body over all slices."""
    rows = np.flatnonzero(mask.any(axis=(0, 2)))
    columns = np.flatnonzero(mask.any(axis=(0, 1)))
    return (int(rows[0]), int(rows[-1])), (int(columns[0]), int(columns[-1]))


def _tissue_threshold(coarse: Float[np.ndarray, "N R C"]) -> float:
    """A value between air and the darkest tissue of an MR scan.

    Otsu's threshold may part dark tissue from bright instead, or lie at the
    very rim of the air's noise; so only the means of its two classes are used.
    """
    low, high = np.percentile(coarse, (0.0, 98.0))  # a few very bright voxels must not count
    if high <= low:
        return float(high)
    clipped = np.clip(coarse, low, high)
    bright = clipped > threshold_otsu(clipped.ravel())  # in 3-D it may take it for colors
    dark_mean, bright_mean = clipped[~bright].mean(), clipped[bright].mean()
    if np.percentile(coarse, 2.0) > AIR_SHARE * bright_mean:
        return -np.inf  # nothing is as dark as air: a cropped scan is body throughout
    return float(dark_mean + TISSUE_SHARE * (bright_mean - dark_mean))


def _block_mean(
    voxels: Num[np.ndarray, "n r c"], blocks: tuple[int, ...]
) -> Float[np.ndarray, "N R C"]:
    """Means over blocks; the last block of an axis may be cut short."""
    mean: Num[np.ndarray, "_ _ _"] = voxels
    # Columns first: they shrink most, and the volume is never copied whole.
    for axis in (2, 1, 0):
        size = voxels.shape[axis]
        starts = np.arange(0, size, blocks[axis])
        counts = np.diff(np.append(starts, size)).astype(np.float32)
        total = np.add.reduceat(mean, starts, axis=axis, dtype=np.float32)
        mean = total / np.expand_dims(counts, [other for other in range(3) if other != axis])
    return np.asarray(mean, dtype=np.float32)


def _ball(radius_mm: float, spacing_mm: list[float]) -> Bool[np.ndarray, "a b c"]:
    reach = [int(radius_mm / mm) for mm in spacing_mm]
    grid = np.meshgrid(
        *(np.arange(-n, n + 1) * mm for n, mm in zip(reach, spacing_mm, strict=True)),
        indexing="ij",
    )
    return np.asarray(sum(axis**2 for axis in grid) <= radius_mm**2)


def _solid(bright: Bool[np.ndarray, "N R C"], spacing_mm: list[float]) -> Bool[np.ndarray, "N R C"]:
    """The large parts, closed, without holes in any slice, grown by one voxel."""
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
