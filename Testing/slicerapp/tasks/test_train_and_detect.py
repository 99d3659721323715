"""A real training in the panel: survey, train, pause, cancel, restart, resume, detect."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from Harness import run_events, wait_until
from service.small_site import SHAPE_KJI, SPACING_MM
from slicerapp.heads import add_head, detected
from slicerapp.tooltips import tip
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import normal_head

pytestmark = pytest.mark.slow

EPOCHS, SIZE_PX = 60, 112


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """A folder with 8 heads and 3 unusable files in subfolders."""
    folder = tmp_path_factory.mktemp("normal scans é")
    for number in range(8):
        place = folder / ("a" if number < 4 else "b")
        place.mkdir(exist_ok=True)
        head = normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
        write_nifti(place / f"normal_{number}.nii.gz", head)
    shutil.copy(folder / "a/normal_1.nii.gz", folder / "b/normal_1_again.nii.gz")
    whole = (folder / "a/normal_2.nii.gz").read_bytes()
    (folder / "a/torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    few = normal_head(9, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    write_nifti(folder / "few.nii.gz", Volume(few.voxels[2:4], few.ras_from_voxel))
    return folder


@pytest.fixture
def trainer(app, warm_worker):
    """The trainer of this Slicer, with its own worker."""
    import slicer
    from SpatialARAnomalyLib.slicerapp.tasks.Training import TRAINER_ATTRIBUTE, sharedTrainer

    yield sharedTrainer()
    last = getattr(slicer.modules, TRAINER_ATTRIBUTE)
    if last.worker is not warm_worker:
        last.stop()
    delattr(slicer.modules, TRAINER_ATTRIBUTE)


@pytest.fixture
def panel(trainer, opened, scans):
    """Choose the folder of scans in the module."""
    ui = opened.ui
    ui.trainFolderEdit.setCurrentPath(str(scans))
    ui.trainSizeSpinBox.setValue(SIZE_PX)
    ui.trainEpochsSpinBox.setValue(EPOCHS)
    ui.trainNameEdit.setText("Eight heads")
    opened.ui.trainSection.collapsed = False  # what is in a collapsed section is hidden
    return opened


def look(module):
    scans = module.widget.panel.train.scans
    module.ui.trainSurveyButton.click()
    wait_until(lambda: not scans.surveying, 60, "the survey")
    assert scans.result is not None, module.ui.trainStatusLabel.text
    return scans.result


def status(module) -> str:
    return module.ui.trainStatusLabel.text


def rows_of_plot() -> int:
    import slicer

    charts = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    return charts[0].GetNthPlotSeriesNode(0).GetTableNode().GetNumberOfRows() if charts else 0


@pytest.mark.timeout(300)
def test_from_a_folder_to_a_finding(panel, trainer, models_folder, monkeypatch):
    import slicer
    from SpatialARAnomalyLib.slicerapp.tasks.Training import TRAINER_ATTRIBUTE
    from SpatialARAnomalyLib.slicerapp.worker import WorkerProcess

    # What was found, and why some of it is not used.
    result = look(panel)
    left = {row.name: (row.code, row.reason) for row in result.rows if not row.used}
    codes = {Path(name).name: code for name, (code, _reason) in left.items()}
    assert codes["torn.nii.gz"] == "unreadable"
    assert codes["few.nii.gz"] == "too-small"
    twice = {"normal_1.nii.gz", "normal_1_again.nii.gz"} & set(codes)
    assert [codes[name] for name in twice] == ["duplicate"]
    assert len(left) == 3
    assert all(reason for _code, reason in left.values())
    assert panel.ui.trainCountLabel.text.startswith("8 of 11 scans will be used (MR).")
    assert result.estimate is not None
    assert panel.ui.trainEstimateLabel.text.startswith("About ")

    # The plot grows; a pause holds everything.
    panel.ui.trainButton.click()
    training = trainer.training
    wait_until(rows_of_plot, 120, "the first epoch in the plot")
    shown = rows_of_plot()
    wait_until(lambda: rows_of_plot() > shown, 60, "the next")
    panel.ui.trainPauseButton.click()
    wait_until(lambda: status(panel).startswith("Paused."), 60, "the pause")
    held = len(training.curve)

    # Detection works meanwhile, with the model that was there.
    scan, lesion = add_head()
    panel.ui.inputSelector.setCurrentNode(scan)
    run_events()
    assert detected(panel) is not None, panel.ui.statusLabel.text
    assert len(training.curve) == held
    panel.exit()
    training.resume()
    wait_until(lambda: len(training.curve) > held, 60, "the next epoch")
    panel.enter()

    # Cancelled: what was done is kept.
    panel.ui.trainButton.click()
    wait_until(lambda: not trainer.running, 60, "the end")
    assert status(panel) == "Cancelled. The training can be resumed."
    done = len(training.curve)
    assert panel.ui.trainUnfinishedBox.isVisibleTo(panel.ui.trainSection)
    assert "Eight heads" in panel.ui.trainUnfinishedSelector.currentText
    assert tip(panel.ui.trainButton).startswith("An unfinished training has this name")

    # Slicer is started again: another worker, another panel, the same line.
    trainer.stop()
    delattr(slicer.modules, TRAINER_ATTRIBUTE)
    worker = WorkerProcess._worker
    panel.reload()
    monkeypatch.setattr(sys.modules["SpatialARAnomaly"], "stopSharedWorker", lambda: None)
    from SpatialARAnomalyLib.slicerapp.tasks.Training import sharedTrainer as newTrainer
    from SpatialARAnomalyLib.slicerapp.worker import WorkerProcess as worker_module

    monkeypatch.setattr(worker_module, "_worker", worker)
    panel.widget.logic.worker = worker
    panel.enter()
    assert newTrainer() is not trainer
    assert panel.ui.trainResumeButton.isEnabled(), panel.ui.trainResumeButton.toolTip
    panel.ui.trainResumeButton.click()
    training = newTrainer().training
    wait_until(lambda: training.curve, 60, "the curve of before")
    wait_until(lambda: not training.running, 120, "the training")
    assert [epoch.number for epoch in training.curve] == list(range(1, EPOCHS + 1))
    assert done >= held
    assert rows_of_plot() == EPOCHS

    # The model is chosen, with its card, and finds the lesion.
    assert status(panel) == "The model Eight heads is ready and chosen under Detect."
    assert panel.ui.modelSelector.currentText == "Eight heads"
    assert "Trained on 4 normal scans" in panel.ui.modelCardLabel.text
    assert not panel.ui.trainUnfinishedBox.isVisibleTo(panel.ui.trainSection)
    assert not list(models_folder.glob("*.training"))
    panel.ui.inputSelector.setCurrentNode(scan)
    run_events()
    found = detected(panel)
    assert found is not None, panel.ui.statusLabel.text
    assert found.modelName == "Eight heads"
    nll = slicer.util.arrayFromVolume(found.volume)
    # Four coarse heads and a step per epoch: the lesion stands out, but is not first.
    assert nll[lesion].mean() > np.quantile(nll[nll > nll.min()], 0.6)


@pytest.mark.timeout(300)
def test_scans_of_the_scene_discarded_and_trained_anew_without_the_scene(
    opened, warm_worker, scene, models_folder, trainer
):
    import qt

    trainer.worker = warm_worker  # the loading of torch takes longer than all else here
    ui = opened.ui
    for number in range(3):
        add_head(f"Head {number}", seed=number)
    run_events(0.05)
    for row in range(3):
        ui.trainVolumesList.item(row).setCheckState(qt.Qt.Checked)
    ui.trainNameEdit.setText("Three heads")
    ui.trainSizeSpinBox.setValue(SIZE_PX)
    ui.trainEpochsSpinBox.setValue(500)
    assert len(look(opened).sources) == 3
    ui.trainButton.click()
    wait_until(lambda: trainer.training.curve, 60, "an epoch")
    ui.trainButton.click()
    wait_until(lambda: not trainer.running, 60, "the end")

    line, dialogs = opened.widget.panel.train.unfinished, opened.widget.panel.dialogs
    ui.trainDiscardButton.click()
    assert dialogs.questions == ["Discard the training of Three heads? This cannot be undone."]
    assert list(models_folder.glob("*.training"))
    dialogs.yes = True
    ui.trainDiscardButton.click()
    wait_until(lambda: not line.entries, 20, "the line to go")
    assert status(opened) == "Discarded."
    assert not list(models_folder.glob("*.training"))

    ui.trainEpochsSpinBox.setValue(2)
    assert ui.trainButton.isEnabled(), ui.trainButton.toolTip
    ui.trainButton.click()
    scene.Clear(False)
    wait_until(lambda: not trainer.running, 60, "the training")
    assert status(opened).startswith("The model Three heads is ready and chosen under Detect.")
