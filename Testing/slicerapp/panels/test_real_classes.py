"""What a real Slicer showed: path fields, plot views, slice controllers and buttons as they are."""

import pytest
import qt
from Harness import run_events, without_main_window
from slicerapp.results import add_result
from slicerapp.tooltips import tip
from SpatialARAnomalyLib.engine.errors import InputError


def path_fields(module) -> dict:
    fields = {
        name: widget
        for name, widget in vars(module.ui).items()
        if widget.inherits("QWidget") and type(widget).__name__ == "ctkPathLineEdit"
    }
    assert len(fields) == 7
    return fields


def test_every_path_can_be_taken_back(opened, tmp_path):
    """An emptied field emits `validInputChanged` only."""
    from SpatialARAnomalyLib.slicerapp import Settings
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import pythonSlicer, workerPython

    def results() -> str:
        opened.ui.batchScansEdit.setCurrentPath(str(tmp_path))
        return tip(opened.ui.batchButton)

    taken = {
        "batchScansEdit": lambda: tip(opened.ui.batchButton),
        "batchResultsEdit": results,
        "exportFolderEdit": lambda: tip(opened.ui.exportButton),
        "modelsFolderEdit": Settings.modelsFolder,
        "setupPythonEdit": workerPython,
        "trainFolderEdit": lambda: tip(opened.ui.trainSurveyButton),
        "trainEncoderPathEdit": lambda: Settings.training("Encoder"),
    }
    opened.widget.panel.review.review(add_result())
    fields = path_fields(opened)
    assert fields.keys() == taken.keys()
    for name, field in fields.items():
        encoders = opened.ui.trainEncoderSelector
        encoders.setCurrentIndex(encoders.count - 1 if "Encoder" in name else 0)
        field.setCurrentPath("")
        empty = taken[name]()
        field.setCurrentPath(str(tmp_path / "chosen"))
        assert taken[name]() != empty, name
        field.setCurrentPath("")
        assert taken[name]() == empty, name
    assert workerPython() == pythonSlicer()


def test_an_export_without_a_folder_writes_nothing(shown, tmp_path, monkeypatch):
    from pathlib import Path

    from SpatialARAnomalyLib.slicerapp.tasks.Export import ExportFormat

    module, result = shown
    empty = tmp_path / "current"
    empty.mkdir()
    monkeypatch.chdir(empty)
    for folder in ("", ".", "out"):
        with pytest.raises(InputError, match="a folder to export to"):
            module.widget.logic.export(
                result, ExportFormat.EVERYTHING, Path(folder), lambda *_: None
            )
    assert not list(empty.iterdir())


def test_another_python_gets_the_environment_that_slicer_was_started_in(app, settings, monkeypatch):
    import sys

    from Harness import wait_until
    from SpatialARAnomalyLib.slicerapp import Settings
    from SpatialARAnomalyLib.slicerapp.worker import WorkerProcess as module

    monkeypatch.setenv("PYTHONHOME_OF_SLICER", "here")
    before = qt.QProcessEnvironment.systemEnvironment()
    before.remove("PYTHONHOME_OF_SLICER")
    monkeypatch.setattr(type(app), "startupEnvironment", lambda self: before)
    seen = "print('seen', 'PYTHONHOME_OF_SLICER' in os.environ, file=sys.stderr)"
    monkeypatch.setattr(module, "BOOT", f"import os, sys; {seen}")
    for program, inherits in ((sys.executable, False), ("", True)):
        Settings.setWorkerPython(program)
        lines, ends = [], []
        worker = module.WorkerProcess(lines.append)
        worker.submit("hello", onEnd=ends.append)
        wait_until(lambda ends=ends: ends, 30, "the end of the process")
        assert f"seen {inherits}" in lines


def slices_of(scene) -> dict[str, float]:
    names = {"Red": 2, "Yellow": 0, "Green": 1}
    return {
        name: scene.GetNodeByID(f"vtkMRMLSliceNode{name}").GetSliceToRAS().GetElement(axis, 3)
        for name, axis in names.items()
    }


def lead_away(scene) -> None:
    scene.GetNodeByID("vtkMRMLSliceNodeRed").JumpSliceByOffsetting(30, 30, 30)


def test_the_views_go_to_the_finding_even_if_its_row_was_chosen(shown, scene):
    module, _result = shown
    view, table = module.widget.panel.review.view, module.ui.findingsTable
    view.choose(1)
    at_first = slices_of(scene)
    lead_away(scene)
    view.choose(1)
    assert slices_of(scene) == at_first
    lead_away(scene)
    table.cellClicked.emit(view.rowOf(1), 2)
    assert slices_of(scene) == at_first
    view.choose(3)
    at_last = slices_of(scene)
    lead_away(scene)
    module.ui.nextButton.click()
    assert slices_of(scene) == at_last
    view.choose(1)
    lead_away(scene)
    module.widget.panel.review.review(add_result(name="Next"))
    assert view.chosen() == 1
    assert slices_of(scene) == at_first


@pytest.mark.parametrize("by", ["button", "data module"])
def test_after_deletion_the_views_show_the_scan_alone(shown, scene, by):
    module, result = shown
    scan = result.scan
    if by == "button":
        module.widget.panel.dialogs.yes = True
        module.widget.panel.review.deleteAction.trigger()
    else:
        scene.RemoveNode(result.volume)
    run_events()
    for name in ("Red", "Yellow", "Green"):
        view = scene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}")
        assert view.GetForegroundVolumeID() is None
        assert by == "button" or view.GetBackgroundVolumeID() == scan.GetID()
    tables = [
        scene.GetNthNodeByClass(i, "vtkMRMLColorTableNode")
        for i in range(scene.GetNumberOfNodesByClass("vtkMRMLColorTableNode"))
    ]
    assert not [one for one in tables if one.GetAttribute("SpatialARAnomaly.ColorMap")]


def test_show_3d_needs_segments_and_comes_up_without_them(shown):
    module, result = shown
    button = module.ui.show3DButton
    assert button.isEnabled()
    button.setChecked(True)
    result.segmentation.GetSegmentation().RemoveAllSegments()
    module.widget.panel.review.refresh()
    assert not button.isEnabled()
    assert not button.isChecked()
    assert tip(button) == "No finding to show in 3D."


def test_the_learning_curve_is_seen_whole_at_every_epoch(app, scene):
    from SpatialARAnomalyLib.slicerapp.scene.TrainingPlot import Epoch, TrainingPlot

    plot, curve = TrainingPlot(), []
    for number in range(1, 9):
        curve.append(Epoch(number, 1.0 / number, 2.0 - number / 10))
        plot.show(curve, "x") if number == 1 else plot.update(curve, "x")
        view = app.layoutManager().plotWidget(0).plotView()
        assert (view.hiddenPoints(), view.brokenLines()) == (0, 0), number
    (left, right), (low, high) = view.axisRanges()
    assert (left, right) == (0.5, 8.5)
    losses = [loss for one in curve for loss in (one.trainNll, one.heldOutNll)]
    assert low < min(losses)
    # The legend lies above the curves.
    assert high - max(losses) > 0.2 * (high - low)


def test_a_reloaded_module_takes_keys(opened):
    assert opened.widget.panel.review._shortcuts["next"].isEnabled()
    opened.reload()
    assert opened.widget.panel.review._shortcuts["next"].isEnabled()
    opened.exit()
    opened.reload()
    assert not opened.widget.panel.review._shortcuts["next"].isEnabled()


def test_a_panel_that_could_not_be_made_is_entered_without_a_second_error(opened):
    opened.widget.cleanup()
    opened.widget.panel = None
    opened.enter()
    opened.exit()


def test_the_status_of_a_detection_follows_its_result(shown, scene):
    from SpatialARAnomalyLib.slicerapp.scene.FindingsTable import writeFindings
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome

    module, _ = shown
    detect, label = module.widget.panel.detect, module.ui.statusLabel
    result = add_result(name="Next")
    detect._detected(Outcome(result=result, notices=("A notice.",)))
    assert label.text == "3 findings. A notice."
    writeFindings(result.table, [], [])
    module.widget.panel.review._findingsUpdated(result, Outcome(result=result))
    assert label.text == "No findings. A notice."
    scene.RemoveNode(result.volume)
    run_events()
    assert label.text == ""
    detect._detected(Outcome(result=add_result(name="Last")))
    scene.Clear(0)
    run_events()
    assert label.text == ""


def test_nodes_of_results_are_offered_nowhere_but_under_review(shown):
    module, result = shown
    run_events()
    ui = module.ui
    for selector, offered in (
        (ui.inputSelector, {"Scan"}),
        (ui.maskSelector, set()),
        (ui.truthSelector, set()),
        (ui.resultSelector, {result.volume.GetName()}),
    ):
        nodes = [selector.nodeFromIndex(index) for index in range(selector.nodeCount())]
        assert {node.GetName() for node in nodes if node is not None} == offered


def test_without_a_window_the_panel_opens(app, load_module, settings, dialogs):
    from slicerapp.conftest import MODULE

    with without_main_window():
        module = load_module(MODULE)
        module.enter()
        assert module.ui.opacitySlider.value == 0.5
