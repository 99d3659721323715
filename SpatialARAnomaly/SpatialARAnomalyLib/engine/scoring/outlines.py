"""Outlines of findings that follow the image, within one token of what the NLL gives.

An NLL has one value per token, so the outline of a finding is a token coarse. A watershed
(Beucher and Meyer 1993) on the gradient of the image places it at an edge instead: it floods
from the upper half of the finding's NLL, and from everything farther than one token. Of its
basin, the voxels whose intensity is nearer to the inside's median than to the outside's are
kept as far as they hang together with the finding.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage

from SpatialARAnomalyLib.engine.scoring.findings import Finding, LabelBox
from SpatialARAnomalyLib.engine.volumes.geometry import voxel_ml, voxel_spacing_mm

SMOOTHING_MM = 1.0
"""Standard deviation in mm of the Gaussian that smooths the image before its gradient."""

SURE_SHARE = 0.5
"""A voxel surely belongs to a finding where its NLL is this share of the way from the threshold
to the peak, or higher."""

LEAST_CONTRAST = 1.0
"""Difference of the medians inside and around, in standard deviations; with less there is no
edge to follow, and the raw outline stays."""

FEWEST_AROUND = 10
"""Fewest voxels around the outline to compare with."""

MAX_VOXELS = 100_000
"""Voxels of a finding's box at which the edge is sought; a larger box is thinned to fewer."""

MAX_BOX_VOXELS = 1 << 23
"""Voxels of the largest box; a larger finding is no lesion and keeps its raw outline."""

MAX_FINDINGS = 20
"""First findings, by rank, whose outlines are refined (each takes up to a tenth of a second)."""

Box = tuple[slice, slice, slice]


def refine_outlines(
    findings: list[Finding],
    box: LabelBox,
    nll: Float[np.ndarray, "k j i"],
    voxels: Num[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    threshold_nll: float,
    token_mm: float,
) -> tuple[list[Finding], LabelBox, int]:
    """Move the outlines of findings to edges of the image.

    Volume, voxels and centroid become those of the new outlines; rank, strength, peak and mean
    NLL stay those of the raw regions, which are the components of `nll` at `threshold_nll`.

    Args:
        findings: Findings in the order of their ranks.
        box: Their label map (value = rank).
        nll: NLL of every voxel.
        voxels: The scan.
        ras_from_voxel: Affine of the scan.
        threshold_nll: Threshold of the findings.
        token_mm: Side of a token in mm.

    Returns:
        The findings, their label map, and the number of outlines that were moved.
    """
    spacing_mm = np.array(voxel_spacing_mm(ras_from_voxel))[::-1]
    margin = np.ceil(token_mm / spacing_mm).astype(int) + 1
    start = np.maximum(0, np.array(box.start_kji) - margin)
    end = np.minimum(nll.shape, np.array(box.start_kji) + box.labels.shape + margin)
    place: Box = tuple(slice(*one) for one in zip(start, end, strict=True))  # type: ignore[assignment]
    raw = np.zeros(end - start, dtype=np.uint16)
    at = np.array(box.start_kji) - start
    raw[tuple(slice(a, a + n) for a, n in zip(at, box.labels.shape, strict=True))] = box.labels
    refined = raw.copy()
    lowest = nll.min()
    moved = []
    for finding, part in zip(findings, ndimage.find_objects(raw)[:MAX_FINDINGS], strict=False):
        around: Box = tuple(  # type: ignore[assignment]
            slice(max(0, one.start - reach), min(size, one.stop + reach))
            for one, reach, size in zip(part, margin, raw.shape, strict=True)
        )
        labels = refined[around]
        region = raw[around] == finding.rank
        # Voxels of other findings and of the background are not free to be taken.
        free = ((labels == 0) | region) & (nll[place][around] > lowest)
        outline = _find_outline(
            region, free, nll[place][around], voxels[place][around], spacing_mm, threshold_nll,
            token_mm,
        )  # fmt: skip
        if outline is None:
            continue
        labels[region] = 0
        labels[outline] = finding.rank
        corner = start + [one.start for one in around]
        moved.append(_measure_again(finding, outline, corner, ras_from_voxel))
    by_rank = {one.rank: one for one in moved}
    found = [by_rank.get(one.rank, one) for one in findings]
    k, j, i = start.tolist()
    return found, LabelBox(refined, (k, j, i)), len(moved)


def _measure_again(
    finding: Finding,
    outline: Bool[np.ndarray, "k j i"],
    corner: Num[np.ndarray, " 3"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
) -> Finding:
    inside = np.argwhere(outline)
    k, j, i = (inside.mean(axis=0) + corner).tolist()
    right, anterior, superior = (ras_from_voxel @ [i, j, k, 1.0])[:3].tolist()
    return replace(
        finding,
        voxels=len(inside),
        volume_ml=len(inside) * voxel_ml(ras_from_voxel),
        centroid_ras=(right, anterior, superior),
    )


def _find_outline(
    region: Bool[np.ndarray, "k j i"],
    free: Bool[np.ndarray, "k j i"],
    nll: Float[np.ndarray, "k j i"],
    voxels: Num[np.ndarray, "k j i"],
    spacing_mm: Float[np.ndarray, " 3"],
    threshold_nll: float,
    token_mm: float,
) -> Bool[np.ndarray, "k j i"] | None:
    """Return the voxels of one finding at edges of the image; None where there is no edge."""
    from skimage.segmentation import watershed

    if region.size > MAX_BOX_VOXELS:
        return None
    step = np.ones(3, dtype=int)
    while np.prod(-(-np.array(region.shape) // step)) > MAX_VOXELS:
        step[np.argmin(spacing_mm * step)] += 1
    thin = tuple(slice(one // 2, None, one) for one in step.tolist())
    thin_mm = spacing_mm * step
    raw = region[thin]
    if not raw.any():
        return None
    image = ndimage.gaussian_filter(voxels[thin].astype(np.float32), SMOOTHING_MM / thin_mm)
    peak = nll[region].max()
    sure = raw & (nll[thin] >= threshold_nll + SURE_SHARE * (peak - threshold_nll))
    near = (ndimage.distance_transform_edt(~raw, sampling=thin_mm) <= token_mm) & free[thin]
    if not sure.any() or near.all():
        return None
    slope = np.sqrt(sum(np.square(ndimage.sobel(image, a) / thin_mm[a]) for a in range(3)))
    inside = watershed(slope, np.where(sure, 1, np.where(near, 0, 2))) == 1
    values, around = image[inside], image[near & ~inside]
    if around.size < FEWEST_AROUND:
        return None
    level, level_around = np.median(values), np.median(around)
    spread = np.sqrt((values.var() + around.var()) / 2)
    if abs(level - level_around) <= LEAST_CONTRAST * spread:
        return None
    inside &= (image - (level + level_around) / 2) * (level - level_around) > 0
    parts, _ = ndimage.label(inside)
    kept = np.unique(parts[inside & sure])
    if not kept.size:
        return None
    inside = ndimage.binary_fill_holes(np.isin(parts, kept))
    outline = _stretch(inside.astype(np.float32), step, region.shape) >= 0.5
    outline &= free
    return outline if outline.any() else None


def _stretch(
    values: Float[np.ndarray, "a b c"], step: Num[np.ndarray, " 3"], shape: tuple[int, ...]
) -> Float[np.ndarray, "k j i"]:
    """Interpolate linearly between values that were taken every `step` voxels."""
    for axis, (one, size) in enumerate(zip(step.tolist(), shape, strict=True)):
        if one > 1:
            place = np.clip((np.arange(size) - one // 2) / one, 0, values.shape[axis] - 1)
            low = np.minimum(place.astype(int), values.shape[axis] - 2).clip(0)
            high = np.minimum(low + 1, values.shape[axis] - 1)
            weight = (
                (place - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            )
            values = values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
    return values
