"""The inside of a head: the body without scalp and skull.

Bone is dark in MR and bright in CT, so the brain and what is around it come apart where an
opening of the soft tissue cuts thin bridges (eyes, vessels, marrow):

1. Soft tissue, eroded by `OPENING_MM`: the largest component, grown back, closed, holes filled.
2. Its usual depth below the skin, above its widest slice, is the thickness of scalp and skull.
   What is deeper belongs to the inside as well: above the widest slice all of it (at the vertex
   gyri are thin and coils weak), below it where a wider closing reaches it (cysts).
"""

import numpy as np
from jaxtyping import Bool, Float, Num
from scipy import ndimage

from SpatialARAnomalyLib.engine.slices.body import block_mean
from SpatialARAnomalyLib.engine.specs import Modality

BLOCK_MM = 2.0
"""Approximate size of the blocks on which the interior is computed."""

DEEP_MM = 25.0
"""Depth below the skin from which the median is that of brain."""

TISSUE_SHARE = 0.5
"""MR: darkest tissue as a share of that median; bone, air and FLAIR's CSF are darker."""

CT_TISSUE_HU = (-20.0, 150.0)
"""CT: range of brain, blood and fluid; fat is darker and bone brighter."""

OPENING_MM = 8.0
"""Half the width of the widest bridge between brain and scalp that is cut."""

REGROWTH_MM = 9.0
"""Distance by which the eroded brain is grown back, within tissue."""

CLOSING_MM = 6.0
"""Half the width of the widest sulcus or cyst at the surface that is filled."""

WIDE_CLOSING_MM = 16.0
"""Half the width of the widest cyst at the surface that is filled where it is deep enough."""

MARGIN_MM = 2.0
"""Margin that is kept around the brain."""

SKIN_MM = 5.0
"""Least thickness of scalp and skull."""

SEEN_SHARE = 0.3
"""Share of the deep part of a slice that must be found as brain for all of it to belong to the
inside: above the brain, a slice cuts scalp and skull lengthwise, and all of it seems deep."""

LEAST_SHARE = 0.2
"""Share of the head below which what was found is not its inside."""

SHELL_MM = 6.0
SCALP_SHARE = 0.77
"""Share of the tissue within `SHELL_MM` below the surface that does not hang together with the
brain, from which on it is scalp. Of 17 stripped heads (OASIS, T1) the largest share was 0.70, of
22 whole ones (TCGA-LGG, FLAIR) the smallest was 0.87."""


def head_interior(
    voxels: Num[np.ndarray, "n r c"],
    head: Bool[np.ndarray, "n r c"],
    spacing_mm: tuple[float, float, float],
    modality: Modality,
) -> Bool[np.ndarray, "n r c"] | None:
    """Return the inside of a head, all of it where scalp and skull are gone; None if not found.

    `voxels` are axial [slice, row, column] with slices toward the vertex, `head` is their body
    mask, `spacing_mm` in the same order.
    """
    if head.all() or not head.any():
        return None  # cropped: nothing says how deep a voxel lies
    blocks = tuple(
        max(1, min(size, round(BLOCK_MM / mm)))
        for size, mm in zip(head.shape, spacing_mm, strict=True)
    )
    (around,) = ndimage.find_objects(head.astype(np.uint8))
    box = tuple(  # with a block of air, where the image goes on
        slice(max(0, one.start - block), one.stop + block)
        for one, block in zip(around, blocks, strict=True)
    )
    mm = [one * block for one, block in zip(spacing_mm, blocks, strict=True)]
    coarse = block_mean(voxels[box], blocks)
    coarse_head = block_mean(head[box].astype(np.uint8), blocks) > 0.5
    inside = _interior(coarse, coarse_head, mm, modality)
    if inside is None or inside is coarse_head:
        return None if inside is None else head
    for axis, block in enumerate(blocks):
        inside = np.repeat(inside, block, axis=axis)
    found = np.zeros_like(head)
    n, r, c = head[box].shape
    found[box] = inside[:n, :r, :c] & head[box]
    enough = np.count_nonzero(found) >= LEAST_SHARE * np.count_nonzero(head)
    return found if enough else None


def _interior(
    coarse: Float[np.ndarray, "N R C"],
    head: Bool[np.ndarray, "N R C"],
    mm: list[float],
    modality: Modality,
) -> Bool[np.ndarray, "N R C"] | None:
    """Return the inside on the blocks; `head` itself where there is no scalp."""
    # A head cut off at the border of the image goes on beyond it; air is at its other sides.
    depth = _distance(head, mm)
    tissue = head & _soft_tissue(coarse, depth, modality)
    components, count = ndimage.label((_distance(tissue, mm) > OPENING_MM) & (depth > SKIN_MM))
    if count == 0:
        return None
    core: Bool[np.ndarray, "N R C"] = components == 1 + np.bincount(components.ravel())[1:].argmax()
    grown = tissue & (_distance(~core, mm) <= REGROWTH_MM)
    inside = _close(grown, CLOSING_MM, MARGIN_MM, mm) & head
    shell = tissue & (depth <= SHELL_MM)
    if np.count_nonzero(shell & ~inside) < SCALP_SHARE * np.count_nonzero(shell):
        return head
    inside &= depth > SKIN_MM
    widest = int(inside.sum(axis=(1, 2)).argmax())
    rim = inside & ~ndimage.binary_erosion(inside)
    deep: Bool[np.ndarray, "N R C"] = depth >= np.median(depth[widest:][rim[widest:]])
    inside |= deep & _close(inside, WIDE_CLOSING_MM, 0.0, mm)
    seen = (inside & deep).sum(axis=(1, 2)) >= SEEN_SHARE * deep.sum(axis=(1, 2))
    seen[:widest] = False
    inside[seen] |= deep[seen]
    return np.asarray(inside & head)


def _soft_tissue(
    coarse: Float[np.ndarray, "N R C"], depth: Float[np.ndarray, "N R C"], modality: Modality
) -> Bool[np.ndarray, "N R C"]:
    if modality is Modality.CT:
        low, high = CT_TISSUE_HU
        return (coarse > low) & (coarse < high)
    deep = coarse[depth > min(DEEP_MM, depth.max() / 2)]
    return np.asarray(coarse > TISSUE_SHARE * np.median(deep))


def _close(
    mask: Bool[np.ndarray, "N R C"], closing_mm: float, margin_mm: float, mm: list[float]
) -> Bool[np.ndarray, "N R C"]:
    """Close a mask, fill its holes slice by slice, and keep a margin around it."""
    reach = [int(closing_mm / one) + 1 for one in mm]
    padded = np.pad(mask, [(one, one) for one in reach])
    grown = _distance(~padded, mm) <= closing_mm
    for one_slice in grown:
        one_slice[:] = ndimage.binary_fill_holes(one_slice)
    closed: Bool[np.ndarray, "_ _ _"] = _distance(grown, mm) > closing_mm - margin_mm
    return np.asarray(closed[tuple(slice(one, -one) for one in reach)])


def _distance(mask: Bool[np.ndarray, "N R C"], mm: list[float]) -> Float[np.ndarray, "N R C"]:
    """Return for voxels of the mask the distance in mm to the nearest one outside, else zero."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(mask, sampling=mm))
