"""Positions of voxels: anatomical orientation, spacing, and checks of `ras_from_voxel`.

Arrays are indexed [k, j, i]; `ras_from_voxel` maps the homogeneous index
(i, j, k, 1) to RAS millimeters (x to the patient's Right, y Anterior,
z Superior), as in Slicer and NIfTI. DICOM and ITK use LPS: x and y negated.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from jaxtyping import Float, Shaped

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Plane

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Negates x and y; its own inverse."""

MIN_SPACING_MM = 1e-4
"""Smallest plausible voxel spacing; less is a broken header."""

MIN_AXIS_VOLUME = 1e-3
"""Smallest volume spanned by the three unit axes; less is a singular affine."""

SAME_GRID_VOXELS = 0.05
"""Largest distance of the corners of equal grids, as a share of the smallest spacing.
NIfTI stores affines in single precision, and some programs round them further."""

MAX_SHEAR = 1e-4
"""Largest cosine between two axes of a grid without shear; ITK, too, takes such a NIfTI sform
for orthogonal."""

# For every plane: the anatomical axis (0 R–L, 1 P–A, 2 I–S) and the sign in
# which slices, rows and columns advance, in radiological convention:
#   axial      slices to S, rows to P, columns to L
#   coronal    slices to A, rows to I, columns to L
#   sagittal   slices to R, rows to I, columns to P
_PLANE_AXES: dict[Plane, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    Plane.AXIAL: ((2, +1), (1, -1), (0, -1)),
    Plane.CORONAL: ((1, +1), (2, -1), (0, -1)),
    Plane.SAGITTAL: ((0, +1), (2, -1), (1, -1)),
}


def voxel_spacing_mm(ras_from_voxel: Float[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Return the distance in mm between neighboring voxels along i, j and k."""
    i, j, k = np.linalg.norm(ras_from_voxel[:3, :3], axis=0)
    return float(i), float(j), float(k)


def voxel_ml(ras_from_voxel: Float[np.ndarray, "4 4"]) -> float:
    """Return the volume of one voxel in milliliters."""
    return float(abs(np.linalg.det(ras_from_voxel[:3, :3]))) / 1000.0


def grids_apart_mm(
    one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape_kji: tuple[int, ...]
) -> float:
    """Return the largest distance in mm between the corners of an array under two affines."""
    corners = np.array([[*corner, 1.0] for corner in np.ndindex(2, 2, 2)]).T
    corners[:3] *= np.array(shape_kji[::-1])[:, None] - 1
    return float(np.linalg.norm(((one - other) @ corners)[:3], axis=0).max())


def same_grid(
    one: Float[np.ndarray, "4 4"], other: Float[np.ndarray, "4 4"], shape_kji: tuple[int, ...]
) -> bool:
    """Return True if two affines give the voxels of an array the same positions."""
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
        raise InputError(
            "spacing-zero",
            "Voxel spacing must be positive along every axis; found "
            f"{lengths_text(spacing_mm)} mm.",
        )
    if abs(np.linalg.det(_axes(ras_from_voxel))) < MIN_AXIS_VOLUME:
        raise InputError(
            "affine-singular", "The volume's three axes must span space; its affine is singular."
        )


def shear(ras_from_voxel: Float[np.ndarray, "4 4"]) -> float:
    """Return the largest cosine between two voxel axes, which is 0 for an orthogonal grid."""
    axes = _axes(ras_from_voxel)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def tilt_degrees(ras_from_voxel: Float[np.ndarray, "4 4"]) -> float:
    """Return the angle by which the axes of a sheared grid miss the right angle."""
    return float(np.degrees(np.arcsin(min(shear(ras_from_voxel), 1.0))))


def lengths_text(values: Iterable[float], digits: int = 3) -> str:
    """Return lengths as "0.5 × 0.5 × 5", rounded to significant digits but never to powers."""
    return " × ".join(
        np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")
        for value in values
    )


def _axes(ras_from_voxel: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "3 3"]:
    """Return the unit vectors of the voxel axes as columns."""
    axes: Float[np.ndarray, "3 3"] = ras_from_voxel[:3, :3] / np.asarray(
        voxel_spacing_mm(ras_from_voxel)
    )
    return axes


def _nearest_axes(cosines: Float[np.ndarray, "3 3"]) -> tuple[int, int, int]:
    """Return for every row the column of the nearest axis, each used once."""
    best = max(
        permutations(range(3)),
        key=lambda axes: round(sum(abs(cosines[row, one]) for row, one in enumerate(axes)), 9),
    )
    return best[0], best[1], best[2]


@dataclass(frozen=True)
class PlaneOrientation:
    """Reorders a voxel array [k, j, i] to [slice, row, column] of a plane, and back.

    Axes are permuted and reversed, never resampled, so the inverse is exact. LPS, LAS and
    RAS copies of one scan give the same array.
    """

    axes: tuple[int, int, int]
    """Array axes (0 k, 1 j, 2 i) of slice, row and column."""
    reversed_: tuple[bool, bool, bool]
    """True where slice, row or column runs against its array axis."""

    @classmethod
    def of(cls, ras_from_voxel: Float[np.ndarray, "4 4"], plane: Plane) -> "PlaneOrientation":
        """Return the orientation whose slices run along the voxel axes nearest to `plane`."""
        voxel_axis_of = _nearest_axes(_axes(ras_from_voxel))
        axes, against = [], []
        for anatomical, sign in _PLANE_AXES[plane]:
            voxel_axis = voxel_axis_of[anatomical]
            axes.append(2 - voxel_axis)
            against.append(bool(ras_from_voxel[anatomical, voxel_axis] * sign < 0))
        return cls((axes[0], axes[1], axes[2]), (against[0], against[1], against[2]))

    @classmethod
    def towards(
        cls, ras_from_voxel: Float[np.ndarray, "4 4"], grid: Float[np.ndarray, "4 4"]
    ) -> "PlaneOrientation":
        """Return the orientation that puts axes in the order and direction of another grid's."""
        cosines = _axes(grid).T @ _axes(ras_from_voxel)
        nearest = _nearest_axes(cosines)
        k, j, i = nearest[::-1]
        against = [bool(cosines[row, nearest[row]] < 0) for row in (2, 1, 0)]
        return cls((2 - k, 2 - j, 2 - i), (against[0], against[1], against[2]))

    @property
    def _flip(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1) if flip else slice(None) for flip in self.reversed_)

    def apply(self, array: Shaped[np.ndarray, "k j i"]) -> Shaped[np.ndarray, "n r c"]:
        """Return a view of the array as [slice, row, column]."""
        return array.transpose(self.axes)[self._flip]

    def undo(self, array: Shaped[np.ndarray, "n r c"]) -> Shaped[np.ndarray, "k j i"]:
        """Return a view of a [slice, row, column] array as [k, j, i]."""
        return array[self._flip].transpose(np.argsort(self.axes))

    def ras_from_plane(
        self, ras_from_voxel: Float[np.ndarray, "4 4"], shape_kji: tuple[int, int, int]
    ) -> Float[np.ndarray, "4 4"]:
        """Return the affine that maps (column, row, slice, 1) of the reordered array to RAS mm."""
        voxel_from_plane = np.zeros((4, 4))
        voxel_from_plane[3, 3] = 1.0
        for position, (axis, flip) in enumerate(zip(self.axes, self.reversed_, strict=True)):
            column = 2 - position  # slice, row, column are coordinates 2, 1, 0
            voxel_from_plane[2 - axis, column] = -1.0 if flip else 1.0
            if flip:
                voxel_from_plane[2 - axis, 3] = shape_kji[axis] - 1
        return ras_from_voxel @ voxel_from_plane
