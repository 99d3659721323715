"""A scan in memory: voxels and where they are."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Modality, Plane
from SpatialARAnomalyLib.engine.volumes.geometry import (
    PlaneOrientation,
    check_ras_from_voxel,
    voxel_ml,
    voxel_spacing_mm,
)

MAX_LABEL_VALUES = 1024
"""A label map has fewer distinct values than this; scanners rarely have."""

FEW_VALUES = 16
"""Integers with no more distinct values than this are labels, however small."""

FLAT_ALONG_BEST, FLAT_ALONG_WORST = 0.7, 0.25
"""Share of foreground voxels that equal their next neighbor, along the axis where
most and where fewest do, from which integers are a label map. Noise keeps scans
far below (at most 0.1; an 8-bit one without noise 0.33); fine parcellations reach
0.75, thick slices of tissues still 0.4 across the slices."""

PLACE_STEP_MM = 1e-3
"""Places of copies that differ by less have, as a rule, one hash."""

CT_AIR_HU = -400.0
"""The darkest voxels of a CT lie below this (air is −1000 HU). No MR magnitude image
has such values; phase images do."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Scalar voxels [k, j, i] and the affine that puts them into the patient.

    Raises `InputError` for an affine that does not place voxels in space.
    """

    voxels: Num[np.ndarray, "k j i"]
    ras_from_voxel: Float[np.ndarray, "4 4"]
    """Maps (i, j, k, 1) to RAS mm."""
    modality: Modality | None = None
    """As the file says; None where it does not."""

    def __post_init__(self) -> None:
        check_ras_from_voxel(self.ras_from_voxel)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbors along i, j and k."""
        return voxel_spacing_mm(self.ras_from_voxel)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in milliliters."""
        return voxel_ml(self.ras_from_voxel)

    def content_sha256(self) -> str:
        """Hash of voxels and place, the same for copies stored in another orientation."""
        orientation = PlaneOrientation.of(self.ras_from_voxel, Plane.AXIAL)
        shape = (self.voxels.shape[0], self.voxels.shape[1], self.voxels.shape[2])
        place = orientation.ras_from_plane(self.ras_from_voxel, shape)
        # Shifted by an odd share of a step: spacings as 0.9375 mm, and sums of
        # them, would lie on the border between two steps.
        place = np.floor(place / PLACE_STEP_MM + 0.29)
        digest = hashlib.sha256(place.astype("<f8").tobytes())
        for one_slice in orientation.apply(self.voxels):
            digest.update(np.ascontiguousarray(one_slice, dtype="<f4").tobytes())
        return digest.hexdigest()


def infer_modality(volume: Volume) -> Modality:
    """The modality the file names, else CT where voxels are as dark as air in HU, else MR."""
    if volume.modality is not None:
        return volume.modality
    return Modality.CT if float(volume.voxels.min()) < CT_AIR_HU else Modality.MR


def check_scan(volume: Volume) -> None:
    """Raise `InputError` unless the voxels can be a scan: finite, varied, no label map."""
    voxels = volume.voxels
    if voxels.size == 0:
        raise InputError("volume-empty", "The volume must hold voxels; it is empty.")
    if not np.issubdtype(voxels.dtype, np.integer):
        finite = np.isfinite(voxels)
        if not finite.all():
            bad = voxels.size - int(np.count_nonzero(finite))
            raise InputError(
                "voxels-not-finite",
                f"All voxels must be finite; {bad} of {voxels.size} are NaN or infinite.",
            )
    if voxels.min() == voxels.max():
        raise InputError(
            "volume-constant",
            f"The volume must hold an image; all its voxels are {voxels.flat[0]:g}.",
        )
    if _is_label_map(voxels):
        raise InputError(
            "label-map",
            f"Expected a scan; found what looks like a label map "
            f"({np.unique(voxels).size} distinct integers, most beside an equal one).",
        )


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
    """Share of the voxels beside the background's that equal the next one along an axis."""
    along = np.moveaxis(voxels, axis, 0)
    this, following = along[:-1], along[1:]
    foreground = this != background
    count = int(np.count_nonzero(foreground))
    return int(np.count_nonzero(foreground & (this == following))) / max(count, 1)
