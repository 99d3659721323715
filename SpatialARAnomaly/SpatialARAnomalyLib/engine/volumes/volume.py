"""A scan in memory: its voxels, their positions, and checks that it is a scan."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Modality, Plane
from SpatialARAnomalyLib.engine.volumes.geometry import (
    MAX_SHEAR,
    PlaneOrientation,
    check_ras_from_voxel,
    lengths_text,
    shear,
    tilt_degrees,
    voxel_ml,
    voxel_spacing_mm,
)
from SpatialARAnomalyLib.engine.volumes.refusals import UNSTATED

MAX_LABEL_VALUES = 1024
"""Number of distinct values from which an image is a scan and no label map."""

FEW_VALUES = 16
"""Number of distinct integers up to which an image is a label map."""

FLAT_ALONG_BEST, FLAT_ALONG_WORST = 0.7, 0.25
"""Shares of foreground voxels that equal their next neighbor from which integers are a
label map, along the axis with the largest and the one with the smallest share. Noisy scans
reach 0.1 and an 8-bit one without noise 0.33; fine parcellations have 0.75, thick slices of
tissue classes 0.4 across the slices."""

PLACE_STEP_MM = 1e-3
"""Rounding of affines before hashing: copies of a scan may differ by less."""

MIN_EXTENT_MM, MAX_EXTENT_MM = 1.0, 1e4
"""Least and largest extent of a scan; others come from headers in a wrong unit of length."""

CT_AIR_HU = -400.0
"""Voxels below this are air or lung, if they are in Hounsfield units (air is −1000 HU)."""

CT_AIR_SHARE = 0.02
"""Share of air from which voxels are those of a CT. Interpolation by splines makes a few dark
voxels in MR; MR phase images, half of whose voxels may be that low, are an exception."""


@dataclass(frozen=True)
class SliceSource:
    """The DICOM image that a slice was read from."""

    path: Path
    frame: int
    """Index of the frame in the file."""
    slice_index: int
    """Index of the slice (k) in the volume."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Scalar voxels [k, j, i] with their affine; raises `InputError` if that is invalid."""

    voxels: Num[np.ndarray, "k j i"]
    ras_from_voxel: Float[np.ndarray, "4 4"]
    """Maps (i, j, k, 1) to RAS mm."""
    modality: Modality | None = None
    """Modality that the file declares; None if it declares none."""
    mask: Bool[np.ndarray, "k j i"] | None = None
    """Voxels to look at; None for all. It is no part of the content (`content_sha256`)."""
    outside: Bool[np.ndarray, "k j i"] | None = None
    """Voxels without a measurement (padding, missing slices), which are never body; None for
    none."""
    notices: tuple[tuple[str, str], ...] = ()
    """Notices about how the scan was read: code and sentence of each."""
    unit_mm: float = 1.0
    """Length in mm of the unit in which a NIfTI file states its place."""
    sources: tuple[SliceSource, ...] = ()
    """Images of a DICOM scan in the order of its slices, without missing ones; else empty."""

    def __post_init__(self) -> None:
        check_ras_from_voxel(self.ras_from_voxel)

    def noted(self, code: str, text: str) -> "Volume":
        """Return the volume with one more notice."""
        return replace(self, notices=(*self.notices, (code, text)))

    def masked(self, mask: Shaped[np.ndarray, "k j i"] | None) -> "Volume":
        """Return the volume with the mask of an array's nonzero voxels; None for no mask.

        Raises `InputError` for an array of another size, or one that is zero or NaN.
        """
        if mask is None:
            return replace(self, mask=None)
        if mask.shape != self.voxels.shape:
            found, expected = (" × ".join(map(str, one.shape[::-1])) for one in (mask, self.voxels))
            raise InputError(
                "mask-size", f"The mask must have the scan's {expected} voxels; it has {found}."
            )
        inside = np.asarray(mask != 0)
        if np.issubdtype(mask.dtype, np.floating) and np.isnan(mask).any():
            raise InputError("mask-values", "The mask must hold labels; it holds NaN.")
        if mask.dtype.kind in "if" and (mask < 0).any():
            raise InputError("mask-values", "The mask must hold labels; it holds negative values.")
        if not inside.any():
            raise InputError("mask-empty", "The mask must have a voxel above zero; it is empty.")
        return replace(self, mask=inside)

    @property
    def is_oriented(self) -> bool:
        """False if the file did not state where left and right are."""
        return UNSTATED not in dict(self.notices)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighboring voxels along i, j and k in mm."""
        return voxel_spacing_mm(self.ras_from_voxel)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in milliliters."""
        return voxel_ml(self.ras_from_voxel)

    def turned(self, grid: Float[np.ndarray, "4 4"]) -> "Volume":
        """Return the volume with axes in the order and direction of another grid's."""
        orientation = PlaneOrientation.towards(self.ras_from_voxel, grid)
        shape = (self.voxels.shape[0], self.voxels.shape[1], self.voxels.shape[2])
        place = orientation.ras_from_plane(self.ras_from_voxel, shape)
        return Volume(orientation.apply(self.voxels), place)

    def content_sha256(self) -> str:
        """Return a hash of voxels and affine that copies in another orientation share."""
        orientation = PlaneOrientation.of(self.ras_from_voxel, Plane.AXIAL)
        shape = (self.voxels.shape[0], self.voxels.shape[1], self.voxels.shape[2])
        place = orientation.ras_from_plane(self.ras_from_voxel, shape)
        # The offset keeps common spacings (0.9375 mm), and sums of them, off the border
        # between two steps.
        place = np.floor(place / PLACE_STEP_MM + 0.29)
        digest = hashlib.sha256(place.astype("<f8").tobytes())
        for one_slice in orientation.apply(self.voxels):
            digest.update(np.ascontiguousarray(one_slice, dtype="<f4").tobytes())
        return digest.hexdigest()


def infer_modality(volume: Volume) -> Modality:
    """Return the file's modality, else CT if enough voxels are as dark as air in HU, else MR."""
    if volume.modality is not None:
        return volume.modality
    return Modality.CT if air_share(volume) >= CT_AIR_SHARE else Modality.MR


def air_share(volume: Volume) -> float:
    """Return the share of voxels that are as dark as air, if they are in Hounsfield units."""
    return int(np.count_nonzero(volume.voxels < CT_AIR_HU)) / max(volume.voxels.size, 1)


def scan_notices(volume: Volume) -> tuple[tuple[str, str], ...]:
    """Return the notices about a scan as it was read, and about a sheared grid."""
    if shear(volume.ras_from_voxel) <= MAX_SHEAR:
        return volume.notices
    text = (
        f"The slices are tilted by {tilt_degrees(volume.ras_from_voxel):.2f}° against the line in "
        "which they are stacked. ITK and Slicer refuse to open a tilted label map in NIfTI: use "
        "the segmentation."
    )
    return *volume.notices, ("grid-sheared", text)


def finite_scan(volume: Volume) -> Volume:
    """Return the scan with voxels that are not finite at the lowest value, as background.

    Raises `InputError` if no voxel is finite.
    """
    voxels = volume.voxels
    if not np.issubdtype(voxels.dtype, np.floating):
        return volume
    finite = np.isfinite(voxels)
    bad = voxels.size - int(np.count_nonzero(finite))
    if bad == 0:
        return volume
    if bad == voxels.size:
        raise InputError("voxels-not-finite", "All voxels are NaN or infinite.")
    text = f"{bad:,} of {voxels.size:,} voxels are NaN or infinite: they are background."
    return replace(
        volume,
        voxels=np.where(finite, voxels, voxels[finite].min()),
        outside=~finite if volume.outside is None else volume.outside | ~finite,
        notices=(*volume.notices, ("voxels-not-finite", text)),
    )


def check_scan(volume: Volume) -> Volume:
    """Return `finite_scan`; raise `InputError` if all voxels have one value, or are a label map."""
    if volume.voxels.size == 0:
        raise InputError("volume-empty", "The volume must hold voxels; it is empty.")
    extent_mm = np.array(volume.spacing_mm) * volume.voxels.shape[::-1]
    if not MIN_EXTENT_MM <= extent_mm.max() <= MAX_EXTENT_MM:
        raise InputError(
            "scan-extent",
            f"A scan must be at most {MAX_EXTENT_MM / 1000:g} m and at least {MIN_EXTENT_MM:g} mm "
            f"long; it has {lengths_text(extent_mm)} mm. Its unit of length may be wrong.",
        )
    volume = finite_scan(volume)
    voxels = volume.voxels
    if voxels.min() == voxels.max():
        value = lengths_text([float(voxels.flat[0])])
        raise InputError(
            "volume-constant", f"The volume must hold an image; all its voxels are {value}."
        )
    if _is_label_map(voxels):
        raise InputError(
            "label-map",
            "Expected a scan; found what looks like a label map "
            f"({np.unique(voxels).size} distinct integers, most beside an equal one).",
        )
    return volume


def _is_label_map(voxels: Num[np.ndarray, "k j i"]) -> bool:
    if voxels.min() < 0:
        return False
    thinned = voxels.ravel()[:: max(1, voxels.size // 100_000)]
    if not np.array_equal(thinned, np.round(thinned)):
        return False
    values, counts = np.unique(thinned, return_counts=True)
    if values.size >= MAX_LABEL_VALUES:
        return False
    if values.size <= FEW_VALUES and np.unique(voxels).size <= FEW_VALUES:
        return True
    flat = [
        _flat_share(voxels, axis, background=values[counts.argmax()])
        for axis in range(3)
        if voxels.shape[axis] > 1
    ]
    return (
        max(flat) >= FLAT_ALONG_BEST
        and min(flat) >= FLAT_ALONG_WORST
        and np.unique(voxels).size < MAX_LABEL_VALUES
    )


def _flat_share(voxels: Num[np.ndarray, "k j i"], axis: int, background: np.number[Any]) -> float:
    """Return the share of foreground voxels that equal the next one along an axis."""
    along = np.moveaxis(voxels, axis, 0)
    this, following = along[:-1], along[1:]
    foreground = this != background
    count = int(np.count_nonzero(foreground))
    return int(np.count_nonzero(foreground & (this == following))) / max(count, 1)
