"""The stand-ins that show segmentations and tables."""

import numpy as np
import pytest
import qt


@pytest.fixture
def segmentation(scene):
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.CreateDefaultDisplayNodes()
    volume = slicer.util.addVolumeFromArray(np.zeros((8, 8, 8), np.int16))
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name in ("lesion", "organ"):
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[2:5, 2:5, 2:5] = 1
        segment = node.GetSegmentation().AddEmptySegment(name, name)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    return node


@pytest.fixture
def view(segmentation):
    import slicer

    view = slicer.qMRMLSegmentsTableView()
    view.setMRMLScene(slicer.mrmlScene)
    view.setSegmentationNode(segmentation)
    return view


def test_the_segments_are_listed_and_followed(view, segmentation) -> None:
    assert view.displayedSegmentIDs() == ("lesion", "organ")
    segmentation.GetSegmentation().GetSegment("lesion").SetName("finding 1")
    assert view.tableWidget().item(0, 3).text() == "finding 1"
    segmentation.GetSegmentation().RemoveSegment("organ")
    assert view.segmentCount == 1
    view.setSegmentationNode(None)
    assert view.segmentCount == 0


def test_segments_are_selected_by_their_ids(view) -> None:
    changes = []
    view.selectionChanged.connect(lambda *_: changes.append(view.selectedSegmentIDs()))
    view.setSelectedSegmentIDs(["organ"])
    assert view.selectedSegmentIDs() == ("organ",)
    assert changes[-1] == ("organ",)
    assert view.rowForSegmentID("organ") == 1
    assert view.segmentIDForRow(1) == "organ"
    view.clearSelection()
    assert view.selectedSegmentIDs() == ()


def test_segments_can_be_hidden_and_filtered(view) -> None:
    view.setHideSegments(["organ"])
    assert view.displayedSegmentIDs() == ("lesion",)
    view.setHideSegments([])
    view.textFilter = "ORG"
    assert view.displayedSegmentIDs() == ("organ",)


def test_hidden_segments_are_marked(view, segmentation) -> None:
    segmentation.GetDisplayNode().SetSegmentVisibility("lesion", False)
    marks = [view.tableWidget().item(row, 0).text() for row in range(2)]
    assert marks == ["○", "●"]


def test_columns_can_be_left_out(view) -> None:
    view.opacityColumnVisible = False
    view.headerVisible = False
    assert view.tableWidget().isColumnHidden(2)
    assert view.tableWidget().horizontalHeader().isHidden()


def test_surfaces_are_shown_on_demand(segmentation) -> None:
    import slicer

    button = slicer.qMRMLSegmentationShow3DButton()
    assert not button.enabled
    button.setSegmentationNode(segmentation)
    assert (button.enabled, button.checked) == (True, False)
    with pytest.raises(RuntimeError, match="setChecked"):
        button.click()
    button.setChecked(True)
    name = slicer.vtkSegmentationConverter.GetSegmentationClosedSurfaceRepresentationName()
    assert segmentation.GetSegmentation().ContainsRepresentation(name)
    button.setChecked(False)
    assert not segmentation.GetSegmentation().ContainsRepresentation(name)


def test_a_table_is_shown_and_followed(scene) -> None:
    import slicer

    node = scene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(node, np.array([[1.5, 2.0], [3.0, 4.0]]), ["a", "b"])
    view = slicer.qMRMLTableView()
    view.setMRMLTableNode(node)
    model = view.tableModel()
    assert (model.rowCount(), model.columnCount()) == (2, 2)
    assert model.item(0, 0).text() == "1.5"
    assert model.headerData(1, qt.Qt.Horizontal) == "b"
    view.transposed = True
    assert model.headerData(1, qt.Qt.Vertical) == "b"
    node.RemoveAllColumns()
    assert model.columnCount() == 0
