"""Slice views: what they show, where, and that the segments lie over the image."""

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("rendering")


@pytest.fixture
def views(app, scene):
    return {name: app.layoutManager().sliceWidget(name) for name in ("Red", "Yellow", "Green")}


@pytest.fixture
def box(views):
    """An oblique, anisotropic volume that is bright in a box, shown in the views."""
    import slicer
    import vtk

    angle = np.deg2rad(20)
    ras_from_ijk = np.eye(4)
    ras_from_ijk[:3, :3] = np.diag([-1.0, 1.0, 2.5]) @ [
        [np.cos(angle), -np.sin(angle), 0],
        [np.sin(angle), np.cos(angle), 0],
        [0, 0, 1],
    ]
    ras_from_ijk[:3, 3] = 12, -30, 7
    values = np.zeros((20, 50, 60), np.int16)
    values[8:14, 20:30, 10:25] = 1000
    volume = slicer.util.addVolumeFromArray(values, name="box")
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ras_from_ijk))
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    centre = ras_from_ijk @ [17, 24.5, 10.5, 1]
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *centre[:3])
    assert isinstance(volume.GetImageData(), vtk.vtkImageData)
    return volume, ras_from_ijk


def test_there_are_three_views(app) -> None:
    manager = app.layoutManager()
    first = manager.sliceViewNames()[:3]
    assert first == ("Yellow", "Green", "Red")
    orientations = [manager.sliceWidget(name).mrmlSliceNode().GetOrientation() for name in first]
    assert orientations == ["Sagittal", "Coronal", "Axial"]
    assert manager.sliceWidget("Blue") is None
    assert manager.threeDViewCount == 0


@pytest.mark.parametrize("name", ["Red", "Yellow", "Green"])
def test_a_point_lies_where_the_view_shows_it(views, box, name: str) -> None:
    _, ras_from_ijk = box
    view = views[name].view
    pixels = view.pixels()
    assert pixels.shape == (400, 400, 3)
    inside = ras_from_ijk @ [17, 24.5, 10.5, 1]
    row, column = view.pixel_of(tuple(inside[:3]))
    assert pixels[round(row), round(column)].min() == 255
    # Whether a pixel is bright is whether its voxel is in the box.
    wrong = 0
    rows, columns = np.mgrid[5:400:13, 5:400:13]
    for r, c in zip(rows.ravel(), columns.ravel(), strict=True):
        i, j, k, _ = np.linalg.inv(ras_from_ijk) @ [*view.ras_of(r, c), 1]
        depth = min(i - 9.5, 24.5 - i, j - 19.5, 29.5 - j, k - 7.5, 13.5 - k)
        if abs(depth) > 1.0:  # clear of the edge, which is interpolated
            wrong += (pixels[r, c, 0] > 127) != (depth > 0)
    assert wrong == 0


def test_pixels_and_points_are_inverse(views, box) -> None:
    for widget in views.values():
        assert widget.view.pixel_of(widget.view.ras_of(120.0, 33.0)) == pytest.approx((120, 33))


def test_the_fill_of_a_segment_is_blended_with_the_image(views, box) -> None:
    import slicer

    volume, ras_from_ijk = box
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.CreateDefaultDisplayNodes()
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = segmentation.GetSegmentation().AddEmptySegment("lesion", "lesion", (1.0, 0.0, 0.0))
    mask = (slicer.util.arrayFromVolume(volume) > 0).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)
    segmentation.GetDisplayNode().SetOpacity2DFill(0.5)
    view = views["Red"].view
    row, column = view.pixel_of(tuple((ras_from_ijk @ [17, 24.5, 10.5, 1])[:3]))
    red, green, blue = (int(v) for v in view.pixels()[round(row), round(column)])
    assert red == 255
    assert green == blue == pytest.approx(128, abs=3)


def test_a_view_is_written_to_a_picture(views, box, tmp_path) -> None:
    import qt

    views["Red"].view.save(tmp_path / "red.png")
    image = qt.QImage(str(tmp_path / "red.png"))
    assert (image.width(), image.height()) == (400, 400)


def test_the_widgets_reach_slicers_own_logic(views, box) -> None:
    widget = views["Red"]
    assert widget.sliceLogic().GetSliceNode() is widget.mrmlSliceNode()
    assert widget.mrmlSliceCompositeNode().GetBackgroundVolumeID() == box[0].GetID()
    assert widget.sliceView().renderWindow() is widget.view.window
    widget.sliceController().fitSliceToBackground()


def test_the_view_of_a_removed_foreground_takes_another_volume(views, box, scene) -> None:
    import slicer

    volume, _ = box
    over = slicer.util.addVolumeFromArray(np.zeros((4, 4, 4)), name="over")
    slicer.util.setSliceViewerLayers(foreground=over)
    scene.RemoveNode(over)
    assert views["Red"].mrmlSliceCompositeNode().GetForegroundVolumeID() == volume.GetID()


def test_a_layout_makes_its_views(app, scene) -> None:
    import slicer

    manager = app.layoutManager()
    node = manager.layoutLogic().GetLayoutNode()
    view = '<item><view class="vtkMRMLSliceNode" singletontag="{}"/></item>'
    views = "".join(view.format(name) for name in ("Red", "Beside"))
    node.AddLayoutDescription(5123, f'<layout type="horizontal">{views}</layout>')
    manager.setLayout(5123)
    mapped = [
        name
        for name in manager.sliceViewNames()
        if manager.sliceWidget(name).mrmlSliceNode().IsMappedInLayout()
    ]
    assert mapped == ["Red", "Beside"]
    assert slicer.util.getNode("vtkMRMLSliceNodeBeside").GetLayoutName() == "Beside"


def test_a_plot_view_fits_its_chart_once(app, scene) -> None:
    import slicer

    table = scene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, np.array([[1.0, 5.0]]), ["x", "y"])
    series = scene.AddNewNodeByClass("vtkMRMLPlotSeriesNode")
    series.SetAndObserveTableNodeID(table.GetID())
    series.SetXColumnName("x")
    series.SetYColumnName("y")
    series.SetPlotType(series.PlotTypeScatter)
    chart = scene.AddNewNodeByClass("vtkMRMLPlotChartNode")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    manager = app.layoutManager()
    before = manager.layout
    slicer.modules.plots.logic().ShowChartInLayout(chart)
    assert manager.layout != before
    view = manager.plotWidget(0).plotView()
    assert view.chart() is chart
    assert view.brokenLines() == 1
    slicer.util.updateTableFromArray(table, np.array([[1.0, 5.0], [2.0, 3.0]]), ["x", "y"])
    assert (view.hiddenPoints(), view.brokenLines()) == (1, 0)
    chart.SetXAxisRangeAuto(False)
    chart.SetXAxisRange(0, 3)
    chart.SetYAxisRangeAuto(False)
    chart.SetYAxisRange(0, 6)
    assert view.hiddenPoints() == 0
