"""The layout *Compare*, flicker, and the read-out of the voxel under the mouse."""

import numpy as np
import pytest
from Harness import run_events
from slicerapp.results import AFFINE, PEAKS_KJI, add_result


def composite(scene, name: str):
    (view,) = [
        one
        for one in (
            scene.GetNthNodeByClass(i, "vtkMRMLSliceCompositeNode")
            for i in range(scene.GetNumberOfNodesByClass("vtkMRMLSliceCompositeNode"))
        )
        if one.GetLayoutName() == name
    ]
    return view


def test_the_scan_stands_beside_its_overlay_in_linked_views(shown, app, scene):
    module, result = shown
    manager, before = app.layoutManager(), app.layoutManager().layout
    module.widget.panel.review.view.choose(1)
    module.ui.compareButton.click()
    assert module.ui.compareButton.isChecked()
    run_events()
    views = [
        name
        for name in manager.sliceViewNames()
        if manager.sliceWidget(name).mrmlSliceNode().IsMappedInLayout()
    ]
    assert views == ["AnomalyScan", "AnomalyOverlay"]
    plain, overlaid = (composite(scene, name) for name in views)
    assert plain.GetBackgroundVolumeID() == overlaid.GetBackgroundVolumeID() == result.scan.GetID()
    assert plain.GetForegroundVolumeID() is None
    assert overlaid.GetForegroundVolumeID() == result.id
    assert plain.GetLinkedControl()
    assert overlaid.GetLinkedControl()
    for name in views:
        node = manager.sliceWidget(name).mrmlSliceNode()
        shown_in = result.segmentation.GetDisplayNode().IsDisplayableInView(node.GetID())
        assert shown_in == (name == "AnomalyOverlay")
        peak = AFFINE @ [*PEAKS_KJI[0][::-1], 1]
        assert node.GetSliceToRAS().GetElement(2, 3) == pytest.approx(peak[2])
        seen = node.GetFieldOfView()
        manager.sliceWidget(name).fitSliceToBackground()
        assert seen[:2] == node.GetFieldOfView()[:2]
    # Another result is shown in the same way.
    module.widget.panel.review.review(add_result(name="Next"))
    assert plain.GetForegroundVolumeID() is None
    module.ui.compareButton.click()
    assert manager.layout == before
    assert not module.ui.compareButton.isChecked()


def test_the_button_follows_slicers_layout_menu(shown, app, scene):
    module, result = shown
    module.ui.compareButton.click()
    assert result.segmentation.GetDisplayNode().GetViewNodeIDs()
    app.layoutManager().setLayout(4)
    assert not module.ui.compareButton.isChecked()
    assert composite(scene, "AnomalyOverlay").GetForegroundVolumeID() is None
    assert result.segmentation.GetDisplayNode().GetViewNodeIDs() == ()
    app.layoutManager().setLayout(3)


def test_a_scene_saved_while_comparing_has_the_layout_of_before(shown, app, scene):
    """And nothing of the comparison: views made later show outlines and numbers."""
    module, result = shown
    manager, before = app.layoutManager(), app.layoutManager().layout
    layout = scene.GetFirstNodeByClass("vtkMRMLLayoutNode")
    layout.AddMaximizedViewNode(manager.sliceWidget("Red").mrmlSliceNode())
    module.ui.compareButton.click()
    assert layout.GetNumberOfMaximizedViewNodes() == 0
    assert result.numbers.GetDisplayNode().GetViewNodeIDs()
    scene.InvokeEvent(scene.StartSaveEvent)
    assert manager.layout == before
    assert not module.ui.compareButton.isChecked()
    for name in ("AnomalyScan", "AnomalyOverlay"):
        assert composite(scene, name).GetForegroundVolumeID() is None
    for node in (result.segmentation, result.numbers):
        assert node.GetDisplayNode().GetViewNodeIDs() == ()


def test_the_key_hides_overlay_outlines_and_numbers_and_shows_them_again(shown, scene):
    module, result = shown
    red, opacity = composite(scene, "Red"), module.ui.opacitySlider.value
    for hidden in (True, False, True, False):
        module.widget.panel.review._shortcuts["flicker"].activated.emit()
        assert red.GetForegroundOpacity() == (0.0 if hidden else opacity)
        for node in (result.segmentation, result.numbers):
            assert bool(node.GetDisplayNode().GetVisibility()) != hidden


@pytest.mark.parametrize("transformed", [False, True])
def test_the_voxel_under_the_mouse_is_read(opened, scene, transformed):
    import slicer

    transform, move = None, np.eye(4)
    if transformed:
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        move[:3, 3] = 40.0, -25.0, 10.0
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(move))
    result = add_result(transform=transform)
    label = opened.ui.voxelLabel
    assert label.text == ""
    opened.widget.panel.review.review(result)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    for kji, text in (
        (PEAKS_KJI[0], "NLL 4.50: 1 in 10,000 voxels of normal scans"),
        ((0, 0, 0), "NLL 0.50: usual in normal scans"),
        ((99, 0, 0), "Point at the scan to read how unlikely it is."),
    ):
        crosshair.SetCursorPositionRAS((move @ AFFINE @ [*kji[::-1], 1])[:3])
        run_events(0.15)
        assert label.text.startswith(text), kji
    opened.exit()
    crosshair.SetCursorPositionRAS((move @ AFFINE @ [*PEAKS_KJI[0][::-1], 1])[:3])
    run_events(0.15)
    assert label.text == "Point at the scan to read how unlikely it is."
