"""Nodes and scenes go to files and come back."""

from pathlib import Path

import numpy as np
import pytest


def _volume(name: str = "ct"):
    import slicer

    values = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    volume = slicer.util.addVolumeFromArray(values, name=name)
    matrix = np.diag([-1.5, -2.0, 3.0, 1.0])  # right-handed: others are turned round by readers
    matrix[:3, 3] = 1, 2, 3
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return volume


def _matrix(volume) -> np.ndarray:
    import slicer
    import vtk

    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


@pytest.mark.parametrize("extension", [".nrrd", ".nii.gz", ".mha"])
def test_a_volume_comes_back_with_its_place(scene, tmp_path: Path, extension: str) -> None:
    import slicer

    volume = _volume()
    path = tmp_path / f"ct{extension}"
    assert slicer.util.saveNode(volume, str(path))
    again = slicer.util.loadVolume(str(path), {"name": "again"})
    assert again.GetName() == "again"
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(again), slicer.util.arrayFromVolume(volume)
    )
    np.testing.assert_allclose(_matrix(again), _matrix(volume), atol=1e-6)


def test_a_loaded_volume_is_shown_unless_told_otherwise(scene, tmp_path: Path) -> None:
    import slicer

    path = str(tmp_path / "ct.nrrd")
    slicer.util.saveNode(_volume(), path)
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    slicer.util.loadVolume(path, {"show": False})
    assert composite.GetBackgroundVolumeID() is None
    shown = slicer.util.loadVolume(path)
    assert composite.GetBackgroundVolumeID() == shown.GetID()


def test_a_label_map_is_one(scene, tmp_path: Path) -> None:
    import slicer

    path = str(tmp_path / "labels.nrrd")
    slicer.util.saveNode(_volume(), path)
    assert slicer.util.loadLabelVolume(path).IsA("vtkMRMLLabelMapVolumeNode")


def test_a_segmentation_comes_back(scene, tmp_path: Path) -> None:
    import slicer

    volume = _volume()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segment = node.GetSegmentation().AddEmptySegment("lesion", "lesion")
    mask = (slicer.util.arrayFromVolume(volume) > 40).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment, volume)
    path = str(tmp_path / "a.seg.nrrd")
    assert slicer.util.saveNode(node, path)
    again = slicer.util.loadSegmentation(path)
    assert again.GetSegmentation().GetNthSegment(0).GetName() == "lesion"
    found = slicer.util.arrayFromSegmentBinaryLabelmap(again, "lesion", volume)
    np.testing.assert_array_equal(found, mask)


def test_a_table_and_a_text_come_back(scene, tmp_path: Path) -> None:
    import slicer

    table = scene.AddNewNodeByClass("vtkMRMLTableNode")
    slicer.util.updateTableFromArray(table, np.array([[1.5, 2.5]]), ["a", "b"])
    assert slicer.util.saveNode(table, str(tmp_path / "findings.tsv"))
    again = slicer.util.loadTable(str(tmp_path / "findings.tsv"))
    assert again.GetNumberOfColumns() == 2
    text = scene.AddNewNodeByClass("vtkMRMLTextNode")
    text.SetText("report")
    assert slicer.util.saveNode(text, str(tmp_path / "report.txt"))
    assert slicer.util.loadText(str(tmp_path / "report.txt")).GetText() == "report"


def test_exporting_does_not_change_where_a_node_is_kept(scene, tmp_path: Path) -> None:
    import slicer

    volume = _volume()
    assert slicer.util.exportNode(volume, str(tmp_path / "export.nrrd"))
    assert (tmp_path / "export.nrrd").exists()
    assert volume.GetStorageNode() is None


@pytest.mark.parametrize("extension", ["mrb", "mrml"])
def test_a_scene_comes_back(scene, tmp_path: Path, extension: str) -> None:
    import slicer

    volume = _volume("chest")
    slicer.util.saveNode(volume, str(tmp_path / "chest.nrrd"))
    path = str(tmp_path / f"scene.{extension}")
    assert slicer.util.saveScene(path)
    scene.Clear(False)
    slicer.util.loadScene(path)
    again = slicer.util.getNode("chest")
    assert slicer.util.arrayFromVolume(again).sum() == np.arange(60).sum()


def test_a_file_that_is_not_there_is_slicers_error(scene, tmp_path: Path) -> None:
    import slicer

    with pytest.raises(RuntimeError, match="load"):
        slicer.util.loadVolume(str(tmp_path / "none.nrrd"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.seg.nrrd", "SegmentationFile"),
        ("a.nrrd", "VolumeFile"),
        ("a.csv", "TableFile"),
        ("a.ctbl", "ColorTableFile"),
        ("a.mrb", "SceneFile"),
        ("a.unknown", "VolumeFile"),
    ],
)
def test_the_ending_tells_the_kind_of_file(app, name: str, expected: str) -> None:
    assert app.coreIOManager().fileType(name) == expected
