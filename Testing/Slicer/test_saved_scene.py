"""A saved scene brings everything back: result, threshold, reviews, panel."""

import numpy as np
import pytest
from Harness import run_events
from Slicer.test_export import comment, reviewed_result
from Slicer.test_review import mask, move_threshold, rows_of, statuses


def saved_and_loaded(module, path, scene, *, clear: bool = True):
    """The result after the scene was saved, closed and loaded again."""
    import slicer
    from SpatialARAnomalyLib.slicerapp.Result import Result

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
    """Where every segment's voxels are, RAS mm: count and centroid."""
    from SpatialARAnomalyLib.slicerapp.Segments import _described

    described = _described(result.segmentation)
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
    assert opened.ui.findingsTable.item(0, 8).text() == "äußerst, auffällig"
    for now, earlier in zip(places(result), before["places"], strict=True):
        assert now == pytest.approx(earlier, abs=0.01)
    display = result.volume.GetDisplayNode()
    assert display.GetLowerThreshold() == pytest.approx(before["threshold"])
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == pytest.approx(
        before["range"], rel=1e-5
    )
    assert not display.GetAutoWindowLevel()
    assert display.GetApplyThreshold()
    assert display.GetColorNode().GetName() == "NLL"
    assert len(slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")) == 1
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
    from Slicer.heads import add_head

    other, _ = add_head("Before", seed=23)
    slicer.util.setSliceViewerLayers(background=other, foreground=None)
    reviewed_result(opened)
    saved_and_loaded(opened, tmp_path / "scene.mrb", scene)
    assert opened.ui.restoreViewsButton.isEnabled()
    opened.ui.restoreViewsButton.click()
    red = scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert scene.GetNodeByID(red.GetBackgroundVolumeID()).GetName() == "Before"
    assert red.GetForegroundVolumeID() is None


def test_a_scene_loaded_beside_another_keeps_its_result_whole(opened, scene, tmp_path):
    import slicer
    from Slicer.heads import add_head
    from SpatialARAnomalyLib.slicerapp.Result import Result

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
