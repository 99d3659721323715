"""Anomalies of six families in the real heads of `template_cohort`, each with its truth.

`bright` and `dark`: a mass with texture and edema. `subtle`: one to three small regions a little
brighter or darker than their tissue. `displaced`: displaced tissue, as beside a mass that is
itself invisible. `missing`: a place without its structure, filled with the tissue around it.
`texture`: the same local mean, with a coarse grain or with its detail blurred.

Odd and even seeds alternate between the two variants of a family (sign, grain or blur).
"""

from typing import NamedTuple

import numpy as np
from Data.template_cohort import CONTRASTS, template_head
from scipy import ndimage
from SpatialARAnomalyLib.service.demo.phantom import (
    PhantomHead,
    add_lesion,
    centers_with_room,
    covered,
    irregular_ball,
)
from SpatialARAnomalyLib.service.demo.phantom_anatomy import (
    Tissue,
    Waves,
)

FAMILIES = ("bright", "dark", "subtle", "displaced", "missing", "texture")

RADII_MM = {"small": 6.0, "medium": 9.0, "large": 13.0}
SUBTLE_RADII_MM = {"small": 4.0, "medium": 5.5, "large": 7.0}
"""Radius in mm of the ball of equal volume, by size."""

SUBTLE_CONTRAST = (0.1, 0.2)
"""Range of the change of signal of a subtle lesion, in units of white matter, of either sign."""

SUBTLE_COUNT = (1, 3)
"""Fewest and most subtle lesions of a head."""

SHIFT = 0.7
"""Largest displacement, in radii."""

SHIFT_REACH = 1.85
"""Distance in radii at which the displacement ends; at one radius half of it is left."""

MISSING_CHANGE = 0.08
"""Least change of signal of a voxel in a missing structure, in units of white matter."""

RELAXATIONS = 100
"""Number of times that every voxel of a filled place is replaced by its neighbors' mean."""

BLUR_MM = 4.0
"""Standard deviation in mm of the Gaussian that blurs a region's detail."""

GRAIN = 0.12
"""Standard deviation of added grain, in units of white matter."""

GRAIN_MM = (5.0, 9.0)
"""Range of its wavelengths in mm."""

CANDIDATES = 24
"""Number of places drawn where detail matters; the one with most detail is used."""


class AnomalousHead(NamedTuple):
    """A head with an anomaly, and the same head without: the same noise, voxel by voxel."""

    head: PhantomHead
    truth: np.ndarray
    """Voxels [k, j, i] of the anomaly, all within the healthy head's brain."""
    healthy: PhantomHead
    ignored: np.ndarray
    """Voxels outside the truth that changed too: edema, blended edges, small displacement.

    They count in no metric. All other voxels outside the truth are the healthy head's.
    """


def radius_of(family: str, size: str | float) -> float:
    """Return the radius in mm of a named size, or the size itself if it is a number."""
    if isinstance(size, str):
        return (SUBTLE_RADII_MM if family == "subtle" else RADII_MM)[size]
    return float(size)


def anomalous_head(
    family: str, size: str | float, seed: int, *, spacing_mm: float = 2.0
) -> AnomalousHead:
    """Make `template_head(seed)` with an anomaly; size is a name or a radius in mm."""
    healthy = template_head(seed, spacing_mm=spacing_mm)
    radius_mm = radius_of(family, size)
    rng = np.random.default_rng(np.random.SeedSequence((seed, FAMILIES.index(family))))
    sign = 1 if seed % 2 else -1
    if family in ("bright", "dark"):
        contrast = rng.uniform(*CONTRASTS) * (1 if family == "bright" else -1)
        head, truth = add_lesion(healthy, seed, radius_mm=radius_mm, contrast=contrast)
    elif family == "subtle":
        head, truth = _subtle(healthy, rng, radius_mm, sign)
    elif family == "displaced":
        head, truth = _displaced(healthy, rng, radius_mm)
    elif family == "missing":
        head, truth = _missing(healthy, rng, radius_mm)
    else:
        head, truth = _texture(healthy, rng, radius_mm, grain=seed % 2 == 1)
    truth &= healthy.brain
    return AnomalousHead(head, truth, healthy, (head.voxels != healthy.voxels) & ~truth)


def _changed(head, signal, truth):
    """Make the head with another signal, the same noise, and the truth among its tissues."""
    # Voxels stripped with the skull stay empty.
    change = np.where(head.brain, signal - head.signal, 0)
    voxels = np.rint(np.clip(head.voxels + change, 0, np.iinfo(np.int16).max))
    return PhantomHead(
        voxels.astype(np.int16),
        head.ras_from_voxel,
        head.modality,
        tissues=np.where(truth, Tissue.LESION, head.tissues).astype(np.uint8),
        signal=(head.signal + change).astype(np.float32),
        white_signal=head.white_signal,
    )


def _ball(head, rng, center_kji, radius_mm):
    """Compute every voxel's share [k, j, i] in an irregular ball, and the voxels inside."""
    box, _, radii = irregular_ball(head, rng, center_kji, radius_mm)
    share, inside = np.zeros(head.voxels.shape), np.zeros(head.voxels.shape, bool)
    share[box] = covered((1 - radii) * radius_mm).reshape(share[box].shape)
    inside[box] = (radii < 1).reshape(share[box].shape)
    return share, inside


def _spacing_mm(head):
    return float(np.cbrt(head.voxel_ml * 1000))


def _detailed_center(head, rng, centers, radius_mm):
    """Choose among several places the one around which the signal varies most."""
    relative = (head.signal / head.white_signal).astype(np.float64)
    width = 2 * round(radius_mm / _spacing_mm(head)) + 1
    mean, square = (ndimage.uniform_filter(image, width) for image in (relative, relative**2))
    drawn = centers[rng.integers(len(centers), size=CANDIDATES)]
    return drawn[np.argmax((square - mean**2)[tuple(drawn.T)])]


def _subtle(head, rng, radius_mm, sign):
    truth = np.zeros(head.voxels.shape, bool)
    signal = head.signal.copy()
    for _ in range(rng.integers(SUBTLE_COUNT[0], SUBTLE_COUNT[1] + 1)):
        free = head.brain & (head.tissues != Tissue.VENTRICLE)
        # Apart from each other, so that they stay separate components.
        free &= ~ndimage.binary_dilation(truth, iterations=2)
        centers = centers_with_room(head.ras_from_voxel, free, radius_mm)
        share, inside = _ball(head, rng, centers[rng.integers(len(centers))], radius_mm)
        signal += share * sign * rng.uniform(*SUBTLE_CONTRAST) * head.white_signal
        truth |= inside
    return _changed(head, signal, truth), truth


def _displaced(head, rng, radius_mm):
    centers = centers_with_room(head.ras_from_voxel, head.brain, radius_mm)
    center = _detailed_center(head, rng, centers, radius_mm)
    direction = rng.standard_normal(3)
    direction /= np.linalg.norm(direction)
    spacing_mm = _spacing_mm(head)
    kji = np.indices(head.voxels.shape).astype(float)
    offset_mm = (kji - center[:, None, None, None]) * spacing_mm
    radii = np.linalg.norm(offset_mm, axis=0) / radius_mm
    # Its steepest slope is 0.58: no tissue folds over another.
    share = np.clip(1 - (radii / SHIFT_REACH) ** 2, 0, None) ** 2
    shift_voxels = SHIFT * radius_mm / spacing_mm * direction[:, None, None, None] * share
    relative = ndimage.map_coordinates(
        head.signal / head.white_signal, kji - shift_voxels, order=1, mode="nearest"
    )
    signal = np.where(share > 0, relative * head.white_signal, head.signal)
    truth = share > 0.5
    return _changed(head, signal, truth), truth


def _missing(head, rng, radius_mm):
    centers = centers_with_room(head.ras_from_voxel, head.brain, radius_mm)
    center = _detailed_center(head, rng, centers, radius_mm)
    share, inside = _ball(head, rng, center, radius_mm)
    relative = (head.signal / head.white_signal).astype(np.float64)
    box = tuple(slice(max(axis.min() - 8, 0), axis.max() + 9) for axis in np.nonzero(share))
    filled, hole = relative[box].copy(), share[box] > 0
    # A weighted mean of the brain around, relaxed until it meets the border smoothly.
    known = (head.brain[box] & ~hole).astype(float)
    sigma = radius_mm / 2 / _spacing_mm(head)
    around = ndimage.gaussian_filter(known * filled, sigma)
    filled[hole] = (around / np.maximum(ndimage.gaussian_filter(known, sigma), 1e-6))[hole]
    neighbors = ndimage.generate_binary_structure(3, 1) / 6.0
    neighbors[1, 1, 1] = 0
    for _ in range(RELAXATIONS):
        filled[hole] = ndimage.convolve(filled, neighbors)[hole]
    change = np.zeros_like(relative)
    change[box] = filled - relative[box]
    truth = inside & (np.abs(change) > MISSING_CHANGE)
    return _changed(head, head.signal + change * head.white_signal, truth), truth


def _texture(head, rng, radius_mm, *, grain):
    free = head.brain & (head.tissues != Tissue.VENTRICLE)
    centers = centers_with_room(head.ras_from_voxel, free, radius_mm)
    center = _detailed_center(head, rng, centers, radius_mm)
    share, inside = _ball(head, rng, center, radius_mm)
    if grain:
        kji = np.indices(head.voxels.shape).reshape(3, -1).astype(np.float32)
        place = tuple(axis * np.float32(_spacing_mm(head)) for axis in kji)
        waves = Waves.draw(rng, 40, *GRAIN_MM)
        change = GRAIN * waves.at(place).reshape(share.shape)
    else:
        relative = (head.signal / head.white_signal).astype(np.float64)
        change = ndimage.gaussian_filter(relative, BLUR_MM / _spacing_mm(head)) - relative
    change = change - np.average(change, weights=share)
    return _changed(head, head.signal + share * change * head.white_signal, inside), inside
