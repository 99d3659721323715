"""Segments: one label map for all findings, and the detection of edits."""

import numpy as np
import pytest
from slicerapp.panels.test_detection import placed, world
from slicerapp.results import AFFINE, PEAKS_KJI, add_result


def image_of(result, name: str):
    segment = result.segmentation.GetSegmentation().GetSegment(name)
    return segment.GetRepresentation("Binary labelmap")


@pytest.mark.parametrize("placing", ["plain", "oblique left-handed", "sheared"])
def test_every_finding_lies_in_the_scene_where_its_voxels_do(placing, scene):
    import slicer
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows
    from SpatialARAnomalyLib.slicerapp.scene.Segments import labelArray

    result = add_result(placed(placing, AFFINE))
    for row, peak in zip(readRows(result.table), PEAKS_KJI, strict=True):
        name = f"Finding_{row['rank']}"
        labels, affine = labelArray(image_of(result, name))
        kji = np.argwhere(labels == row["rank"])
        centroid = affine @ [*kji.mean(axis=0)[::-1], 1.0]
        expected = [row[f"centroid_{axis}_mm"] for axis in "ras"]
        assert centroid[:3] == pytest.approx(expected, abs=1e-3)
        voxels = slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentation, name, result.scan)
        assert np.count_nonzero(voxels) == row["voxels"]
        assert voxels[peak]
        place = [row[f"peak_{axis}_mm"] for axis in "ras"]
        assert place == pytest.approx(world(result.scan, np.array(peak)), abs=1e-3)


def test_all_findings_share_one_image(scene):
    result = add_result()
    assert image_of(result, "Finding_1") is image_of(result, "Finding_3")
    assert result.segmentation.GetSegmentation().GetNumberOfLayers("Binary labelmap") == 1


def recolor(node) -> None:
    node.GetSegmentation().GetSegment("Finding_1").SetColor(0.1, 0.2, 0.3)


def hide(node) -> None:
    node.GetDisplayNode().SetSegmentVisibility("Finding_1", False)


def smooth_surface(node) -> None:
    node.CreateClosedSurfaceRepresentation()


@pytest.mark.parametrize("look", [recolor, hide, smooth_surface])
def test_another_look_is_no_edit(look, scene):
    from SpatialARAnomalyLib.slicerapp.scene.Segments import wasEdited

    result = add_result()
    look(result.segmentation)
    assert not wasEdited(result.segmentation)


def change_a_voxel(node) -> None:
    from SpatialARAnomalyLib.slicerapp.scene.Segments import labelArray

    image = node.GetSegmentation().GetSegment("Finding_1").GetRepresentation("Binary labelmap")
    labels, _affine = labelArray(image)
    labels[0, 0, -1] = 1
    image.GetPointData().GetScalars().Modified()


def swap_names(node) -> None:
    first, second = (node.GetSegmentation().GetSegment(f"Finding_{rank}") for rank in (1, 2))
    names = first.GetName(), second.GetName()
    second.SetName(names[0])
    first.SetName(names[1])


def empty_a_segment(node) -> None:
    node.GetSegmentation().GetSegment("Finding_2").RemoveAllRepresentations()


@pytest.mark.parametrize("edit", [change_a_voxel, swap_names, empty_a_segment])
def test_the_least_edit_is_known(edit, scene):
    from SpatialARAnomalyLib.slicerapp.scene.Segments import wasEdited

    result = add_result()
    edit(result.segmentation)
    assert wasEdited(result.segmentation)


@pytest.mark.parametrize("text", ["", "{", "null", "3", "[1]", "{}", '{"Finding_1": 1}'])
def test_a_note_somebody_changed_makes_it_an_edited_one(text, scene):
    from SpatialARAnomalyLib.slicerapp.scene import Segments

    result = add_result()
    result.segmentation.SetAttribute(Segments.WRITTEN, text)
    Segments._writtenTimes.clear()  # as in another session
    assert Segments.wasEdited(result.segmentation)


@pytest.mark.parametrize(
    ("name", "rank"),
    [("Finding_1", 1), ("Finding_12", 12), ("Finding_0", None), ("Finding_01", None),
     ("Finding_1 copy", None), ("Segment_1", None), ("", None)],
)  # fmt: skip
def test_only_our_own_names_have_a_rank(name, rank, app):
    from SpatialARAnomalyLib.slicerapp.scene.Segments import rankOf

    assert rankOf(name) == rank


def test_layers_that_overlap_are_merged_and_cropped_to_the_grid(scene):
    """A user's segment that reaches beyond the scan loses what is outside."""
    import slicer
    from SpatialARAnomalyLib.slicerapp.scene.Segments import _orientedImage
    from SpatialARAnomalyLib.slicerapp.tasks.Export import collectSegments

    result = add_result()
    shape = slicer.util.arrayFromVolume(result.volume).shape
    before, start, _segments = collectSegments(result, set())
    expected = np.zeros(shape, int)
    box = tuple(slice(a, a + b) for a, b in zip(start, before.shape, strict=True))
    expected[box] = before
    segment = slicer.vtkSegment()
    segment.SetName("Mine")
    segment.SetLabelValue(1)
    mine = _orientedImage(np.ones((4, 9, 12), np.uint8), (-2, 30, -3), AFFINE)
    segment.AddRepresentation("Binary labelmap", mine)
    result.segmentation.GetSegmentation().AddSegment(segment, "mine")
    labels, start, segments = collectSegments(result, set())
    expected[:2, 30:36, :9] = 4
    found = np.zeros(shape, int)
    box = tuple(slice(a, a + b) for a, b in zip(start, labels.shape, strict=True))
    found[box] = labels
    assert np.array_equal(found, expected)
    assert [one["value"] for one in segments] == [1, 2, 3, 4]


def test_resampling_of_a_foreign_grid_takes_the_nearest_voxel(scene):
    """Compare with SimpleITK, on an oblique grid."""
    import SimpleITK as sitk
    from SpatialARAnomalyLib.slicerapp.scene.LabelsOnGrid import cropToGrid

    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, (7, 11, 9)).astype(np.uint16)
    grid, size = np.diag([1.5, 1.2, 2.0, 1.0]), np.array([8, 20, 16])
    affine = placed("oblique left-handed", np.diag([1.7, 1.3, 2.3, 1.0]))
    affine[:3, 3] = (1.03, 5.02, 9.01)
    orthogonal = np.linalg.svd(affine[:3, :3] / [1.7, 1.3, 2.3])
    affine[:3, :3] = orthogonal.U @ orthogonal.Vh * [1.7, 1.3, 2.3]
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((1.7, 1.3, 2.3))
    image.SetDirection((affine[:3, :3] / [1.7, 1.3, 2.3]).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            image, size[::-1].tolist(), sitk.Transform(), sitk.sitkNearestNeighbor,
            (0.0, 0.0, 0.0), (1.5, 1.2, 2.0), np.eye(3).ravel().tolist(), 0,
        )
    )  # fmt: skip
    found, start = cropToGrid(labels, affine, grid, size)
    whole = np.zeros(tuple(size), np.uint16)
    box = tuple(slice(a, a + b) for a, b in zip(start, found.shape, strict=True))
    whole[box] = found
    assert expected.any()
    assert np.array_equal(whole, expected)
