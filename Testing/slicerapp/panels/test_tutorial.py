"""The tutorial from beginning to end: self-test, sample head, click, and what is to be seen."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from Harness import run_events, wait_until
from service.small_site import SHAPE_KJI, SPACING_MM, run
from slicerapp.heads import add_head, detected
from SpatialARAnomalyLib.engine.volumes.files import write_nifti, write_nifti_labels
from SpatialARAnomalyLib.service.demo.demo import head_with_lesion
from SpatialARAnomalyLib.service.demo.phantom import add_lesion, normal_head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def models_folder(tmp_path_factory, demo_run):
    """Holds the demonstration model: the demo's is the same, and takes a minute or two."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(demo_run / "model.safetensors", folder / "demonstration-head.safetensors")
    return folder


def test_the_self_test_passes(opened, models_folder):
    sys.modules["SpatialARAnomaly"].SpatialARAnomalyTest.modelsFolder = models_folder
    opened.module.runTest(msec=1)


def test_the_self_test_fails_where_the_lesion_is_not_found(opened, models_folder, monkeypatch):
    from SpatialARAnomalyLib.slicerapp import SelfTest

    sys.modules["SpatialARAnomaly"].SpatialARAnomalyTest.modelsFolder = models_folder
    monkeypatch.setattr(SelfTest, "readRows", lambda table: [])
    with pytest.raises(AssertionError, match="the lesion was not found"):
        opened.module.runTest(msec=1)


def test_the_self_test_is_skipped_where_torch_is_not_installed(opened, monkeypatch, tmp_path):
    import unittest

    from SpatialARAnomalyLib.engine.errors import DeviceError
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome

    missing = DeviceError("torch-missing", "Training and detection need torch.")
    monkeypatch.setattr(
        sys.modules["SpatialARAnomaly"].SpatialARAnomalyLogic,
        "makeDemonstrationModel",
        lambda self, models, device, onEnd: onEnd(Outcome(error=missing)),
    )
    sys.modules["SpatialARAnomaly"].SpatialARAnomalyTest.modelsFolder = tmp_path
    with pytest.raises(unittest.SkipTest, match="need torch"):
        opened.module.runTest(msec=1)


@pytest.fixture
def tutorial(opened, rendering, app):
    """The sample head with a lesion, detected in, as a user who follows the tutorial sees it."""
    import SampleData
    from SpatialARAnomalyLib.slicerapp.tasks.SampleHeads import (
        LESION,
        sampleNames,
    )

    views = [app.layoutManager().sliceWidget(name).view for name in ("Red", "Yellow", "Green")]
    for view in views:
        view.pixels()  # as in Slicer, the views are there before the volume
    SampleData.click_sample(sampleNames()[LESION])
    run_events()
    assert opened.ui.inputSelector.currentNode().GetName() == "HeadWithLesion"
    before = views[0].pixels().astype(int)
    result = detected(opened)
    assert result is not None, opened.ui.statusLabel.text
    run_events()
    return result, views, before


def is_colored(pixels: np.ndarray) -> np.ndarray:
    """Where a picture is not gray."""
    return (pixels.max(axis=-1).astype(int) - pixels.min(axis=-1)) > 25


def test_overlay_and_outline_are_on_the_lesion(tutorial):
    """In the axial view: colored where the lesion is, gray elsewhere, the outline around it."""
    result, (red, _yellow, _green), before = tutorial
    head, lesion = head_with_lesion(1)
    assert not is_colored(before).any()
    pixels = red.pixels()
    k = int(np.argmax(lesion.sum(axis=(1, 2))))
    red_node_s = red.logic.GetSliceNode().GetSliceToRAS().GetElement(2, 3)
    shown_k = round(float((np.linalg.inv(head.ras_from_voxel) @ [0, 0, red_node_s, 1])[2]))
    assert lesion[shown_k].any(), (shown_k, k)
    inside, outside = [], []
    import slicer

    first = slicer.util.arrayFromSegmentBinaryLabelmap(
        result.segmentation, "Finding_1", result.scan
    )
    # On the right voxels; how much of the lesion is found depends on a short training.
    assert np.count_nonzero(first & lesion) > 0.5 * np.count_nonzero(first)
    shown = slicer.util.arrayFromVolume(result.volume)[shown_k] >= result.threshold
    colored_pixels = is_colored(pixels)
    for j in range(lesion.shape[1]):
        for i in range(lesion.shape[2]):
            ras = (head.ras_from_voxel @ [i, j, shown_k, 1.0])[:3]
            row, column = (round(float(one)) for one in red.pixel_of(ras))
            if not (0 <= row < pixels.shape[0] and 0 <= column < pixels.shape[1]):
                continue
            around = shown[max(j - 1, 0) : j + 2, max(i - 1, 0) : i + 2]
            colored = bool(colored_pixels[row, column])
            if around.all():
                inside.append(colored)
            elif not around.any():
                outside.append(colored)
    assert len(inside) > 5
    assert np.mean(inside) > 0.98
    assert np.mean(outside) < 0.01
    # The outline has the color of the first finding's segment.
    color = np.round(
        np.array(result.segmentation.GetSegmentation().GetNthSegment(0).GetColor()) * 255
    )
    outline = np.abs(pixels.astype(int) - color).max(axis=-1) < 12
    rows, columns = np.nonzero(outline)
    assert rows.size > 30
    center = np.argwhere(first[shown_k]).mean(axis=0)
    ras = (head.ras_from_voxel @ [center[1], center[0], shown_k, 1.0])[:3]
    assert (rows.mean(), columns.mean()) == pytest.approx(red.pixel_of(ras), abs=12)


def test_a_stricter_threshold_shows_less_at_once(tutorial, opened):
    _result, (red, _yellow, _green), _before = tutorial
    shown = []
    for value in (2.0, 3.0, 5.5):
        opened.ui.thresholdSlider.setValue(value)
        shown.append(np.count_nonzero(is_colored(red.pixels())))
    assert shown[0] > shown[1] > shown[2]


def test_the_three_samples_are_offered(opened):
    import slicer

    sources = slicer.modules.sampleDataSources["SpatialARAnomaly"]
    # Every start of the application that a test makes registers them again.
    names = list(dict.fromkeys(source.sampleName for source in sources))
    assert names == ["Normal head (generated)", "Head with lesion (generated)", "MRHead"]


PAGE = Path(__file__).parents[3] / "Resources/Docs/tutorial.md"

CLICKED_ELSEWHERE = {
    "Make demonstration model": "test_detection",
    "Pause": "test_train_panel",
    "Resume": "test_train_panel",
}
"""Buttons of the tutorial that other tests click: they take long, or must meet a running job."""


def section(title: str) -> str:
    """Return the part of the tutorial under a heading."""
    return PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def button(module, text: str):
    """Return the button with a text, which must be enabled."""
    import qt

    found = [
        one
        for one in module.panel.findChildren(qt.QAbstractButton)
        if one.text == text and one.inherits("QPushButton")
    ]
    (shown,) = [one for one in found if one.isVisibleTo(module.panel)]
    assert shown.isEnabled(), shown.toolTip
    return shown


def coarse_head(seed: int):
    return normal_head(seed, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)


def test_every_click_of_the_tutorial_works(opened, tmp_path):
    """The buttons in bold, in their order; a small model and small heads stand for the real."""
    ui, panel, logic = opened.ui, opened.widget.panel, opened.widget.logic
    heads, exported = tmp_path / "heads", tmp_path / "exported"
    for folder in (heads, exported):
        folder.mkdir()
    for number in range(8):
        write_nifti(heads / f"head_{number}.nii.gz", coarse_head(number))
    scan, lesion = add_head()

    def open_section(name: str) -> None:
        panel.tabs.setCurrentIndex(0 if name in ("detect", "review", "export") else 1)
        getattr(ui, f"{name}Section").setProperty("collapsed", False)
        run_events()

    def choose_first_finding() -> None:
        ui.findingsTable.selectRow(0)
        run_events()

    def choose_heads() -> None:
        open_section("train")
        ui.trainFolderEdit.setCurrentPath(str(heads))
        ui.trainNameEdit.setText("Heads T1, axial")
        ui.trainSizeSpinBox.setValue(112)
        ui.trainEpochsSpinBox.setValue(2)

    def choose_truth() -> None:
        import slicer

        open_section("evaluate")
        truth = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Truth")
        slicer.util.updateVolumeFromArray(truth, lesion.astype(np.uint8))
        truth.CopyOrientation(scan)
        run_events()
        ui.truthSelector.setCurrentNode(truth)
        run_events()

    def choose_folder() -> None:
        open_section("export")
        ui.exportFolderEdit.setCurrentPath(str(exported))

    before = {
        "Accept finding": choose_first_finding,
        "Reject finding": choose_first_finding,
        "Export": choose_folder,
        "Survey scans": choose_heads,
        "Show card": lambda: open_section("models"),
        "Evaluate": choose_truth,
    }

    def busy() -> bool:
        return (
            logic.busy
            or panel.evaluate.evaluating
            or panel.train.scans.surveying
            or panel.models.busy
            or panel.models.listing
            or getattr(panel.train.trainer.training, "running", False)
        )

    clicked = []
    for title in ("Find a lesion", "Train on eight heads", "Evaluate"):
        for name in re.findall(r"\*\*([^*]+)\*\*", section(f"{title}, in 3D Slicer")):
            if name in CLICKED_ELSEWHERE:
                continue
            before.get(name, lambda: None)()
            wait_until(lambda: not busy(), 300, "the section to be ready")
            button(opened, name).click()
            run_events()
            wait_until(lambda: not busy(), 300, name)
            run_events()
            clicked.append(name)
    assert clicked[0] == "Detect anomalies"
    assert {"Export", "Train", "Show card", "Evaluate"} <= set(clicked)
    assert {path.suffix for path in exported.iterdir()} >= {".nrrd", ".csv", ".gz"}
    assert ui.modelsCardFrame.isVisibleTo(ui.modelsSection)
    assert "AUROC" in ui.evaluateTable.item(0, 0).text()


def test_every_command_of_the_tutorial_runs(tmp_path, monkeypatch):
    """On coarse heads in place of the demo's; the program's own commands run in this process."""
    volumes = tmp_path / "spatial-ar-anomaly-demo" / "volumes"
    volumes.mkdir(parents=True)
    for number in range(1, 10):
        write_nifti(volumes / f"normal_{number:02}.nii.gz", coarse_head(number))
    head, lesion = add_lesion(coarse_head(21), 21, radius_mm=20.0, contrast=1.2)
    write_nifti(volumes / "lesion.nii.gz", head)
    truth = volumes / "lesion_truth.nii.gz"
    write_nifti_labels(truth, lesion.astype(np.uint8), head.ras_from_voxel)
    monkeypatch.chdir(tmp_path)
    made: set[str] = set()
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for line in "".join(blocks).splitlines():
        program, *words = line.split()
        if program == "spatial-ar-anomaly":
            done = run(*words)
            assert done.exit_code == 0, line + done.stderr
        else:
            subprocess.run(["bash", "-euc", line], check=True, timeout=60)
        made |= {path.name for path in tmp_path.iterdir()}
    assert {"heads-t1.safetensors", "heads-t1.md", "results", "evaluation"} <= made
    assert [path.name for path in tmp_path.iterdir()] == ["spatial-ar-anomaly-demo"]
