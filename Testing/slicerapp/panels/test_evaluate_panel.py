"""The section Evaluate: figures of the result under review against a truth of the scene."""

import json
from pathlib import Path

import numpy as np
import pytest
from Harness import run_events, wait_until
from sklearn.metrics import roc_auc_score
from slicerapp.heads import add_volume
from slicerapp.results import AFFINE, SHAPE_KJI, add_result, blobs

pytestmark = pytest.mark.slow

LESION = (slice(2, 6), slice(5, 11), slice(5, 11))
"""The first blob of `blobs`."""


def lesion() -> np.ndarray:
    truth = np.zeros(SHAPE_KJI, np.uint8)
    truth[LESION] = 1
    return truth


def add_label_map(labels: np.ndarray, affine=AFFINE, name="Truth"):
    import slicer

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, labels)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(np.asarray(affine, float)))
    run_events()
    return node


def add_segmentation(labels: np.ndarray, affine=AFFINE):
    """A segmentation with a segment per label."""
    from SpatialARAnomalyLib.slicerapp.scene.Segments import (
        addSegmentation,
        writeSegments,
    )

    segmentation = addSegmentation("Truth", add_volume(labels.astype(np.int16), affine, "Seen"))
    place = {"voxels": 1, "centroid_r_mm": 0.0, "centroid_a_mm": 0.0, "centroid_s_mm": 0.0}
    rows = [{"rank": int(rank)} | place for rank in np.unique(labels[labels > 0])]
    writeSegments(segmentation, labels.astype(np.uint16), (0, 0, 0), np.asarray(affine), rows)
    segmentation.SetAttribute("SpatialARAnomaly.Role", None)
    run_events()
    return segmentation


def evaluate(module, truth) -> None:
    """Choose a truth, click *Evaluate* and wait."""
    module.ui.evaluateSection.collapsed = False
    module.ui.truthSelector.setCurrentNode(truth)
    assert module.ui.evaluateButton.isEnabled(), module.ui.evaluateButton.toolTip
    module.ui.evaluateButton.click()
    wait_until(lambda: not module.widget.panel.evaluate.evaluating, 120, "the evaluation")


def shown_figures(module) -> dict[str, list[str]]:
    table = module.ui.evaluateTable
    return {
        table.item(row, 0).text(): [
            table.item(row, column).text() for column in range(1, table.columnCount)
        ]
        for row in range(table.rowCount)
    }


@pytest.mark.parametrize("kind", ["label map", "segmentation", "other grid"])
def test_figures_are_those_of_the_voxels(shown, kind, tmp_path):
    module, _ = shown
    if kind == "label map":
        truth = add_label_map(lesion() * 7)
    elif kind == "segmentation":
        labels = lesion()
        labels[2:4] *= 2  # two segments are one lesion
        truth = add_segmentation(labels)
    else:  # the same place in voxels of half the size along i, and cropped
        affine = AFFINE.copy()
        affine[:3, 0] /= 2
        affine[:3, 3] -= affine[:3, 0] / 2
        truth = add_label_map(np.repeat(lesion()[:, :20], 2, axis=2), affine)
    evaluate(module, truth)
    figures = shown_figures(module)
    nll = blobs()
    body = nll > nll.min()
    auroc = roc_auc_score(lesion()[body], nll[body])
    assert figures["voxel AUROC"][0] == f"{auroc:.3f}"
    # The scan's intensity is the NLL itself, but for rounding and the clip.
    assert float(figures["voxel AUROC"][1]) == pytest.approx(auroc, abs=0.05)
    assert figures["lesions found"] == ["1.000", "–", "–"]
    # The second blob reaches the threshold of 2 with no lesion in it.
    assert float(figures["false findings a scan"][0]) >= 1
    assert "scan AUROC" not in figures
    assert "Lesions: 1" in module.ui.evaluateStatusLabel.text
    assert module.widget.panel.evaluate._picture.isVisibleTo(module.ui.evaluateSection)


@pytest.mark.parametrize(
    ("model", "plain", "words"),
    [
        (0.6, 0.9, "⚠ Plain intensity is at least as good as the model on this scan: average "
                   "precision 0.900 against 0.600. Lesions: 1"),
        (0.9, 0.6, "The model is better than plain intensity on this scan: average precision 0.9"),
        (0.9, None, "Lesions: 1"),
    ],
)  # fmt: skip
def test_the_status_says_in_words_which_is_better(app, model, plain, words):
    from SpatialARAnomalyLib.slicerapp.panels.EvaluatePanel import _summarize

    values = {"nll": model, "intensity": plain, "intensity_distance": None}
    event = {
        "cases": {"lesions": 1},
        "lesion_share": 0.01,
        "metrics": [
            {"score": score, "metric": "average_precision", "value": value}
            for score, value in values.items()
        ],
    }
    assert _summarize(event).startswith(words)


def test_tooltips_say_in_words_what_figures_mean(shown):
    module, _ = shown
    evaluate(module, add_label_map(lesion()))
    table = module.ui.evaluateTable
    assert all(table.item(row, 0).toolTip().endswith(".") for row in range(table.rowCount))
    rows = {table.item(row, 0).text(): row for row in range(table.rowCount)}
    undefined = table.item(rows["false-positive rate"], 1)
    assert (undefined.text(), undefined.toolTip()) == ("–", "no scan is normal")


def test_a_disabled_button_says_why(opened):
    button = opened.ui.evaluateButton
    run_events()
    assert "No result to evaluate" in button.toolTip
    result = add_result()
    opened.widget.panel.review.review(result)
    run_events()
    assert not button.isEnabled()
    assert "Choose a ground truth first" in button.toolTip
    from SpatialARAnomalyLib.slicerapp.tasks.Evaluation import nameTruthProblem

    # They are not offered, but a script can choose them.
    assert "the findings of a detection themselves" in nameTruthProblem(result, result.segmentation)
    assert not button.isEnabled()
    assert "No evaluation to save" in opened.ui.evaluateSaveButton.toolTip
    import slicer

    truth = add_label_map(lesion())
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    truth.SetAndObserveTransformNodeID(moved.GetID())
    opened.ui.truthSelector.setCurrentNode(truth)
    assert "same transform" in button.toolTip
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    run_events()
    opened.ui.truthSelector.setCurrentNode(empty)
    assert "must have a segment" in button.toolTip


def test_save_writes_what_is_shown(shown, dialogs, tmp_path):
    module, _ = shown
    evaluate(module, add_label_map(lesion()))
    out = tmp_path / "évaluation"
    dialogs.path = out
    module.ui.evaluateSaveButton.click()
    names = {"evaluation.json", "metrics.csv", "cases.csv", "curves.csv", "evaluation.png"}
    assert {path.name for path in out.iterdir()} == names
    saved = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    value = saved["scores"]["nll"]["metrics"]["voxel_auroc"]["value"]
    assert shown_figures(module)["voxel AUROC"][0] == f"{value:.3f}"
    assert "Scan" not in (out / "evaluation.json").read_text(encoding="utf-8")
    (out / "metrics.csv").write_text("mine")
    module.ui.evaluateSaveButton.click()
    assert "Replace them?" in dialogs.questions[0]
    assert (out / "metrics.csv").read_text() == "mine"
    dialogs.yes = True
    module.ui.evaluateSaveButton.click()
    assert (out / "metrics.csv").read_text() != "mine"
    dialogs.path = ""
    module.ui.evaluateSaveButton.click()
    assert {path.name for path in out.iterdir()} == names


def test_figures_go_with_what_they_are_of(shown):
    import slicer

    module, result = shown
    panel, ui = module.widget.panel.evaluate, module.ui
    truth = add_label_map(lesion())
    evaluate(module, truth)
    folder = panel._folder.path
    assert folder.exists()
    ui.truthSelector.setCurrentNode(None)
    assert not ui.evaluateTable.isVisibleTo(module.ui.evaluateSection)
    assert not ui.evaluateSaveButton.isEnabled()
    assert not folder.exists()
    evaluate(module, truth)
    ui.thresholdSlider.setValue(3.0)
    wait_until(lambda: result.falsePositiveRate < 0.002, 20, "the new threshold")
    wait_until(lambda: not module.widget.logic.finding, 60, "the findings")
    run_events()
    assert not ui.evaluateTable.isVisibleTo(module.ui.evaluateSection)
    evaluate(module, truth)
    folder = panel._folder.path
    slicer.mrmlScene.RemoveNode(result.volume)
    run_events(0.3)
    assert not ui.evaluateSaveButton.isEnabled()
    assert not folder.exists()


def test_an_evaluation_under_way_ends_with_its_result(shown):
    import slicer

    module, _ = shown
    panel = module.widget.panel.evaluate
    module.ui.truthSelector.setCurrentNode(add_label_map(lesion()))
    module.ui.evaluateButton.click()
    assert panel.evaluating
    slicer.mrmlScene.Clear(False)
    run_events(0.5)
    assert not panel.evaluating
    assert not panel._files


def test_the_same_button_cancels(shown):
    import slicer

    module, _ = shown
    panel, button = module.widget.panel.evaluate, module.ui.evaluateButton
    truth = add_label_map(lesion())
    module.ui.truthSelector.setCurrentNode(truth)
    work = {path.name for path in Path(slicer.app.temporaryPath).glob("SpatialARAnomaly-*")}
    for pause_s in (0.0, 0.2):  # while files are written, and while the worker works
        button.click()
        assert button.text == "Cancel"
        run_events(pause_s)
        button.click()
        assert (button.text, panel.evaluating) == ("Evaluate", False)
        assert module.ui.evaluateStatusLabel.text == "Cancelled."
    run_events(0.3)
    evaluate(module, truth)
    assert shown_figures(module)["lesions found"][0] == "1.000"
    left = {path.name for path in Path(slicer.app.temporaryPath).glob("SpatialARAnomaly-*")} - work
    assert len(left) <= 2  # that of these figures, and of the NLL volume


def test_an_empty_truth_is_told(shown):
    module, _ = shown
    evaluate(module, add_label_map(lesion() * 0))
    assert "labels no voxel" in module.ui.evaluateStatusLabel.text
    assert shown_figures(module)["PRO (up to 0.3)"] == ["–", "–", "–"]
