"""The color map of an overlay: the same for every result of a model."""

from itertools import pairwise

import slicer
from slicer.i18n import tr as _

from ..engine.calibration import Calibration

NAME = "NLL"

ROLE_ATTRIBUTE = "SpatialARAnomaly.ColorMap"

STOPS = (
    (0.00, (0.10, 0.02, 0.22)),
    (0.25, (0.42, 0.05, 0.42)),
    (0.50, (0.78, 0.20, 0.30)),
    (0.75, (0.97, 0.52, 0.12)),
    (1.00, (0.99, 0.96, 0.62)),
)
"""Place in the range, and color: ever lighter, so that it reads in gray and to any eye."""

COLORS = 256

USUAL, RARE = 0.5, 1e-4
"""The map begins at the NLL that this share of normal voxels stays below, and its middle is
the NLL that this share exceeds: what normal scans show is dark, what they do not is light."""


def colorNode() -> "slicer.vtkMRMLColorTableNode":
    """The scene's color table of NLL, made when first needed."""
    for node in slicer.util.getNodesByClass("vtkMRMLColorTableNode"):
        if node.GetAttribute(ROLE_ATTRIBUTE):
            return node
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", NAME)
    node.SetAttribute(ROLE_ATTRIBUTE, "NLL")
    node.SetAttribute("Category", "SpatialARAnomaly")
    node.SetHideFromEditors(False)  # a hidden node is not saved with the scene
    node.SetTypeToUser()
    node.SetNumberOfColors(COLORS)
    for index in range(COLORS):
        red, green, blue = _colorAt(index / (COLORS - 1))
        node.SetColor(index, _("NLL {index}").format(index=index), red, green, blue, 1.0)
    return node


def _colorAt(place: float) -> tuple[float, float, float]:
    (low, lowColor), (high, highColor) = next(
        (one, other) for one, other in pairwise(STOPS) if place <= other[0]
    )
    part = (place - low) / (high - low)
    red, green, blue = (a + part * (b - a) for a, b in zip(lowColor, highColor, strict=True))
    return red, green, blue


def colorRange(calibration: Calibration) -> tuple[float, float]:
    """The NLL at both ends of the map, fixed by the model's normals, not by the scan."""
    usual, rare = calibration.threshold(1.0 - USUAL), calibration.threshold(RARE)
    low, high = usual, usual + 2.0 * (rare - usual)
    return (low, high) if high > low else (low, low + 1.0)
