"""How a result is shown: the overlay over the scan, its legend, and the views as they were."""

import json
from itertools import pairwise

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.util import arrayFromVTKMatrix, getNodesByClass, setSliceViewerLayers

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import (
    REJECTED,
    Row,
)
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import ROLE
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.scene.Segments import segmentId

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


ABOVE_ALL = 1e30
"""Upper end of the values shown."""

LEGEND_FORMAT = "%.3g"

LEGEND_FONT_SIZE = 10

LEGEND_SIZE = (0.1, 0.4)
"""Share of the view's width and height."""

MARGIN = 0.05
"""A point this share of a view from its border is as good as outside."""

LAYERS = "SpatialARAnomaly.Layers"
"""Attribute: foreground opacity of every slice view before a result was shown."""


def prepareOverlay(result: Result) -> None:
    """Give the NLL volume its colors, range and legend."""
    volume = result.volume
    scene = slicer.mrmlScene
    # Not by `CreateDefaultDisplayNodes`, which first looks at every voxel for a window.
    display = scene.CreateNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.UnRegister(None)
    # Fixed by the model: an automatic window would show every scan's brightest as alarming.
    display.AutoWindowLevelOff()
    display.AutoThresholdOff()
    scene.AddNode(display)
    display.SetAndObserveColorNodeID(colorNode().GetID())
    display.SetWindowLevelMinMax(*colorRange(result.calibration))
    display.ApplyThresholdOn()
    display.SetInterpolate(True)
    volume.SetAndObserveDisplayNodeID(display.GetID())
    showThreshold(result, result.falsePositiveRate)
    legend = _colorsLogic().AddDefaultColorLegendDisplayNode(volume)
    legend.SetTitleText(_("NLL (nats per channel)"))
    legend.SetLabelFormat(LEGEND_FORMAT)
    legend.SetSize(*LEGEND_SIZE)
    legend.GetTitleTextProperty().SetFontSize(LEGEND_FONT_SIZE)
    legend.GetLabelTextProperty().SetFontSize(LEGEND_FONT_SIZE)
    legend.SetVisibility(True)


def _colorsLogic() -> "slicer.vtkSlicerColorLogic":
    return slicer.modules.colors.logic()


def showThreshold(result: Result, falsePositiveRate: float) -> None:
    """Show only what reaches the threshold of this rate."""
    display = result.volume.GetScalarVolumeDisplayNode()  # the legend is a display node, too
    if display is not None:
        display.SetThreshold(result.calibration.threshold(falsePositiveRate), ABOVE_ALL)


def showReviews(result: Result, rows: list[Row]) -> None:
    """Hide the segments of rejected findings."""
    segmentation = result.segmentation
    if segmentation is None or segmentation.GetDisplayNode() is None:
        return
    display = segmentation.GetDisplayNode()
    modified = display.StartModify()
    for row in rows:
        segment = segmentId(row["rank"])
        if segmentation.GetSegmentation().GetSegment(segment) is not None:
            display.SetSegmentVisibility(segment, row["status"] != REJECTED)
    display.EndModify(modified)


def showResult(result: Result, opacity: float) -> None:
    """Put the overlay over its scan in all slice views, and no other result's segments."""
    setSliceViewerLayers(
        background=result.scan if result.scan is not None else "keep-current",
        foreground=result.volume,
        foregroundOpacity=opacity,
    )
    for legend in _legends(result.volume):
        legend.Modified()  # a view looks at its layers only when the legend changes
    for other in Result.all():
        _setSegmentsVisible(other, other.id == result.id)


def setOpacity(opacity: float) -> None:
    """Set how strong the overlay is where one is shown."""
    for view in _sliceCompositeNodes():
        if _showsResult(view):
            view.SetForegroundOpacity(opacity)


def removeLegend(volume: "slicer.vtkMRMLScalarVolumeNode") -> None:
    """Remove a volume's legend, which Slicer leaves behind when the volume is deleted."""
    for legend in _legends(volume):
        slicer.mrmlScene.RemoveNode(legend)


def _legends(
    volume: "slicer.vtkMRMLScalarVolumeNode",
) -> "list[slicer.vtkMRMLColorLegendDisplayNode]":
    nodes = [volume.GetNthDisplayNode(i) for i in range(volume.GetNumberOfDisplayNodes())]
    return [
        node for node in nodes if node is not None and node.IsA("vtkMRMLColorLegendDisplayNode")
    ]


def jumpTo(ras: tuple[float, float, float]) -> None:
    """Show a point of the scene (RAS mm) in all slice views; they move only if it is outside."""
    for view in getNodesByClass("vtkMRMLSliceNode"):
        view.JumpSliceByOffsetting(*ras)
        xyFromRas = np.linalg.inv(arrayFromVTKMatrix(view.GetXYToRAS()))
        x, y = (xyFromRas @ [*ras, 1.0])[:2]
        width, height = view.GetDimensions()[:2]
        inside = [
            MARGIN * size < place < (1 - MARGIN) * size for place, size in ((x, width), (y, height))
        ]
        if not all(inside):
            view.JumpSliceByCentering(*ras)


def _sliceCompositeNodes() -> "list[slicer.vtkMRMLSliceCompositeNode]":
    return list(getNodesByClass("vtkMRMLSliceCompositeNode"))


def _showsResult(view: "slicer.vtkMRMLSliceCompositeNode") -> bool:
    node = slicer.mrmlScene.GetNodeByID(view.GetForegroundVolumeID() or "")
    return node is not None and bool(node.GetAttribute(ROLE))


def rememberLayers(keeper: "slicer.vtkMRMLNode") -> None:
    """Note in a node what the slice views show, unless that is a result of ours already.

    As node references, which stay right when a scene is saved and loaded.
    """
    views = _sliceCompositeNodes()
    if any(_showsResult(view) for view in views):
        return
    keeper.SetAttribute(
        LAYERS, json.dumps({view.GetLayoutName(): view.GetForegroundOpacity() for view in views})
    )
    for view in views:
        for layer in ("Background", "Foreground", "Label"):
            shown = getattr(view, f"Get{layer}VolumeID")()
            keeper.SetNodeReferenceID(_layerRole(view, layer), shown)


def remembersLayers(keeper: "slicer.vtkMRMLNode") -> bool:
    """Whether there is something to restore."""
    return bool(keeper.GetAttribute(LAYERS))


def restoreLayers(keeper: "slicer.vtkMRMLNode") -> None:
    """Show again what `rememberLayers` noted, as far as it is still in the scene."""
    try:
        opacities = json.loads(keeper.GetAttribute(LAYERS) or "{}")
    except ValueError:
        return
    for view in _sliceCompositeNodes():
        if view.GetLayoutName() not in opacities:
            continue
        modified = view.StartModify()
        for layer in ("Background", "Foreground", "Label"):
            node = keeper.GetNodeReference(_layerRole(view, layer))
            getattr(view, f"Set{layer}VolumeID")(node.GetID() if node is not None else None)
        view.SetForegroundOpacity(float(opacities[view.GetLayoutName()]))
        view.EndModify(modified)
    keeper.RemoveAttribute(LAYERS)
    for result in Result.all():
        _setSegmentsVisible(result, False)


def _layerRole(view: "slicer.vtkMRMLSliceCompositeNode", layer: str) -> str:
    return f"SpatialARAnomaly.{view.GetLayoutName()}.{layer}"


def _setSegmentsVisible(result: Result, visible: bool) -> None:
    segmentation = result.segmentation
    if segmentation is not None and segmentation.GetDisplayNode() is not None:
        segmentation.GetDisplayNode().SetVisibility(visible)
