"""A saved scene restores result, threshold, reviews and panel."""

from typing import Any

import numpy as np
import pytest
from Harness import run_events
from slicerapp.panels.test_detection import OBLIQUE, placed
from slicerapp.panels.test_export import comment, reviewed_result
from slicerapp.panels.test_review import mask, move_threshold, rows_of, statuses
from slicerapp.results import AFFINE, add_result
from slicerapp.scene.test_findings_table import ODD

pytestmark = pytest.mark.slow


def saved_and_loaded(module, path, scene, *, clear: bool = True):
    """Save, close and load the scene; return the result."""
    import slicer
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

    assert slicer.util.saveScene(str(path))
    if clear:
        scene.Clear(0)
        run_events()
        assert module.ui.findingsTable.rowCount == 0
    slicer.util.loadScene(str(path))
    run_events()
    (result,) = Result.all()
    return result


def places(result) -> list[np.ndarray]:
    """Return the count and centroid (RAS mm) of every segment's voxels."""
    from SpatialARAnomalyLib.slicerapp.scene.Segments import describeSegments

    described = describeSegments(result.segmentation)
    return [np.array([one["voxels"], *one["centroid"]]) for one in described.values()]


@pytest.mark.parametrize("kind", ["plain", "oblique left-handed"])
def test_a_saved_scene_brings_everything_back(kind, opened, scene, tmp_path):
    import slicer

    result = reviewed_result(opened, kind)
    move_threshold(opened, 1.7)
    opened.ui.opacitySlider.setValue(0.35)
    view = opened.widget.panel.review.view
    view.choose(1)
    opened.ui.acceptButton.click()
    comment(opened, 1, "äußerst, auffällig")
    before = {
        "rows": rows_of(result),
        "places": places(result),
        "rate": result.falsePositiveRate,
        "threshold": result.volume.GetDisplayNode().GetLowerThreshold(),
        "range": (
            result.volume.GetDisplayNode().GetWindowLevelMin(),
            result.volume.GetDisplayNode().GetWindowLevelMax(),
        ),
        "statuses": statuses(opened),
        "name": result.scan.GetName(),
    }
    result = saved_and_loaded(opened, tmp_path / "Szene é.mrb", scene)
    assert opened.ui.resultSelector.currentNode().GetID() == result.id
    assert opened.ui.inputSelector.currentNode().GetName() == before["name"]
    assert opened.ui.thresholdSlider.value == pytest.approx(1.7)
    assert opened.ui.opacitySlider.value == pytest.approx(0.35)
    assert result.falsePositiveRate == before["rate"]
    for row, earlier in zip(rows_of(result), before["rows"], strict=True):
        for name, value in earlier.items():
            # Slicer writes tables as text, with six digits.
            expected = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
            assert row[name] == expected, name
    assert statuses(opened) == before["statuses"]
    assert opened.ui.findingsTable.item(0, 5).text() == "äußerst, auffällig"
    for now, earlier in zip(places(result), before["places"], strict=True):
        assert now == pytest.approx(earlier, abs=0.01)
    display = result.volume.GetDisplayNode()
    assert display.GetLowerThreshold() == pytest.approx(before["threshold"])
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(
        before["range"], abs=2e-5
    )
    assert not display.GetAutoWindowLevel()
    assert display.GetApplyThreshold()
    assert display.GetColorNode().GetName() == "NLL"
    (numbers,) = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode")
    assert result.numbers is numbers
    assert numbers.GetNthControlPointLabel(0) == "1"
    red = scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert red.GetForegroundVolumeID() == result.id
    segment = result.segmentation.GetSegmentation().GetSegment("Finding_1")
    assert segment.GetName() == "Finding 1"
    assert "122451" in segment.GetTerminology()


@pytest.mark.parametrize("kind", ["plain", "oblique left-handed"])
def test_after_loading_the_same_is_found_in_the_same_segmentation(kind, opened, scene, tmp_path):
    result = reviewed_result(opened, kind)
    move_threshold(opened, 1.7)
    expected, count = rows_of(result), places(result)
    move_threshold(opened, 1.3)
    result = saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    segmentation = result.segmentation.GetID()
    move_threshold(opened, 1.7)
    assert result.segmentation.GetID() == segmentation  # nobody had edited it
    for row, earlier in zip(rows_of(result), expected, strict=True):
        assert row["voxels"] == earlier["voxels"]
        assert row["peak_nll"] == pytest.approx(earlier["peak_nll"], abs=1e-4)
        for axis in "ras":
            assert row[f"peak_{axis}_mm"] == pytest.approx(earlier[f"peak_{axis}_mm"], abs=0.01)
    for now, earlier in zip(places(result), count, strict=True):
        assert now == pytest.approx(earlier, abs=0.01)
    assert np.count_nonzero(mask(result, 1)) == expected[0]["voxels"]


def test_edited_segments_are_known_as_edited_after_loading(opened, scene, tmp_path):
    result = reviewed_result(opened)
    result.segmentation.GetSegmentation().GetSegment("Finding_1").SetName("Mine")
    result = saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    mine = result.segmentation
    move_threshold(opened, 2.0)
    assert result.segmentation.GetID() != mine.GetID()
    assert mine.GetSegmentation().GetSegment("Finding_1").GetName() == "Mine"


def test_the_earlier_layers_can_be_restored_after_loading(opened, scene, tmp_path):
    import slicer
    from slicerapp.heads import add_head

    other, _ = add_head("Before", seed=23)
    slicer.util.setSliceViewerLayers(background=other, foreground=None)
    reviewed_result(opened)
    saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    assert opened.widget.panel.review.restoreAction.isEnabled()
    opened.widget.panel.review.restoreAction.trigger()
    red = scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert scene.GetNodeByID(red.GetBackgroundVolumeID()).GetName() == "Before"
    assert red.GetForegroundVolumeID() is None


def test_a_scene_loaded_beside_another_keeps_its_result_whole(opened, scene, tmp_path):
    import slicer
    from slicerapp.heads import add_head
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

    result = reviewed_result(opened)
    rows = rows_of(result)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    run_events()
    add_head("Other", seed=23)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    run_events()
    (loaded,) = Result.all()
    assert loaded.scan is not None
    assert len(rows_of(loaded)) == len(rows)
    assert loaded.segmentation.GetSegmentation().GetNumberOfSegments() == len(rows)


def add_transform(scene) -> Any:
    import slicer

    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    move = np.eye(4)
    move[:3, :3], move[:3, 3] = OBLIQUE, [40.0, -25.0, 10.0]
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(move))
    return transform


@pytest.mark.parametrize("kind", ["plain", "oblique left-handed", "sheared", "transformed"])
def test_any_placing_is_kept_and_searched_alike_after_loading(kind, opened, scene, tmp_path):
    transform = add_transform(scene) if kind == "transformed" else None
    result = add_result(placed(kind, AFFINE), transform=transform)
    review = opened.widget.panel.review
    review.review(result)
    review.view.choose(3)
    opened.ui.rejectButton.click()
    rows, voxels = rows_of(result), places(result)
    peaks = [review._place(row) for row in rows]
    result = saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    mine = result.segmentation.GetID()
    assert not result.segmentation.GetDisplayNode().GetSegmentVisibility("Finding_3")
    for value in (1.1, 2.0):
        assert [review._place(row) for row in rows_of(result)][:1] == [
            pytest.approx(peaks[0], abs=0.01)
        ]
        move_threshold(opened, value)
        assert result.segmentation.GetID() == mine
    assert [row["status"] for row in rows_of(result)] == ["", "", "rejected"]
    for place, earlier in zip(review._rows, peaks, strict=True):
        assert review._place(place) == pytest.approx(earlier, abs=0.01)
    for now, earlier in zip(places(result), voxels, strict=True):
        assert now == pytest.approx(earlier, abs=0.01)
    for row in rows_of(result):
        assert np.count_nonzero(mask(result, row["rank"])) == row["voxels"]


@pytest.mark.parametrize("text", ODD)
def test_any_comment_is_loaded_as_it_was_saved(text, opened, scene, tmp_path):
    result = add_result()
    opened.widget.panel.review.review(result)
    comment(opened, 2, text)
    assert rows_of(result)[1]["comment"] == text
    result = saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    assert [row["comment"] for row in rows_of(result)] == ["", text, ""]
    assert opened.ui.findingsTable.item(1, 5).text() == text
    move_threshold(opened, 2.5)
    assert rows_of(result)[1]["comment"] == text


def test_segments_look_after_loading_as_they_did(opened, scene, tmp_path):
    result = add_result()
    opened.widget.panel.review.review(result)

    def looks(result):
        segments = result.segmentation.GetSegmentation()
        some = [segments.GetNthSegment(i) for i in range(segments.GetNumberOfSegments())]
        return [(one.GetName(), one.GetTerminology(), one.GetLabelValue()) for one in some], [
            channel for one in some for channel in one.GetColor()
        ]

    names, colors = looks(result)
    result = saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    now = looks(result)
    assert now[0] == names
    assert now[1] == pytest.approx(colors, abs=1e-3)
    assert result.segmentation.GetDisplayNode().GetOpacity2DFill() == 0.0
    colors = result.volume.GetDisplayNode().GetColorNode()
    assert colors.GetAttribute("SpatialARAnomaly.ColorMap")
    assert colors.GetNumberOfColors() == 256


def slicer_nodes(kind: str) -> list[Any]:
    import slicer

    return list(slicer.util.getNodesByClass(kind))


def test_reviews_of_findings_that_were_gone_come_back_after_loading(opened, scene, tmp_path):
    result = add_result()
    opened.widget.panel.review.review(result)
    opened.widget.panel.review.view.choose(3)
    opened.ui.acceptButton.click()
    comment(opened, 3, "gone and back")
    move_threshold(opened, 4.2)
    result = saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    assert len(rows_of(result)) == 1
    move_threshold(opened, 2.0)
    assert (rows_of(result)[2]["status"], rows_of(result)[2]["comment"]) == (
        "accepted", "gone and back",
    )  # fmt: skip


def test_a_scene_without_findings_is_loaded_too(opened, scene, tmp_path):
    result = add_result()
    opened.widget.panel.review.review(result)
    move_threshold(opened, 6.0)
    result = saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    assert rows_of(result) == []
    move_threshold(opened, 2.0)
    assert len(rows_of(result)) == result.segmentation.GetSegmentation().GetNumberOfSegments() == 3
    assert len(slicer_nodes("vtkMRMLSegmentationNode")) == 1


def test_results_of_two_scenes_stand_side_by_side(opened, scene, tmp_path):
    import slicer
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

    review = opened.widget.panel.review
    review.review(add_result(name="Saved"))
    review.view.choose(1)
    opened.ui.rejectButton.click()
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    scene.Clear(0)
    run_events()
    review.review(add_result(name="Here"))
    review.view.choose(2)
    opened.ui.acceptButton.click()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    run_events()
    by_name = {result.scan.GetName(): result for result in Result.all()}
    assert set(by_name) == {"Here", "Saved"}
    for name, statuses_ in (("Here", ["", "accepted", ""]), ("Saved", ["rejected", "", ""])):
        opened.ui.resultSelector.setCurrentNode(by_name[name].volume)
        run_events()
        assert [row["status"] for row in rows_of(by_name[name])] == statuses_
        move_threshold(opened, 2.2)
        # Another threshold may rank the findings differently.
        assert sorted(row["status"] for row in rows_of(by_name[name])) == sorted(statuses_)
        visible = {
            one: result.segmentation.GetDisplayNode().GetVisibility()
            for one, result in by_name.items()
        }
        assert [one for one, seen in visible.items() if seen] == [name]


def test_a_scene_saved_again_after_loading_is_the_same(opened, scene, tmp_path):
    result = add_result(placed("oblique left-handed", AFFINE))
    opened.widget.panel.review.review(result)
    rows, voxels = rows_of(result), places(result)
    for number in range(2):
        result = saved_and_loaded(opened, tmp_path / f"scene{number}.mrb", scene)
    for row, earlier in zip(rows_of(result), rows, strict=True):
        assert list(row.values()) == [
            pytest.approx(one, rel=1e-5) if isinstance(one, float) else one
            for one in earlier.values()
        ]
    for now, earlier in zip(places(result), voxels, strict=True):
        assert now == pytest.approx(earlier, abs=0.01)
    move_threshold(opened, 2.0)
    assert len(slicer_nodes("vtkMRMLSegmentationNode")) == 1
