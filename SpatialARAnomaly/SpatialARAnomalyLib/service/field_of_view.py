"""The field of view that a training takes by itself."""

import math
from collections.abc import Iterable

FOV_MARGIN = 1.1
"""The field of view is by default this many times the largest body of the normals."""

FOV_STEP_MM = 10.0
"""… rounded up to a multiple of this."""


def default_fov_mm(extents_mm: Iterable[tuple[float, float]]) -> float:
    """The side of a square that holds every body, given their heights and widths."""
    largest = max(max(extent) for extent in extents_mm)
    return math.ceil(FOV_MARGIN * largest / FOV_STEP_MM) * FOV_STEP_MM
