"""Display of a result: overlay, segments, and the layers of the slice views."""

import json
from itertools import pairwise

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.util import arrayFromVTKMatrix, getNodesByClass, setSliceViewerLayers

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.slicerapp.scene.Comparison import keepScanPlain
from SpatialARAnomalyLib.slicerapp.scene.FindingNumbers import showNumbers
from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import REJECTED, Row
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import ROLE
from SpatialARAnomalyLib.slicerapp.scene.Result import NLL, Result
from SpatialARAnomalyLib.slicerapp.scene.Segments import segmentId

COLOR_MAP = "SpatialARAnomaly.ColorMap"
"""Attribute that marks the scene's color table of NLL."""

COLOR_STOPS = (
    (0.00, (0.10, 0.02, 0.22)),
    (0.25, (0.42, 0.05, 0.42)),
    (0.50, (0.78, 0.20, 0.30)),
    (0.75, (0.97, 0.52, 0.12)),
    (1.00, (0.99, 0.96, 0.62)),
)
"""Position in the map, and color: lightness increases, so that gray prints and any eye show it."""

COLORS = 256

USUAL, RARE = 0.5, 1e-4
"""Shares of normal voxels above the NLL at the start and at the middle of the color map."""

MAX_SHOWN_NLL = 1e30
"""Upper end of the displayed range."""

MARGIN = 0.05
"""Border of a view, as a share of its size, in which a point counts as outside."""

LAYERS = "SpatialARAnomaly.Layers"
"""Attribute: foreground opacity of every slice view before a result was shown."""


def prepareOverlay(result: Result) -> None:
    """Give the NLL volume its colors and range."""
    volume = result.volume
    scene = slicer.mrmlScene
    # `CreateDefaultDisplayNodes` would first read every voxel to set a window.
    display = scene.CreateNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.UnRegister(None)
    # The model sets the range: an automatic one would highlight the maximum of every scan.
    display.AutoWindowLevelOff()
    display.AutoThresholdOff()
    scene.AddNode(display)
    display.SetAndObserveColorNodeID(_colorNode().GetID())
    display.SetWindowLevelMinMax(*_colorRange(result.calibration))
    display.ApplyThresholdOn()
    display.SetInterpolate(True)
    volume.SetAndObserveDisplayNodeID(display.GetID())
    showThreshold(result, result.falsePositiveRate)


def colorGradient() -> str:
    """Return the colors of the overlay as a gradient of Qt's style sheets."""
    stops = (
        f"stop:{position} rgb({', '.join(str(round(255 * one)) for one in color)})"
        for position, color in COLOR_STOPS
    )
    return f"qlineargradient(x1:0, y1:0, x2:1, y2:0, {', '.join(stops)})"


def _colorNode() -> "slicer.vtkMRMLColorTableNode":
    """Return the scene's color table of NLL, added at the first call."""
    for node in _colorNodes():
        return node
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", NLL)
    node.SetAttribute(COLOR_MAP, NLL)
    node.SetAttribute("Category", "SpatialARAnomaly")
    node.SetHideFromEditors(False)  # Slicer does not save hidden nodes with the scene
    node.SetTypeToUser()
    node.SetNumberOfColors(COLORS)
    for index in range(COLORS):
        color = _colorAt(index / (COLORS - 1))
        node.SetColor(index, _("NLL {index}").format(index=index), *color, 1.0)
    return node


def _colorNodes() -> "list[slicer.vtkMRMLColorTableNode]":
    nodes = getNodesByClass("vtkMRMLColorTableNode")
    return [node for node in nodes if node.GetAttribute(COLOR_MAP)]


def _colorAt(position: float) -> list[float]:
    (low, lowColor), (high, highColor) = next(
        (one, other) for one, other in pairwise(COLOR_STOPS) if position <= other[0]
    )
    part = (position - low) / (high - low)
    return [a + part * (b - a) for a, b in zip(lowColor, highColor, strict=True)]


def _colorRange(calibration: Calibration) -> tuple[float, float]:
    """Return the NLL at both ends of the map, which depends on the model only."""
    usual, rare = calibration.threshold(1.0 - USUAL), calibration.threshold(RARE)
    low, high = usual, usual + 2.0 * (rare - usual)
    return (low, high) if high > low else (low, low + 1.0)


def showThreshold(result: Result, falsePositiveRate: float) -> None:
    """Show only voxels at or above the threshold of this rate."""
    display = result.volume.GetScalarVolumeDisplayNode()
    if display is not None:
        display.SetThreshold(result.calibration.threshold(falsePositiveRate), MAX_SHOWN_NLL)


def showReviews(result: Result, rows: list[Row]) -> None:
    """Hide the segments and numbers of rejected findings."""
    showNumbers(result, rows)
    keepScanPlain(result)
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
    """Show the overlay over its scan in all slice views, and the segments of this result only."""
    setSliceViewerLayers(
        background=result.scan if result.scan is not None else "keep-current",
        foreground=result.volume,
        foregroundOpacity=opacity,
    )
    keepScanPlain(result)
    for other in Result.all():
        _setSegmentsVisible(other, other.id == result.id)


def setOpacity(opacity: float) -> None:
    """Set the opacity of the overlay in the views that show one."""
    for view in getNodesByClass("vtkMRMLSliceCompositeNode"):
        if _showsResult(view):
            view.SetForegroundOpacity(opacity)


def removeFromViews(volume: "slicer.vtkMRMLScalarVolumeNode") -> None:
    """Remove an overlay that is about to be deleted from the views, and its colors.

    Slicer would show another volume, mostly the scan, over the scan.
    """
    for view in getNodesByClass("vtkMRMLSliceCompositeNode"):
        if view.GetForegroundVolumeID() == volume.GetID():
            view.SetForegroundVolumeID(None)
    numbers = Result(volume).numbers
    if numbers is not None:
        slicer.mrmlScene.RemoveNode(numbers)
    if all(other.id == volume.GetID() for other in Result.all()):
        for node in _colorNodes():
            slicer.mrmlScene.RemoveNode(node)


def jumpTo(ras: tuple[float, float, float]) -> None:
    """Show a point of the scene (RAS mm) in all slice views; pan only those it is outside of."""
    for view in getNodesByClass("vtkMRMLSliceNode"):
        view.JumpSliceByOffsetting(*ras)
        xyFromRas = np.linalg.inv(arrayFromVTKMatrix(view.GetXYToRAS()))
        xy, size = (xyFromRas @ [*ras, 1.0])[:2], np.array(view.GetDimensions()[:2])
        if not ((xy > MARGIN * size) & (xy < (1 - MARGIN) * size)).all():
            view.JumpSliceByCentering(*ras)


def flicker(result: Result, opacity: float) -> None:
    """Hide overlay, outlines and numbers, or show them again."""
    views = [view for view in getNodesByClass("vtkMRMLSliceCompositeNode") if _showsResult(view)]
    hidden = all(view.GetForegroundOpacity() == 0.0 for view in views)
    setOpacity(opacity if hidden else 0.0)
    _setSegmentsVisible(result, hidden)


def _showsResult(view: "slicer.vtkMRMLSliceCompositeNode") -> bool:
    node = slicer.mrmlScene.GetNodeByID(view.GetForegroundVolumeID() or "")
    return node is not None and bool(node.GetAttribute(ROLE))


def rememberLayers(keeper: "slicer.vtkMRMLNode") -> None:
    """Store the layers of the slice views in a node, unless they already show a result.

    They are node references, which remain valid when a scene is saved and loaded.
    """
    views = getNodesByClass("vtkMRMLSliceCompositeNode")
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
    """Return True if the node holds layers to restore."""
    return bool(keeper.GetAttribute(LAYERS))


def restoreLayers(keeper: "slicer.vtkMRMLNode") -> None:
    """Show the stored layers again, as far as they are still in the scene."""
    try:
        opacities = json.loads(keeper.GetAttribute(LAYERS) or "{}")
    except ValueError:
        return
    for view in getNodesByClass("vtkMRMLSliceCompositeNode"):
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
    for node in (result.segmentation, result.numbers):
        if node is not None and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(visible)
