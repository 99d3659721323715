"""Review: the threshold, the findings one by one, what a reviewer says and edits."""

import math

import numpy as np
import pytest
from Harness import run_events, wait_until
from Slicer.heads import add_head, detected


@pytest.fixture
def reviewed(opened):
    """The module after a detection, with many small findings."""
    opened.ui.leastVolumeSpinBox.setValue(0.0)
    scan, _ = add_head()
    opened.ui.inputSelector.setCurrentNode(scan)
    run_events()
    result = detected(opened)
    assert result is not None, opened.ui.statusLabel.text
    move_threshold(opened, 1.3)
    assert len(rows_of(result)) >= 2
    return opened, result


def move_threshold(module, value: float) -> None:
    """Move the slider and wait until the findings have followed."""
    module.ui.thresholdSlider.setValue(value)
    wait_until(
        lambda: not module.widget.panel.review._rest.isActive() and not module.widget.logic.finding,
        60,
        "the findings",
    )


def rows_of(result):
    from SpatialARAnomalyLib.slicerapp.FindingsTable import readRows

    return readRows(result.table)


def mask(result, rank: int) -> np.ndarray:
    import slicer

    name = f"Finding_{rank}"
    return slicer.util.arrayFromSegmentBinaryLabelmap(result.segmentation, name, result.scan) > 0


def statuses(module) -> list[str]:
    table = module.ui.findingsTable
    return [table.item(row, 1).text() for row in range(table.rowCount)]


def test_the_display_follows_the_slider_at_once(reviewed):
    module, result = reviewed
    for value in (1.5, 2.25, 4.0):
        module.ui.thresholdSlider.setValue(value)
        nll = result.calibration.threshold(10**-value)
        assert result.volume.GetDisplayNode().GetLowerThreshold() == pytest.approx(nll)
        text = module.ui.thresholdValueLabel.text
        assert f"{round(10**value):,}" in text
        assert f"{nll:.3f}" in text
        assert ("rough" in text) == (not result.calibration.supports(10**-value))


def test_findings_follow_when_the_slider_rests_and_are_the_engines(reviewed, warm_worker):
    import slicer
    from SpatialARAnomalyLib.engine.findings import find
    from SpatialARAnomalyLib.slicerapp.NodeConversion import rasFromVoxel

    module, result = reviewed
    asked = []
    submit = warm_worker.submit
    warm_worker.submit = lambda job, **more: (asked.append(job), submit(job, **more))[1]
    try:
        for value in (1.4, 1.9, 2.4, 1.6):
            module.ui.thresholdSlider.setValue(value)
        move_threshold(module, 1.7)
    finally:
        del warm_worker.submit
    assert asked == ["find"]
    nll = slicer.util.arrayFromVolume(result.volume)
    threshold = result.calibration.threshold(10**-1.7)
    findings, labels = find(nll, rasFromVoxel(result.volume), result.calibration, threshold, 0.0)
    rows = rows_of(result)
    assert [row["voxels"] for row in rows] == [finding.voxels for finding in findings]
    for finding in findings:
        assert np.array_equal(mask(result, finding.rank), labels == finding.rank)
    assert result.falsePositiveRate == pytest.approx(10**-1.7)


def test_reviews_follow_their_places_and_come_back(reviewed):
    module, result = reviewed
    view = module.widget.panel.review.view
    view.choose(1)
    module.ui.acceptButton.click()
    view.choose(2)
    module.ui.rejectButton.click()
    module.ui.findingsTable.item(view._rowOf(2), 8).setText('Fäden, "hell"')
    places = {row["rank"]: (row["status"], row["comment"]) for row in rows_of(result)}
    assert places[1] == ("accepted", "")
    assert places[2] == ("rejected", 'Fäden, "hell"')
    move_threshold(module, 6.0)
    gone = rows_of(result)
    assert len(gone) < len(places)
    move_threshold(module, 1.3)
    assert {row["rank"]: (row["status"], row["comment"]) for row in rows_of(result)} == places


def test_a_rejected_segment_is_hidden_and_the_same_button_takes_it_back(reviewed):
    module, result = reviewed
    display = result.segmentation.GetDisplayNode()
    module.widget.panel.review.view.choose(2)
    module.ui.rejectButton.click()
    assert not display.GetSegmentVisibility("Finding_2")
    assert display.GetSegmentVisibility("Finding_1")
    module.ui.rejectButton.click()
    assert display.GetSegmentVisibility("Finding_2")
    assert statuses(module)[1] == ""


def test_undo_steps_back_through_everything(reviewed):
    module, result = reviewed
    view, ui = module.widget.panel.review.view, module.ui
    assert not ui.undoButton.isEnabled()
    view.choose(1)
    ui.acceptButton.click()
    ui.findingsTable.item(0, 8).setText("first")
    view.choose(2)
    ui.rejectButton.click()
    seen = []
    while ui.undoButton.isEnabled():
        seen.append([(row["status"], row["comment"]) for row in rows_of(result)[:2]])
        ui.undoButton.click()
    assert seen == [
        [("accepted", "first"), ("rejected", "")],
        [("accepted", "first"), ("", "")],
        [("accepted", ""), ("", "")],
    ]
    assert [(row["status"], row["comment"]) for row in rows_of(result)[:2]] == [("", "")] * 2


def test_marks_go_to_the_chosen_finding_however_the_table_is_sorted(reviewed):
    import qt

    module, result = reviewed
    module.ui.findingsTable.sortItems(2, qt.Qt.AscendingOrder)
    module.widget.panel.review.view.choose(1)
    module.ui.acceptButton.click()
    assert [row["status"] for row in rows_of(result)][:2] == ["accepted", ""]
    volumes = [
        float(module.ui.findingsTable.item(row, 2).text())
        for row in range(module.ui.findingsTable.rowCount)
    ]
    assert volumes == sorted(volumes)


def test_next_and_previous_stop_at_the_ends(reviewed):
    module, _result = reviewed
    view, count = module.widget.panel.review.view, module.ui.findingsTable.rowCount
    for _ in range(count + 2):
        module.ui.nextButton.click()
    assert view.chosen() == count
    for _ in range(count + 2):
        module.ui.previousButton.click()
    assert view.chosen() == 1


def test_a_click_leads_all_views_to_the_peak(reviewed, scene):
    module, _result = reviewed
    review = module.widget.panel.review
    for rank in (2, 1):
        review.view.choose(rank)
        right, anterior, superior = review._place(review._row(rank))
        for name, axis, place in (
            ("Red", 2, superior), ("Yellow", 0, right), ("Green", 1, anterior),
        ):  # fmt: skip
            node = scene.GetNodeByID(f"vtkMRMLSliceNode{name}")
            assert node.GetSliceToRAS().GetElement(axis, 3) == pytest.approx(place, abs=0.01)


def test_keys_work_only_while_the_module_is_open(reviewed):
    module, _result = reviewed
    shortcuts = [shortcut for shortcut, _action in module.widget.panel.review._shortcuts]
    assert len(shortcuts) == 5
    assert all(shortcut.isEnabled() for shortcut in shortcuts)
    module.exit()
    assert not any(shortcut.isEnabled() for shortcut in shortcuts)
    module.enter()
    view = module.widget.panel.review.view
    view.choose(1)
    shortcuts[0].activated.emit()
    assert view.chosen() == 2


def paint(result) -> None:
    import slicer

    voxels = mask(result, 1).astype(np.uint8)
    voxels[0, 0, :5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        voxels, result.segmentation, "Finding_1", result.scan
    )


def rename(result) -> None:
    result.segmentation.GetSegmentation().GetSegment("Finding_1").SetName("Metastasis?")


def add(result) -> None:
    result.segmentation.GetSegmentation().AddEmptySegment("mine", "Mine")


def remove(result) -> None:
    result.segmentation.GetSegmentation().RemoveSegment("Finding_1")


@pytest.mark.parametrize("edit", [paint, rename, add, remove])
def test_edited_segments_are_never_overwritten(edit, reviewed):
    from SpatialARAnomalyLib.slicerapp.Segments import _described, wasEdited

    module, result = reviewed
    mine = result.segmentation
    assert not wasEdited(mine)
    edit(result)
    assert wasEdited(mine)
    before = _described(mine)
    move_threshold(module, 2.0)
    assert result.segmentation.GetID() != mine.GetID()
    assert _described(mine) == before
    assert "edited by hand" in module.ui.reviewStatusLabel.text
    assert result.segmentation.GetSegmentation().GetNumberOfSegments() == len(rows_of(result))


def test_segments_nobody_edited_are_replaced_in_place(reviewed):
    module, result = reviewed
    before = result.segmentation.GetID()
    move_threshold(module, 2.0)
    assert result.segmentation.GetID() == before
    assert module.ui.reviewStatusLabel.text == ""


def test_a_deleted_table_or_segmentation_is_made_anew(reviewed, scene):
    module, result = reviewed
    scene.RemoveNode(result.table)
    scene.RemoveNode(result.segmentation)
    run_events()
    move_threshold(module, 1.5)
    assert result.segmentation.GetSegmentation().GetNumberOfSegments() == len(rows_of(result)) > 0


def test_review_goes_on_without_the_scan(reviewed, scene):
    module, result = reviewed
    scene.RemoveNode(result.scan)
    run_events()
    move_threshold(module, 1.6)
    assert len(rows_of(result)) > 0


def ours(scene) -> set[str]:
    """The nodes that a result may leave."""
    import slicer

    kinds = (
        "vtkMRMLSegmentationNode", "vtkMRMLTableNode", "vtkMRMLColorLegendDisplayNode",
        "vtkMRMLScalarVolumeNode",
    )  # fmt: skip
    return {node.GetID() for kind in kinds for node in slicer.util.getNodesByClass(kind)}


def test_deleting_a_result_asks_and_removes_all_of_it(reviewed, scene):
    module, result = reviewed
    review, scan = module.widget.panel.review, result.scan
    before = ours(scene)
    review._confirm = lambda text: False
    module.ui.deleteResultButton.click()
    assert ours(scene) == before
    review._confirm = lambda text: True
    module.ui.deleteResultButton.click()
    run_events()
    assert ours(scene) == {scan.GetID()}
    assert module.ui.findingsTable.rowCount == 0
    assert not module.ui.deleteResultButton.isEnabled()


def test_an_overlay_deleted_elsewhere_leaves_no_legend(reviewed, scene):
    module, result = reviewed
    scene.RemoveNode(result.volume)
    run_events()
    assert scene.GetNumberOfNodesByClass("vtkMRMLColorLegendDisplayNode") == 0
    assert module.ui.findingsTable.rowCount == 0


def test_another_result_shows_its_own_rate_and_rows(reviewed):
    module, first = reviewed
    module.ui.leastVolumeSpinBox.setValue(0.5)
    second = detected(module)
    move_threshold(module, 2.0)
    module.ui.resultSelector.setCurrentNode(first.volume)
    run_events()
    assert module.ui.thresholdSlider.value == pytest.approx(-math.log10(first.falsePositiveRate))
    assert module.ui.findingsTable.rowCount == len(rows_of(first))
    module.ui.resultSelector.setCurrentNode(second.volume)
    run_events()
    assert module.ui.thresholdSlider.value == pytest.approx(2.0)
    assert module.ui.findingsTable.rowCount == len(rows_of(second))


def test_a_result_somebody_tampered_with_is_no_result(reviewed):
    from SpatialARAnomalyLib.slicerapp.Result import Result

    module, result = reviewed
    for text in ("", "{", "[]", '{"levels": [0, 1]}'):
        result.volume.SetAttribute("SpatialARAnomaly.Calibration", text)
        assert Result.of(result.volume) is None
    module.widget.panel.review.setParameters(module.widget.panel._parameters)
    assert module.ui.findingsTable.rowCount == 0


def test_a_full_disk_is_told_and_the_next_threshold_works(reviewed, monkeypatch):
    import tempfile

    module, result = reviewed

    def full(**_kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkdtemp", full)
        move_threshold(module, 1.9)
    assert "No space left on device" in module.ui.reviewStatusLabel.text
    move_threshold(module, 2.0)
    assert module.ui.reviewStatusLabel.text == ""
    assert result.falsePositiveRate == pytest.approx(0.01)
