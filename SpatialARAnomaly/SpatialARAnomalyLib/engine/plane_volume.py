"""A volume turned to a plane: its slices, and where the body is in them."""

from functools import cached_property

import numpy as np
from jaxtyping import Bool, Num

from .body import body_box, body_mask
from .geometry import PlaneOrientation
from .specs import Modality, Plane
from .volume import Volume


class PlaneVolume:
    """Voxels [slice, row, column] as a view of a volume's, with the body's mask and size."""

    def __init__(self, volume: Volume, plane: Plane, modality: Modality) -> None:
        self.orientation = PlaneOrientation.of(volume.ras_from_voxel, plane)
        self.voxels: Num[np.ndarray, "n r c"] = self.orientation.apply(volume.voxels)
        spacing_kji = volume.spacing_mm[::-1]
        slice_axis, row_axis, column_axis = self.orientation.axes
        self.spacing_mm = (spacing_kji[slice_axis], spacing_kji[row_axis], spacing_kji[column_axis])
        """Distance between slices, rows and columns."""
        self.body: Bool[np.ndarray, "n r c"] = body_mask(self.voxels, self.spacing_mm, modality)

    @cached_property
    def box(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last row, first and last column of the body over all slices."""
        return body_box(self.body)

    @property
    def extent_mm(self) -> tuple[float, float]:
        """Height and width of the body over all slices."""
        (top, bottom), (left, right) = self.box
        _, row_mm, column_mm = self.spacing_mm
        return (bottom - top + 1) * row_mm, (right - left + 1) * column_mm

    @cached_property
    def body_slices(self) -> list[int]:
        """The slices that hold some of the body."""
        return [int(index) for index in np.flatnonzero(self.body.any(axis=(1, 2)))]
