"""The ranks of findings as numbers in the views, at the peaks."""

from collections.abc import Sequence

import slicer
import vtk
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import REJECTED, Row, peakOf
from SpatialARAnomalyLib.slicerapp.scene.Result import Result

MOST = 50
"""Findings that are numbered, the strongest first."""

TEXT_SCALE, POINT_SCALE = 3.5, 0.5
"""Size of the numbers, and of the points that mark the peaks, in percent of the view."""

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
    wanted = [(str(row["rank"]), peakOf(row)) for row in kept]
    shown = [
        (node.GetNthControlPointLabel(index), tuple(node.GetNthControlPointPosition(index)))
        for index in range(node.GetNumberOfControlPoints())
    ]
    if shown == wanted:
        return
    modified = node.StartModify()
    node.RemoveAllControlPoints()
    for text, peak in wanted:
        node.AddControlPoint(vtk.vtkVector3d(*peak), text)
    node.EndModify(modified)


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
