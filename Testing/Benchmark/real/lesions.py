"""Lesions drawn into real scans: bright, dark and texture ones, and smooth balls."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.geometry import voxel_spacing_mm
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import LESION_BULGE, covered, irregular_ball
from SpatialARAnomalyLib.service.demo.phantom_anatomy import Waves

RADII_MM = (6.0, 15.0)
"""Range of the radius of a lesion: that of the ball of equal volume."""

BALL_RADII_MM = (6.0, 25.0)
"""Range of the radius of a smooth ball."""

CONTRASTS: Mapping[str, tuple[float, float]] = {
    "bright": (0.2, 0.45), "dark": (-0.5, -0.25), "texture": (0.1, 0.15),
}  # fmt: skip
"""Kinds of lesions, and the range of their difference from white matter, in units of it; of
texture, the standard deviation of an added grain."""

BALL_CONTRAST = 0.4
"""Difference of a smooth ball from white matter, in units of it, of either sign."""

GRAIN_MM = (5.0, 9.0)
"""Range of the wavelengths of the grain of a texture lesion."""

RIM_MM = 4.0
"""Least distance of a lesion from the border of the body, which includes a rim of air."""

WHITE_PERCENTILE = 80.0
"""Percentile of the body's voxels that stands for white matter (T1)."""

DARK_SHARE = 0.2
"""Largest share of a lesion's voxels that may be darker than half of white matter before."""

COARSE_MM = 3.0
"""Approximate grid on which places are drawn."""

SAMPLE = 500_000
"""Approximate number of voxels that level and noise are measured on."""

CANDIDATES = 40
"""Number of places drawn; the first on tissue is taken, else the one with most of it."""


def draw_lesion(
    volume: Volume, body: Bool[np.ndarray, "k j i"], kind: str, rng: np.random.Generator
) -> tuple[Volume, Bool[np.ndarray, "k j i"]]:
    """Draw a lesion of a kind of `CONTRASTS`; return the scan with it, and its mask.

    Bright and dark lesions replace the tissue by their own level with a weak grain, and keep
    the scan's noise; texture keeps the local mean and adds a coarse grain.
    """
    radius_mm = rng.uniform(*RADII_MM)
    contrast = rng.uniform(*CONTRASTS[kind])
    center = _place(volume, body, LESION_BULGE * radius_mm, rng)
    box, offset_mm, radii = irregular_ball(volume, rng, center, radius_mm)
    old, white = volume.voxels[box].astype(np.float64).ravel(), _white(volume, body)
    share, inside = covered((1 - radii) * radius_mm), radii < 1
    grain = Waves.draw(rng, 40, *GRAIN_MM).at(tuple(offset_mm.astype(np.float32)))
    grain = grain - (grain[inside].mean() if inside.any() else 0)
    if kind == "texture":
        new = old + contrast * white * grain
    else:
        new = white * (1 + contrast + 0.05 * grain) + _noise(volume, body, rng, old.shape)
    return _with(volume, box, old + share * (new - old)), _mask(body, box, inside)


def draw_ball(
    volume: Volume,
    body: Bool[np.ndarray, "k j i"],
    sign: int,
    radius_mm: float,
    rng: np.random.Generator,
) -> tuple[Volume, Int[np.ndarray, " 3"]]:
    """Draw a homogeneous ball with the scan's noise; return the scan with it, and its center."""
    center = _place(volume, body, radius_mm, rng)
    box, offset_mm, _ = irregular_ball(volume, rng, center, radius_mm)
    share = covered(radius_mm - np.linalg.norm(offset_mm, axis=0))
    old = volume.voxels[box].astype(np.float64).ravel()
    level = _white(volume, body) * (1 + sign * BALL_CONTRAST)
    new = level + _noise(volume, body, rng, old.shape)
    return _with(volume, box, old + share * (new - old)), center


def _place(
    volume: Volume, body: Bool[np.ndarray, "k j i"], reach_mm: float, rng: np.random.Generator
) -> Int[np.ndarray, " 3"]:
    """Draw a center on tissue from which a lesion of this reach stays in the body."""
    spacing_kji = voxel_spacing_mm(volume.ras_from_voxel)[::-1]
    strides = [max(1, round(COARSE_MM / mm)) for mm in spacing_kji]
    coarse = tuple(slice(None, None, stride) for stride in strides)
    coarse_mm = [mm * stride for mm, stride in zip(spacing_kji, strides, strict=True)]
    room_mm = ndimage.distance_transform_edt(np.pad(body[coarse], 1), sampling=coarse_mm)
    centers = np.argwhere(room_mm[1:-1, 1:-1, 1:-1] > reach_mm + RIM_MM)
    if not len(centers):
        raise InputError(
            "phantom-lesion-room",
            f"A lesion that reaches {reach_mm:.1f} mm needs a larger body; this one has room for "
            f"{room_mm.max() - RIM_MM:.1f} mm.",
        )
    dark = (volume.voxels[coarse] < 0.5 * _white(volume, body)).astype(np.float32)
    share = ndimage.uniform_filter(dark, [2 * round(0.6 * reach_mm / mm) + 1 for mm in coarse_mm])
    drawn = centers[rng.integers(len(centers), size=CANDIDATES)]
    shares = share[tuple(drawn.T)]
    suitable = np.flatnonzero(shares <= DARK_SHARE)
    chosen = drawn[suitable[0] if len(suitable) else int(np.argmin(shares))]
    return np.asarray(chosen * strides)


def _white(volume: Volume, body: Bool[np.ndarray, "k j i"]) -> float:
    inside = volume.voxels[body]
    return float(np.percentile(inside[:: max(1, inside.size // SAMPLE)], WHITE_PERCENTILE))


def _noise(
    volume: Volume,
    body: Bool[np.ndarray, "k j i"],
    rng: np.random.Generator,
    shape: tuple[int, ...],
) -> Float[np.ndarray, "..."]:
    """Draw noise as strong as the scan's, from the differences of neighboring voxels."""
    few = slice(None, None, max(1, body.size // SAMPLE))
    along = np.diff(volume.voxels[few].astype(np.float32), n=2, axis=2)[body[few, :, 1:-1]]
    # Most neighbors lie in one tissue: the median is that of noise alone (variance 1 + 4 + 1).
    deviation = float(np.median(np.abs(along))) / 0.6745 / np.sqrt(6)
    return rng.normal(0, max(deviation, 1e-9), shape)


def _with(volume: Volume, box: tuple[slice, ...], values: Float[np.ndarray, " n"]) -> Volume:
    voxels = volume.voxels.copy()
    if np.issubdtype(voxels.dtype, np.integer):
        values = np.minimum(np.rint(values), np.iinfo(voxels.dtype).max)
    voxels[box] = np.maximum(values, voxels.min()).reshape(voxels[box].shape)
    return Volume(voxels, volume.ras_from_voxel, volume.modality)


def _mask(
    body: Bool[np.ndarray, "k j i"], box: tuple[slice, ...], inside: Bool[np.ndarray, " n"]
) -> Bool[np.ndarray, "k j i"]:
    mask = np.zeros_like(body)
    mask[box] = inside.reshape(mask[box].shape)
    return mask
