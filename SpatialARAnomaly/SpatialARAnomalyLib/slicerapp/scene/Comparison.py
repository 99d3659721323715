"""The layout *Compare*: the scan beside the scan with its overlay, in linked views."""

import slicer
from slicer.util import getNodesByClass

from SpatialARAnomalyLib.slicerapp.scene.Result import Result

LAYOUT = 5471
"""Number of the layout, which no other one of Slicer has."""

SCAN_VIEW, OVERLAY_VIEW = "AnomalyScan", "AnomalyOverlay"

_VIEW = (
    '<item><view class="vtkMRMLSliceNode" singletontag="{tag}">'
    '<property name="orientation" action="default">Axial</property>'
    '<property name="viewlabel" action="default">{label}</property>'
    '<property name="viewcolor" action="default">{color}</property></view></item>'
)

BEFORE = "SpatialARAnomaly.LayoutBefore"
"""Attribute of the layout node: the layout to return to."""


def _layoutNode() -> "slicer.vtkMRMLLayoutNode | None":
    return slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")


def isComparing() -> bool:
    """Return True while the views are side by side."""
    node = _layoutNode()
    return node is not None and node.GetViewArrangement() == LAYOUT


def compare(result: Result, opacity: float) -> None:
    """Show the scan beside the scan with its overlay."""
    node = _layoutNode()
    if not node.IsLayoutDescription(LAYOUT):
        views = _VIEW.format(tag=SCAN_VIEW, label="S", color="#8C8C8C")
        views += _VIEW.format(tag=OVERLAY_VIEW, label="O", color="#D9730F")
        node.AddLayoutDescription(
            LAYOUT, f'<layout type="horizontal" split="true">{views}</layout>'
        )
    node.SetAttribute(BEFORE, str(node.GetViewArrangement()))
    node.RemoveAllMaximizedViewNodes()
    node.SetViewArrangement(LAYOUT)
    for view in getNodesByClass("vtkMRMLSliceCompositeNode"):
        if view.GetLayoutName() in (SCAN_VIEW, OVERLAY_VIEW):
            view.SetBackgroundVolumeID(result.scan.GetID())
            view.SetForegroundVolumeID(result.volume.GetID())
            view.SetForegroundOpacity(opacity)
            view.SetLinkedControl(True)
    keepScanPlain(result)


def fitComparison() -> None:
    """Fit both views to the scan, once they have their size: in the turn after `compare`."""
    manager = slicer.app.layoutManager()
    for name in (SCAN_VIEW, OVERLAY_VIEW) if manager is not None else ():
        manager.sliceWidget(name).sliceLogic().FitSliceToBackground()


def endComparison() -> None:
    """Return to the layout before the comparison."""
    node = _layoutNode()
    node.RemoveAllMaximizedViewNodes()
    node.SetViewArrangement(
        int(node.GetAttribute(BEFORE) or slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
    )
    clearComparison()


def clearComparison() -> None:
    """Empty the views of a comparison that is no longer shown."""
    for view in getNodesByClass("vtkMRMLSliceCompositeNode"):
        if view.GetLayoutName() in (SCAN_VIEW, OVERLAY_VIEW):
            view.SetBackgroundVolumeID(None)
            view.SetForegroundVolumeID(None)
    for result in Result.all():
        keepScanPlain(result)


def keepScanPlain(result: Result) -> None:
    """Show neither overlay nor outlines nor numbers in the view of the scan alone.

    Without a comparison, they are shown in every view.
    """
    others = []
    if isComparing():
        for view in getNodesByClass("vtkMRMLSliceCompositeNode"):
            if view.GetLayoutName() == SCAN_VIEW:
                view.SetForegroundVolumeID(None)
        others = [
            view.GetID()
            for view in getNodesByClass("vtkMRMLAbstractViewNode")
            if view.GetLayoutName() != SCAN_VIEW
        ]
    for node in (result.segmentation, result.numbers):
        display = node.GetDisplayNode() if node is not None else None
        if display is not None and list(display.GetViewNodeIDs()) != others:
            display.SetViewNodeIDs(others)
