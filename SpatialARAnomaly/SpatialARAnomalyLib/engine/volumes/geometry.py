"""Where voxels are: anatomical orientation, spacing, and checks of `ras_from_voxel`.

Arrays are indexed [k, j, i]; `ras_from_voxel` maps the homogeneous index
(i, j, k, 1) to RAS millimeters (x to the patient's Right, y Anterior,
z Superior), as in Slicer and NIfTI. DICOM and ITK use LPS: x and y negated.
"""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float, Shaped

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Plane

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Negates x and y; its own inverse."""

MIN_SPACING_MM = 1e-4
"""A voxel thinner than this is a broken header, not a scan."""

MIN_AXIS_VOLUME = 1e-3
"""Least volume spanned by the three unit axes: below it they lie in a plane."""

SAME_GRID_VOXELS = 0.05
"""Grids whose corners lie apart by less than this share of the thinnest spacing are
one: NIfTI keeps places in single precision, and some programs round them further."""

# For every plane: the anatomical axis (0 R–L, 1 P–A, 2 I–S) and the sign in
# which slices, rows and columns advance, as radiologists look at them:
#   axial      slices to S, rows to P, columns to L
#   coronal    slices to A, rows to I, columns to L
#   sagittal   slices to R, rows to I, columns to P
_PLANE_AXES: dict[Plane, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    Plane.AXIAL: ((2, +1), (1, -1), (0, -1)),
    Plane.CORONAL: ((1, +1), (2, -1), (0, -1)),
    Plane.SAGITTAL: ((0, +1), (2, -1), (1, -1)),
}


def voxel_spacing_mm(ras_from_voxel: Float[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Distance in mm between neighbors along i, j and k."""
    i, j, k = np.linalg.norm(ras_from_voxel[:3, :3], axis=0)
    return float(i), float(j), float(k)


def voxel_ml(ras_from_voxel: Float[np.ndarray, "4 4"]) -> float:
    """Volume of one voxel in milliliters."""
    return float(abs(np.linalg.det(ras_from_voxel[:3, :3]))) / 1000.0


def grids_apart_mm(
    one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape_kji: tuple[int, ...]
) -> float:
    """How far two affines put the corner voxels of one array apart, at most."""
    corners = np.array([[*corner, 1.0] for corner in np.ndindex(2, 2, 2)]).T
    corners[:3] *= np.array(shape_kji[::-1])[:, None] - 1
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def same_grid(
    one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape_kji: tuple[int, ...]
) -> bool:
    """Whether two affines put the voxels of one array in the same places."""
    tolerance_mm = SAME_GRID_VOXELS * min(voxel_spacing_mm(one))
    return grids_apart_mm(one, other, shape_kji) <= tolerance_mm


def check_ras_from_voxel(ras_from_voxel: Float[np.ndarray, "4 4"]) -> None:
    """Raise `InputError` unless the matrix places voxels in space."""
    if not np.all(np.isfinite(ras_from_voxel)):
        raise InputError(
            "affine-not-finite", "The volume's affine must be finite; it holds NaN or infinity."
        )
    spacing_mm = voxel_spacing_mm(ras_from_voxel)
    if min(spacing_mm) < MIN_SPACING_MM:
        found = " × ".join(f"{value:g}" for value in spacing_mm)
        raise InputError(
            "spacing-zero", f"Voxel spacing must be positive along every axis; found {found} mm."
        )
    axes = ras_from_voxel[:3, :3] / np.asarray(spacing_mm)
    if abs(np.linalg.det(axes)) < MIN_AXIS_VOLUME:
        raise InputError(
            "affine-singular", "The volume's three axes must span space; its affine is singular."
        )


def _anatomical_axes(ras_from_voxel: Float[np.ndarray, "4 4"]) -> tuple[int, int, int]:
    """For R, A and S: the voxel axis (0 i, 1 j, 2 k) nearest to it, each used once."""
    cosines = np.abs(ras_from_voxel[:3, :3]) / np.asarray(voxel_spacing_mm(ras_from_voxel))
    best = max(
        permutations(range(3)),
        key=lambda axes: round(sum(cosines[ras, axis] for ras, axis in enumerate(axes)), 9),
    )
    return best[0], best[1], best[2]


@dataclass(frozen=True)
class PlaneOrientation:
    """How a voxel array [k, j, i] turns into [slice, row, column] of a plane, and back.

    Axes are only permuted and reversed, never resampled, so the way back is
    exact. An LPS, an LAS and a RAS copy of one scan turn into the same array.
    """

    axes: tuple[int, int, int]
    """The array axis (0 k, 1 j, 2 i) that becomes slice, row and column."""
    reversed_: tuple[bool, bool, bool]
    """Whether slice, row and column run against that axis."""

    @classmethod
    def of(cls, ras_from_voxel: Float[np.ndarray, "4 4"], plane: Plane) -> "PlaneOrientation":
        """The orientation in which a grid is cut along the voxel axes nearest to `plane`."""
        voxel_axis_of = _anatomical_axes(ras_from_voxel)
        axes, against = [], []
        for anatomical, sign in _PLANE_AXES[plane]:
            voxel_axis = voxel_axis_of[anatomical]
            axes.append(2 - voxel_axis)
            against.append(bool(ras_from_voxel[anatomical, voxel_axis] * sign < 0))
        return cls((axes[0], axes[1], axes[2]), (against[0], against[1], against[2]))

    @property
    def _flip(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flip else slice(None) for flip in self.reversed_)

    def apply(self, array: Shaped[np.ndarray, "k j i"]) -> Shaped[np.ndarray, "n r c"]:
        """A view of the array as [slice, row, column]."""
        return array.transpose(self.axes)[self._flip]

    def undo(self, array: Shaped[np.ndarray, "n r c"]) -> Shaped[np.ndarray, "k j i"]:
        """A view of a [slice, row, column] array on the volume's own axes."""
        return array[self._flip].transpose(np.argsort(self.axes))

    def ras_from_plane(
        self, ras_from_voxel: Float[np.ndarray, "4 4"], shape_kji: tuple[int, int, int]
    ) -> Float[np.ndarray, "4 4"]:
        """Maps (column, row, slice, 1) of the turned array to RAS mm."""
        voxel_from_plane = np.zeros((4, 4))
        voxel_from_plane[3, 3] = 1.0
        for position, (axis, flip) in enumerate(zip(self.axes, self.reversed_, strict=True)):
            column = 2 - position  # slice, row, column are coordinates 2, 1, 0
            voxel_from_plane[2 - axis, column] = -1.0 if flip else 1.0
            if flip:
                voxel_from_plane[2 - axis, 3] = shape_kji[axis] - 1
        return ras_from_voxel @ voxel_from_plane
