"""Blocking calls from Slicer's Python console, as the documents show them."""

import gc
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import qt
from slicerapp.heads import add_head, add_volume
from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError

PAGE = Path(__file__).parents[3] / "Resources/Docs/module.md"


@pytest.fixture
def logic(opened):
    import slicer

    logic = slicer.util.getModuleLogic("SpatialARAnomaly")
    assert logic is opened.widget.logic
    return logic


def cells() -> list[str]:
    """The Python blocks of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_what_cannot_be_searched_or_found_is_an_error(logic):
    import slicer

    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    with pytest.raises(InputError, match="label map"):
        logic.detect(labels, "quick")
    scan = add_volume(np.zeros((4, 8, 8), np.int16), np.eye(4))
    with pytest.raises(InputError, match="no model unknown"):
        logic.detect(scan, "unknown")
    with pytest.raises(TypeError):
        logic.detect(scan, "quick", rate=0.1)
    assert not logic.busy


class FakeDetection:
    """A detection that reports once and ends when it is cancelled."""

    def __init__(self, volume, settings, worker, onProgress, onEnd, mask=None):
        from SpatialARAnomalyLib.slicerapp.worker.Progress import Progress

        self.volumeId = volume.GetID()
        self.onEnd = onEnd
        onProgress(Progress(0.5, "half"))

    def cancel(self):
        from SpatialARAnomalyLib.slicerapp.tasks.Detection import Outcome

        self.onEnd(Outcome())


@pytest.fixture
def slow_detection(monkeypatch):
    from SpatialARAnomalyLib.slicerapp import Logic

    monkeypatch.setattr(Logic, "Detection", FakeDetection)
    return add_volume(np.zeros((4, 8, 8), np.int16), np.eye(4))


def test_the_panel_shows_and_cancels_a_scripts_detection(logic, opened, slow_detection):
    ui, seen = opened.ui, []

    def look() -> None:
        seen.append((ui.detectButton.text, ui.statusLabel.text, ui.inputSelector.isEnabled()))
        ui.detectButton.click()

    qt.QTimer.singleShot(0, look)
    shares = []
    with pytest.raises(SpatialARError, match="Cancelled"):
        logic.detect(slow_detection, "quick", onProgress=lambda *one: shares.append(one))
    assert seen == [("Cancel", "half", False)]
    assert shares == [(0.5, "half")]
    assert (ui.detectButton.text, ui.statusLabel.text) == ("Detect anomalies", "")
    assert ui.inputSelector.isEnabled()


def test_a_script_does_not_hang_when_the_module_is_reloaded(logic, opened, slow_detection):
    qt.QTimer.singleShot(0, opened.reload)
    with pytest.raises(SpatialARError, match="Cancelled"):
        logic.detect(slow_detection, "quick")
    assert opened.ui.detectButton.text == "Detect anomalies"


def test_a_logic_that_a_script_drops_is_gone(opened, scene):
    import sys

    logic = sys.modules["SpatialARAnomaly"].SpatialARAnomalyLogic(opened.widget.logic.worker)
    there = weakref.ref(logic)
    before = scene.HasObserver(scene.StartCloseEvent)
    del logic
    gc.collect()
    assert there() is None
    assert before
    scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    scene.Clear(False)


@pytest.mark.slow
def test_the_page_detects_trains_and_walks_a_folder(logic, opened, site, tmp_path, monkeypatch):
    from SpatialARAnomalyLib.slicerapp.tasks import Training
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    worker = WorkerProcess()
    trainer = Training.Trainer(worker)
    from SpatialARAnomalyLib.slicerapp import Scripting

    monkeypatch.setattr(Scripting, "sharedTrainer", lambda: trainer)
    normals, scans = tmp_path / "normals", tmp_path / "scans"
    normals.mkdir()
    scans.mkdir()
    for number, file in enumerate(site.normals):
        (normals / f"{number}.nii.gz").symlink_to(file)
    (scans / "one.nii.gz").symlink_to(site.normals[0])
    add_head("HeadWithLesion")
    detect, train, batch = (
        cell.replace("demonstration head", "quick")
        .replace("/data/normal heads", str(normals))
        .replace("/data/scans", str(scans))
        .replace("/data/results", str(tmp_path / "results"))
        .replace("epochs=20", "epochs=2, size_px=112, onProgress=seen")
        for cell in cells()
    )
    said: list[tuple[float, str]] = []

    def seen(*progress) -> None:
        said.append(progress)
        trainer.detach()  # as when the module is reloaded: the script waits on

    names = {"slicer": __import__("slicer"), "seen": seen, "print": print}
    try:
        exec(detect, names)
        assert names["result"].findings
        exec(train, names)
        assert names["model"].exists()
        assert said
        assert 0 <= min(said)[0] <= max(said)[0] <= 1
        exec(batch, names)
    finally:
        worker.stop()
    assert sorted(one.name for one in (tmp_path / "results").iterdir()) == [
        "one_anomalies.seg.nrrd", "one_findings.csv", "one_labels.nii.gz", "one_nll.nrrd",
    ]  # fmt: skip
    assert logic.onProgress.__self__ is opened.widget.panel.detect


@pytest.mark.slow
def test_a_failed_detection_raises_its_error(logic, tmp_path):
    scan, _ = add_head()
    (tmp_path / "torn.safetensors").write_bytes(b"no model")
    with pytest.raises(SpatialARError) as caught:
        logic.detect(scan, tmp_path / "torn.safetensors")
    assert caught.value.code
    assert not logic.busy
