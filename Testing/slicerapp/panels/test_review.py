"""Review: the threshold, the findings one by one, what a reviewer says and edits."""

import math

import numpy as np
import pytest
from Harness import run_events, wait_until
from slicerapp.heads import add_head, detected
from slicerapp.results import AFFINE, PEAKS_KJI, add_result


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
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import readRows

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
        assert f"{nll:.3f}" in module.ui.thresholdValueLabel.toolTip
        assert ("rough" in text) == (not result.calibration.supports(10**-value))


def test_findings_follow_when_the_slider_rests_and_are_the_engines(reviewed, warm_worker):
    import slicer
    from engine.grids import find
    from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import rasFromVoxel

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
    module.ui.findingsTable.item(view.rowOf(2), 5).setText('Fäden, "hell"')
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
    ui.findingsTable.item(0, 5).setText("first")
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
    module.ui.findingsTable.sortItems(3, qt.Qt.AscendingOrder)
    module.widget.panel.review.view.choose(1)
    module.ui.acceptButton.click()
    assert [row["status"] for row in rows_of(result)][:2] == ["accepted", ""]
    volumes = [
        float(module.ui.findingsTable.item(row, 3).text())
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
    shortcuts = list(module.widget.panel.review._shortcuts.values())
    assert len(shortcuts) == 6
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
    from SpatialARAnomalyLib.slicerapp.scene.Segments import (
        describeSegments,
        wasEdited,
    )

    module, result = reviewed
    mine = result.segmentation
    assert not wasEdited(mine)
    edit(result)
    assert wasEdited(mine)
    before = describeSegments(mine)
    move_threshold(module, 2.0)
    assert result.segmentation.GetID() != mine.GetID()
    assert describeSegments(mine) == before
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
        "vtkMRMLSegmentationNode", "vtkMRMLTableNode", "vtkMRMLMarkupsFiducialNode",
        "vtkMRMLScalarVolumeNode",
    )  # fmt: skip
    return {node.GetID() for kind in kinds for node in slicer.util.getNodesByClass(kind)}


def test_deleting_a_result_asks_and_removes_all_of_it(reviewed, scene):
    module, result = reviewed
    dialogs, scan = module.widget.panel.dialogs, result.scan
    before = ours(scene)
    module.widget.panel.review.deleteAction.trigger()
    assert ours(scene) == before
    dialogs.yes = True
    module.widget.panel.review.deleteAction.trigger()
    run_events()
    assert ours(scene) == {scan.GetID()}
    assert module.ui.findingsTable.rowCount == 0
    assert not module.widget.panel.review.deleteAction.isEnabled()


def test_an_overlay_deleted_elsewhere_leaves_no_numbers(reviewed, scene):
    module, result = reviewed
    scene.RemoveNode(result.volume)
    run_events()
    assert scene.GetNumberOfNodesByClass("vtkMRMLMarkupsFiducialNode") == 0
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
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

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


def said(result) -> list[tuple[str, str]]:
    return [(row["status"], row["comment"]) for row in rows_of(result)]


def review(module, rank: int, button: str = "", comment: str = "") -> None:
    view, ui = module.widget.panel.review.view, module.ui
    view.choose(rank)
    if button:
        getattr(ui, f"{button}Button").click()
    if comment:
        ui.findingsTable.item(view.rowOf(rank), 5).setText(comment)


def test_reviews_are_joined_where_findings_merge_and_part_again_with_them(shown):
    module, result = shown
    review(module, 1, "accept", "left, sure")
    review(module, 3, "reject", 'artefact; "ring"')
    parted = [("accepted", "left, sure"), ("", ""), ("rejected", 'artefact; "ring"')]
    assert said(result) == parted
    move_threshold(module, 1.1)
    # Who disagrees leaves the whole open; nothing that was written is lost.
    assert said(result) == [("", 'left, sure; artefact; "ring"'), ("", "")]
    assert module.ui.findingsTable.item(0, 5).text() == 'left, sure; artefact; "ring"'
    move_threshold(module, 2.0)
    assert said(result) == parted


def test_a_mark_on_merged_findings_keeps_what_was_said_of_each(shown):
    module, result = shown
    review(module, 1, comment="left")
    review(module, 3, "reject", "right")
    move_threshold(module, 1.1)
    review(module, 1, "accept")
    assert said(result) == [("accepted", "left; right"), ("", "")]
    move_threshold(module, 2.0)
    assert said(result) == [("accepted", "left"), ("", ""), ("accepted", "right")]


def test_a_mark_on_merged_findings_of_which_one_had_none_goes_to_their_peak(shown):
    module, result = shown
    review(module, 3, "reject", "right")
    move_threshold(module, 1.1)
    review(module, 1, "accept")
    review(module, 1, comment="all of it")
    assert said(result)[0] == ("accepted", "all of it")
    move_threshold(module, 2.0)
    assert said(result) == [("accepted", "all of it"), ("", ""), ("accepted", "")]


def test_with_nothing_left_reviews_are_kept(shown):
    module, result = shown
    review(module, 1, "accept", "ü")
    review(module, 3, "reject")
    before = said(result)
    move_threshold(module, 6.0)
    assert rows_of(result) == []
    assert module.ui.findingsTable.rowCount == 0
    assert result.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    assert not module.ui.nextButton.isEnabled()
    assert not module.ui.acceptButton.isEnabled()
    move_threshold(module, 2.0)
    assert said(result) == before
    assert not result.segmentation.GetDisplayNode().GetSegmentVisibility("Finding_3")


def test_a_newer_threshold_replaces_an_older_one_that_is_under_way(shown, warm_worker):
    module, result = shown
    ends = []
    submit = warm_worker.submit

    def noting(job, *, onEnd, **more):
        return submit(job, onEnd=lambda event: (ends.append(event["event"]), onEnd(event)), **more)

    warm_worker.submit = noting
    try:
        module.ui.thresholdSlider.setValue(1.1)
        module.widget.panel.review.updateFindings()
        assert module.widget.logic.finding
        move_threshold(module, 4.2)
    finally:
        del warm_worker.submit
    wait_until(lambda: len(ends) == 2, 30, "the worker's two ends")
    assert [row["peak_nll"] for row in rows_of(result)] == [4.5]
    assert result.falsePositiveRate == pytest.approx(10**-4.2)


def test_outlines_stay_refined_at_another_threshold(opened, warm_worker, scene):
    opened.ui.leastVolumeSpinBox.setValue(0.0)
    opened.ui.refineOutlinesCheckBox.setChecked(True)
    scan, _ = add_head()
    opened.ui.inputSelector.setCurrentNode(scan)
    run_events()
    asked = []
    submit = warm_worker.submit
    warm_worker.submit = lambda job, **more: (asked.append((job, more)), submit(job, **more))[1]
    try:
        result = detected(opened)
        assert result is not None, opened.ui.statusLabel.text
        move_threshold(opened, 1.3)
        scene.RemoveNode(scan)
        move_threshold(opened, 1.6)
    finally:
        del warm_worker.submit
    _, *finds = asked
    assert [job for job, _ in finds] == ["find"] * 2
    # The first with the scan, from which outlines are refined; the second after it was deleted.
    refined = [more["spec"]["refine_outlines"] for _, more in asked]
    assert refined == [True, True, False]
    token_mm = [more["inputs"].get("token_mm") for _, more in finds]
    assert token_mm == [result.tokenMm, None]
    assert result.tokenMm > 0


@pytest.mark.parametrize("placing", ["oblique left-handed", "transformed"])
def test_all_views_are_led_to_the_peak_wherever_the_scan_lies(placing, opened, scene):
    import slicer
    from slicerapp.panels.test_detection import OBLIQUE, placed, world

    transform = None
    if placing == "transformed":
        transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        move = np.eye(4)
        move[:3, :3], move[:3, 3] = OBLIQUE, [40.0, -25.0, 10.0]
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(move))
    result = add_result(placed(placing, AFFINE), transform=transform)
    opened.widget.panel.review.review(result)
    for rank, peak in enumerate(PEAKS_KJI, start=1):
        opened.widget.panel.review.view.choose(rank)
        place = world(result.scan, np.array(peak))
        for name, axis in (("Red", 2), ("Yellow", 0), ("Green", 1)):
            node = scene.GetNodeByID(f"vtkMRMLSliceNode{name}")
            assert node.GetSliceToRAS().GetElement(axis, 3) == pytest.approx(place[axis], abs=1e-3)


def test_views_are_centered_only_on_what_is_outside(shown, scene):
    module, _result = shown
    red = scene.GetNodeByID("vtkMRMLSliceNodeRed")
    review(module, 1)
    before = [red.GetSliceToRAS().GetElement(row, 3) for row in (0, 1)]
    review(module, 2)
    assert [red.GetSliceToRAS().GetElement(row, 3) for row in (0, 1)] == before
    red.SetFieldOfView(4.0, 4.0, 1.0)
    review(module, 1)
    peak = AFFINE @ [*PEAKS_KJI[0][::-1], 1]
    assert [red.GetSliceToRAS().GetElement(row, 3) for row in (0, 1)] == pytest.approx(peak[:2])


def test_the_chosen_finding_stays_chosen_while_marks_sort_the_table_anew(shown):
    import qt

    module, result = shown
    table, view = module.ui.findingsTable, module.widget.panel.review.view
    table.sortItems(1, qt.Qt.DescendingOrder)
    for rank in (2, 1, 3):
        review(module, rank, "accept")
        assert view.chosen() == rank
    review(module, 1, "reject")
    assert view.chosen() == 1
    assert [status for status, _ in said(result)] == ["rejected", "accepted", "accepted"]


def test_edited_voxels_are_the_same_after_new_findings(shown):
    import slicer

    module, result = shown
    paint(result)
    mine, grid = result.segmentation, result.scan
    names = [f"Finding_{rank}" for rank in (1, 2, 3)]

    def voxels() -> list[np.ndarray]:
        return [slicer.util.arrayFromSegmentBinaryLabelmap(mine, name, grid) for name in names]

    before = voxels()
    for value in (1.1, 2.0, 6.0):
        move_threshold(module, value)
    assert all(np.array_equal(a, b) for a, b in zip(voxels(), before, strict=True))
    # The second and third time nobody had edited the new one.
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2
    assert mine.GetDisplayNode().GetVisibility() == 0


def test_choosing_another_result_shows_it_in_the_views(shown, scene):
    module, first = shown
    second = add_result(name="Other")
    module.widget.panel.review.review(second)
    assert module.ui.resultSelector.currentNode().GetID() == second.id
    module.ui.resultSelector.setCurrentNode(first.volume)
    run_events()
    red = scene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert red.GetForegroundVolumeID() == first.id
    assert red.GetBackgroundVolumeID() == first.scan.GetID()
    assert first.segmentation.GetDisplayNode().GetVisibility()
    assert not second.segmentation.GetDisplayNode().GetVisibility()


def test_a_threshold_under_way_does_not_touch_the_result_chosen_meanwhile(shown, scene):
    module, first = shown
    second = add_result(name="Other")
    module.widget.panel.review.review(second)
    paint(second)
    before = rows_of(first)
    module.ui.thresholdSlider.setValue(4.2)
    module.widget.panel.review.updateFindings()
    module.ui.resultSelector.setCurrentNode(first.volume)
    wait_until(lambda: not module.widget.logic.finding, 60, "the findings")
    assert rows_of(first) == before
    assert module.ui.findingsTable.rowCount == len(before)
    assert module.ui.reviewStatusLabel.text == ""
    assert not second.segmentation.GetDisplayNode().GetVisibility()
    module.ui.resultSelector.setCurrentNode(second.volume)
    assert module.ui.thresholdSlider.value == pytest.approx(4.2)


def break_calibration(result, scene) -> None:
    result.volume.SetAttribute("SpatialARAnomaly.Calibration", "{")


def break_rate(result, scene) -> None:
    for text in ("0", "-1", "nan", "1e400", "many"):
        result.volume.SetAttribute("SpatialARAnomaly.FalsePositiveRate", text)
        assert result.falsePositiveRate == 0.001


def break_reviews(result, scene) -> None:
    result.table.SetAttribute("SpatialARAnomaly.Reviews", '[{"place": [1]}, 3]')


def break_table(result, scene) -> None:
    result.table.GetTable().GetColumnByName("volume_ml").SetValue(0, float("nan"))
    result.table.GetTable().RemoveColumnByName("rank")
    result.table.Modified()


def break_display(result, scene) -> None:
    scene.RemoveNode(result.volume.GetDisplayNode())
    scene.RemoveNode(result.segmentation.GetDisplayNode())


def break_segments(result, scene) -> None:
    result.segmentation.SetAttribute("SpatialARAnomaly.WrittenSegments", "[1]")
    result.segmentation.GetSegmentation().GetNthSegment(0).RemoveAllRepresentations()


@pytest.mark.parametrize(
    "breaks",
    [break_calibration, break_rate, break_reviews, break_table, break_display, break_segments],
)
def test_nothing_changed_by_others_stops_the_review(breaks, shown, scene):
    module, result = shown
    panel = module.widget.panel
    breaks(result, scene)
    for value in (1.1, 2.0):
        move_threshold(module, value)
        review(module, 1, "accept")
        module.ui.nextButton.click()
        module.ui.undoButton.click()
    panel.review.setParameters(panel._parameters)
    module.ui.opacitySlider.setValue(0.3)
    module.widget.panel.review.restoreAction.trigger()
    again = add_result(name="Next")
    panel.review.review(again)
    assert module.ui.findingsTable.rowCount == 3


def test_a_segmentation_without_display_is_left_alone(rendering, shown, app, scene):
    # Views of Slicer 5.12 follow a pointer to the removed display node at the
    # next change of a segment, which ends the application.
    app.layoutManager().sliceWidget("Red").view.pixels()
    module, result = shown
    before, changes = result.segmentation, []
    scene.RemoveNode(before.GetDisplayNode())
    before.AddObserver("ModifiedEvent", lambda *_: changes.append("node"))
    before.GetSegmentation().AddObserver("AnyEvent", lambda *_: changes.append("segments"))
    for value, notice in ((1.1, "lost its display settings"), (2.0, "")):
        move_threshold(module, value)
        app.layoutManager().sliceWidget("Red").view.pixels()
        assert notice in module.ui.reviewStatusLabel.text
    assert changes == []
    assert result.segmentation is not before
    assert result.segmentation.GetDisplayNode().GetVisibility()
    assert result.segmentation.GetSegmentation().GetNumberOfSegments() == len(rows_of(result))


def test_a_result_that_leaves_while_it_is_searched_is_forgotten(shown, scene):
    module, result = shown
    module.ui.thresholdSlider.setValue(1.1)
    module.widget.panel.review.updateFindings()
    scene.RemoveNode(result.volume)
    wait_until(lambda: not module.widget.logic.finding, 30, "the search to end")
    run_events(0.5)
    assert module.ui.findingsTable.rowCount == 0
    assert "anew" not in module.ui.reviewStatusLabel.text


def test_the_scene_may_close_while_the_slider_moves(shown, scene):
    module, _result = shown
    module.ui.thresholdSlider.setValue(1.1)
    scene.Clear(0)
    run_events(0.5)
    assert module.ui.findingsTable.rowCount == 0
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert module.ui.reviewStatusLabel.text == ""
