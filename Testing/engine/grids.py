"""Seeded voxel grids as scanners and converters make them, and findings on whole grids."""

from dataclasses import dataclass

import numpy as np
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.scoring.findings import Finding, find_in_box
from SpatialARAnomalyLib.engine.specs import Plane


@dataclass(frozen=True)
class Grid:
    """A shape [k, j, i] placed in the patient."""

    shape_kji: tuple[int, int, int]
    ras_from_voxel: np.ndarray

    def ras(self) -> np.ndarray:
        """RAS mm of every voxel, [3, k, j, i]."""
        k, j, i = np.indices(self.shape_kji, dtype=float)
        points = np.stack([i, j, k, np.ones(self.shape_kji)])
        return np.tensordot(self.ras_from_voxel, points, axes=1)[:3]


def rotation(random: np.random.RandomState, max_degrees: float) -> np.ndarray:
    """A rotation about a random axis by at most so many degrees (Rodrigues)."""
    axis = random.normal(size=3)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(random.uniform(0, max_degrees))
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def random_grid(
    seed: int, *, plane: Plane, slices: int, largest_mm: float = 260.0, max_degrees: float = 25.0
) -> Grid:
    """An oblique, anisotropic (0.5 to 6 mm), non-square grid of any handedness and axis order.

    It has `slices` slices along `plane`, and between 60 mm and `largest_mm` in it.
    """
    random = np.random.RandomState(seed)
    through = {Plane.SAGITTAL: 0, Plane.CORONAL: 1, Plane.AXIAL: 2}[plane]
    spacing = random.uniform(0.5, 6.0, size=3)
    extent = random.uniform(60.0, largest_mm, size=3)
    counts = np.maximum(2, np.round(extent / spacing)).astype(int)
    counts[through] = slices
    # Anatomical axes, turned a little, then stored in any order and direction.
    order = random.permutation(3)
    signs = random.choice([-1.0, 1.0], size=3)
    axes = rotation(random, max_degrees) * spacing * signs
    ras_from_voxel = np.eye(4)
    ras_from_voxel[:3, :3] = axes[:, order]
    counts = counts[order]
    middle = ras_from_voxel[:3, :3] @ ((counts - 1) / 2)
    ras_from_voxel[:3, 3] = random.uniform(-80, 80, size=3) - middle
    return Grid((int(counts[2]), int(counts[1]), int(counts[0])), ras_from_voxel)


def find(
    nll: np.ndarray,
    ras_from_voxel: np.ndarray,
    calibration: Calibration,
    threshold_nll: float,
    min_volume_ml: float,
) -> tuple[list[Finding], np.ndarray]:
    """The findings of an NLL volume and their label map on the whole grid."""
    findings, box = find_in_box(nll, ras_from_voxel, calibration, threshold_nll, min_volume_ml)
    return findings, np.zeros(nll.shape, np.uint16) if box is None else box.on_grid(nll.shape)
