"""Positions of a volume's slices: their order, grid and tilt, and slices that are missing."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from jaxtyping import Float, Float64

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.dicom_frames import Frame
from SpatialARAnomalyLib.engine.volumes.dicom_volumes import (
    UNIT_TOLERANCE,
    FrameStack,
    stack_numbers,
)
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS

POSITION_TOLERANCE = 0.1
"""Largest deviation of a slice's position, as a share of the slice distance (rounding)."""

MAX_MISSING = 0.25
"""Largest number of missing slices that can be allowed, as a share of those that are there."""

TILT_DEGREES = 0.5
"""Smallest angle between stacking direction and slice normal that is named."""


@dataclass(frozen=True, eq=False)
class PlacedFrames:
    """Frames of a volume in their order, on an even grid that may have gaps."""

    frames: tuple[Frame, ...]
    """In order along the slice normal."""
    slices: tuple[int, ...]
    """Index of each frame's slice on the grid; indices that are left out are missing slices."""
    ras_from_voxel: Float[np.ndarray, "4 4"]
    """Maps (column, row, slice, 1) to RAS mm; sheared where the slices are tilted."""
    tilt_degrees: float
    """Angle between the direction of stacking and the slices' normal (gantry tilt)."""
    apart_mm: float
    """Largest distance of a slice from the grid."""

    @property
    def depth(self) -> int:
        """Number of slices of the grid, missing ones included."""
        return self.slices[-1] + 1

    @property
    def missing(self) -> tuple[int, ...]:
        """Indices of the missing slices."""
        return tuple(sorted(set(range(self.depth)) - set(self.slices)))

    def describe_missing(self) -> str:
        """Return where slices are missing, such as "a slice is missing near z = 33.1 mm"."""
        runs = [
            [index for _, index in run]
            for _, run in groupby(enumerate(self.missing), key=lambda one: one[1] - one[0])
        ]
        named = [self._describe_run(run) for run in runs[:5]] + ["…"] * (len(runs) > 5)
        return ", ".join(named)

    def _describe_run(self, run: list[int]) -> str:
        axis = int(np.abs(self._normal).argmax())
        first, last = (
            float((self.ras_from_voxel @ [0, 0, index, 1])[axis]) for index in (run[0], run[-1])
        )
        what = "a slice is" if len(run) == 1 else f"{len(run)} slices are"
        where = f"{first:.1f}" if len(run) == 1 else f"{first:.1f} to {last:.1f}"
        return f"{what} missing near {'xyz'[axis]} = {where} mm{' (RAS)' if axis < 2 else ''}"

    @property
    def _normal(self) -> Float[np.ndarray, " 3"]:
        return np.asarray(np.cross(self.ras_from_voxel[:3, 0], self.ras_from_voxel[:3, 1]))


def place_frames(stack: FrameStack, allow_gaps: bool = False) -> PlacedFrames:
    """Place the frames of a volume on an even grid (DICOM PS3.3 C.7.6.2.1.1).

    Voxel axes are the image's columns and rows and the order of slices along their normal.
    Raises `InputError` for invalid or uneven positions; for missing slices, too, unless they
    are few and `allow_gaps`.
    """
    frames = stack.frames
    positions = stack_numbers(frames, "ImagePositionPatient", lambda one: one.position, 3)
    orientation, spacing = frames[0].orientation, frames[0].spacing
    assert orientation is not None
    assert spacing is not None
    if spacing.min() <= 0:
        raise InputError(
            "spacing-zero", f"PixelSpacing must be positive; found {spacing.min():g} mm."
        )
    along_row, along_column = orientation[:3], orientation[3:]
    products = [along_row @ along_row, along_column @ along_column, along_row @ along_column]
    if not np.allclose(products, [1, 1, 0], rtol=0, atol=UNIT_TOLERANCE):
        raise InputError(
            "dicom-geometry",
            "ImageOrientationPatient must hold two perpendicular unit vectors; it does not.",
        )
    normal = np.cross(along_row, along_column)
    order: list[int] = np.argsort(positions @ normal, kind="stable").tolist()
    positions = positions[order]
    if len(order) > 1:
        step, slices, apart_mm = _even_steps(positions, normal)
    else:
        step, slices, apart_mm = normal * _thickness_mm(frames[0]), (0,), 0.0
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, 0] = along_row * spacing[1]  # PixelSpacing: rows first
    lps_from_voxel[:3, 1] = along_column * spacing[0]
    lps_from_voxel[:3, 2] = step
    lps_from_voxel[:3, 3] = positions[0]
    placed = PlacedFrames(
        tuple(frames[index] for index in order),
        slices,
        LPS_FROM_RAS @ lps_from_voxel,
        _tilt_degrees(step, normal),
        apart_mm,
    )
    count = len(placed.missing)
    if count > MAX_MISSING * len(order):
        raise _uneven_error(positions, normal)
    if count and not allow_gaps:
        raise InputError(
            "dicom-gap",
            f"Slices must be evenly spaced; of {placed.depth} slices, "
            f"{placed.describe_missing()}{_describe_tilt(placed.tilt_degrees)}.",
            missing=count,
        )
    return placed


def _thickness_mm(frame: Frame) -> float:
    """Return the extent of a single slice along its normal."""
    thickness_mm = frame.thickness_mm
    if thickness_mm is None:
        raise InputError(
            "dicom-one-slice",
            "One slice must state its extent; its SliceThickness is empty or missing.",
        )
    return thickness_mm


def _tilt_degrees(step: Float64[np.ndarray, " 3"], normal: Float64[np.ndarray, " 3"]) -> float:
    across = np.linalg.norm(np.cross(step, normal))
    return float(np.degrees(np.arctan2(across, abs(float(step @ normal)))))


def _describe_tilt(degrees: float) -> str:
    return f" (and the gantry is tilted by {degrees:.1f}°)" if degrees >= TILT_DEGREES else ""


def _even_steps(
    positions: Float64[np.ndarray, "n 3"], normal: Float64[np.ndarray, " 3"]
) -> tuple[Float64[np.ndarray, " 3"], tuple[int, ...], float]:
    """Return the step from one slice to the next, every position's index, and its largest error.

    Positions are sorted along the normal. Raises `InputError` where they are not even.
    """
    distances = np.diff(positions @ normal)
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])  # a gap is rarer than a step
    counts = np.maximum(np.rint(distances / max(usual, 1e-9)), 1)
    index = np.concatenate([[0.0], np.cumsum(counts)])
    step = (positions[-1] - positions[0]) / index[-1]
    apart = np.linalg.norm(positions - positions[0] - index[:, None] * step, axis=1)
    if usual <= 0 or apart.max() > POSITION_TOLERANCE * usual:
        raise _uneven_error(positions, normal)
    return step, tuple(int(one) for one in index), float(apart.max())


def _uneven_error(
    positions: Float64[np.ndarray, "n 3"], normal: Float64[np.ndarray, " 3"]
) -> InputError:
    """Make the error of uneven positions, with their distances in mm or how far they lie off."""
    distances = np.diff(positions @ normal)
    if np.ptp(distances) <= POSITION_TOLERANCE * distances.min():
        line = np.linspace(positions[0], positions[-1], len(positions))
        beside_mm = np.linalg.norm(positions - line, axis=1).max()
        return InputError(
            "dicom-gap",
            "Slices must be stacked along one straight line; they lie up to "
            f"{beside_mm:.2f} mm beside it.",
        )
    counted = Counter(f"{distance:.2f}" for distance in distances).most_common()
    named = [f"{count} × {value} mm" for value, count in counted[:3]]
    text = ", ".join(named)
    if len(counted) > 3:
        text = f"from {distances.min():.2f} to {distances.max():.2f} mm, most often {named[0]}"
    tilt = _describe_tilt(_tilt_degrees(positions[-1] - positions[0], normal))
    near = int(np.count_nonzero(distances < POSITION_TOLERANCE * distances.max()))
    drift = f" Repeats (times, echoes) may have moved: {near} are almost none." if near else ""
    return InputError(
        "dicom-gap",
        f"Slices must be evenly spaced; their distances are {text}{tilt}.{drift}",
        **({"near": near} if near else {}),
    )
