"""The ranks of findings as numbers in the views, beside the findings."""

import math
from collections.abc import Sequence

import slicer
import vtk
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import REJECTED, Row, peakOf
from SpatialARAnomalyLib.slicerapp.scene.Result import Result

MOST = 50
"""Findings that are numbered, the strongest first."""

TEXT_SCALE, POINT_SCALE = 3.5, 0.5
"""Size of the numbers, and of the points beside them, in percent of the view."""

MARGIN_MM = 3.0
"""Distance of a number from a ball of the finding's volume."""

COLOR = (1.0, 1.0, 0.6)

BACKGROUND_OPACITY = 0.6
"""Opacity of the black behind a number, which a bright lesion would hide."""


def showNumbers(result: Result, rows: Sequence[Row]) -> None:
    """Show the number of every finding that is not rejected; the strongest come first."""
    kept = [row for row in rows if row["status"] != REJECTED][:MOST]
    node = result.numbers
    if node is None:
        if not kept:
            return
        node = _addNumbers(result)
    wanted = [(str(row["rank"]), _besideOf(row)) for row in kept]
    shown = [
        (node.GetNthControlPointLabel(index), tuple(node.GetNthControlPointPosition(index)))
        for index in range(node.GetNumberOfControlPoints())
    ]
    if shown == wanted:
        return
    modified = node.StartModify()
    node.RemoveAllControlPoints()
    for text, place in wanted:
        node.AddControlPoint(vtk.vtkVector3d(*place), text)
    node.EndModify(modified)


def _besideOf(row: Row) -> tuple[float, float, float]:
    """Return a place in front of the finding, in the peak's axial and sagittal slice."""
    r, a, s = peakOf(row)
    radiusMm = (3000 * row["volume_ml"] / (4 * math.pi)) ** (1 / 3)
    return r, a + radiusMm + MARGIN_MM, s


def _addNumbers(result: Result) -> "slicer.vtkMRMLMarkupsFiducialNode":
    scene = slicer.mrmlScene
    node = scene.AddNewNodeByClass(
        "vtkMRMLMarkupsFiducialNode",
        scene.GenerateUniqueName(_("{name} numbers").format(name=result.volume.GetName())),
    )
    node.SetAndObserveTransformNodeID(result.volume.GetTransformNodeID())
    node.CreateDefaultDisplayNodes()
    node.SetLocked(True)
    display = node.GetDisplayNode()
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(True)
    display.SetGlyphScale(POINT_SCALE)
    display.SetTextScale(TEXT_SCALE)
    text = display.GetTextProperty()
    text.SetBackgroundColor(0.0, 0.0, 0.0)
    text.SetBackgroundOpacity(BACKGROUND_OPACITY)
    display.SetColor(*COLOR)
    display.SetSelectedColor(*COLOR)
    result.numbers = node
    return node
