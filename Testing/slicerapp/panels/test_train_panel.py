"""The section *Train* over a worker that trains quickly and learns nothing (`fake_workers`)."""

import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
from Harness import gui_gap, load_scripted_module, run_events, wait_until
from slicerapp.conftest import MODULE
from slicerapp.fake_workers import fake_command
from slicerapp.heads import add_head, add_volume, detected
from slicerapp.tooltips import tip
from SpatialARAnomalyLib.engine.specs import Modality, Orientation, Plane, Preset
from SpatialARAnomalyLib.service.training.request import TrainSpec


@pytest.fixture
def trainer(app, tmp_path):
    """The one of this Slicer, with a worker that misbehaves in no way."""
    import slicer
    from SpatialARAnomalyLib.slicerapp.tasks.Training import (
        TRAINER_ATTRIBUTE,
        Trainer,
    )
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    trainer = Trainer(WorkerProcess(command=fake_command("trains", tmp_path)))
    setattr(slicer.modules, TRAINER_ATTRIBUTE, trainer)
    yield trainer
    trainer.stop()
    delattr(slicer.modules, TRAINER_ATTRIBUTE)


@pytest.fixture
def opened(load_module, settings, dialogs, trainer, tmp_path):
    """Our module, entered, with a folder of scans."""
    from SpatialARAnomalyLib.slicerapp import Settings

    Settings.setModelsFolder(tmp_path / "models")
    (tmp_path / "scans").mkdir()
    module = load_module(MODULE)
    module.enter()
    module.ui.trainFolderEdit.setCurrentPath(str(tmp_path / "scans"))
    return module


def status(module) -> str:
    return module.ui.trainStatusLabel.text


def survey(module):
    """Click *Survey scans* and wait; what was found."""
    module.ui.trainSurveyButton.click()
    scans = module.widget.panel.train.scans
    wait_until(lambda: not scans.surveying, 20, "the survey")
    return scans.result


def begin(module, trainer, epochs: int = 500):
    """A training under way."""
    survey(module)
    module.ui.trainNameEdit.setText("Heads, T1")
    module.ui.trainEpochsSpinBox.setValue(epochs)
    assert module.ui.trainButton.isEnabled(), module.ui.trainButton.toolTip
    module.ui.trainButton.click()
    assert module.ui.trainButton.text == "Cancel"
    return trainer.training


def epochs_done(training, count: int) -> None:
    wait_until(lambda: len(training.curve) >= count, 20, f"epoch {count}")


def ended(module, trainer) -> str:
    wait_until(lambda: not trainer.running, 20, "the training to end")
    assert module.ui.trainButton.text == "Train"
    assert not module.ui.trainProgressBar.isVisibleTo(module.panel)
    return status(module)


def chart():
    """The learning curve's chart and its table as columns, or None."""
    import slicer

    charts = slicer.util.getNodesByClass("vtkMRMLPlotChartNode")
    if not charts:
        return None
    table = charts[0].GetNthPlotSeriesNode(0).GetTableNode().GetTable()
    names = [table.GetColumnName(index) for index in range(table.GetNumberOfColumns())]
    rows = range(table.GetNumberOfRows())
    return charts[0], {
        name: [table.GetColumnByName(name).GetValue(row) for row in rows] for name in names
    }


def ticked(module, name: str) -> None:
    import qt

    (item,) = module.ui.trainVolumesList.findItems(name, qt.Qt.MatchExactly)
    item.setCheckState(qt.Qt.Checked)


def listed(module) -> list[str]:
    volumes = module.ui.trainVolumesList
    return [volumes.item(row).text() for row in range(volumes.property("count"))]


class TestScans:
    def test_unloading_the_module_ends_a_survey(self, settings, trainer, tmp_path):
        module = load_scripted_module(MODULE)
        module.enter()
        module.ui.trainFolderEdit.setCurrentPath(str(tmp_path))
        module.ui.trainSurveyButton.click()
        assert trainer.worker.busy
        module.unload()
        wait_until(lambda: not trainer.worker.busy, 20, "the survey")
        run_events(0.1)

    def test_buttons_say_what_is_missing(self, opened):
        ui = opened.ui
        assert ui.trainSurveyButton.isEnabled()
        assert tip(ui.trainButton) == "Survey the scans first."
        assert tip(ui.trainPauseButton) == "No training is running."
        assert tip(ui.trainPlotButton) == "No epoch is done yet."
        ui.trainFolderEdit.setCurrentPath(ui.trainFolderEdit.currentPath + "/none")
        assert tip(ui.trainSurveyButton) == "The folder does not exist."
        ui.trainFolderEdit.setCurrentPath("")
        for button in (ui.trainSurveyButton, ui.trainButton):
            assert not button.isEnabled()
            assert tip(button) == "Choose a folder, or tick loaded scans first."

    def test_the_list_follows_the_scene_and_holds_scans_only(self, opened, scene):
        import slicer
        from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import ROLE

        assert listed(opened) == ["No scan is loaded."]
        first = add_volume(np.ones((3, 4, 5), np.float32), np.eye(4), "A")
        add_volume(np.ones((3, 4, 5), np.float32), np.eye(4), "B")
        result = add_volume(np.ones((3, 4, 5), np.float32), np.eye(4), "A NLL")
        result.SetAttribute(ROLE, "volume")
        labels = slicer.util.addVolumeFromArray(
            np.ones((3, 4, 5), np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode"
        )
        assert labels.IsA("vtkMRMLScalarVolumeNode")
        run_events(0.05)
        assert listed(opened) == ["A", "B"]
        ticked(opened, "B")
        scene.RemoveNode(first)
        add_volume(np.ones((3, 4, 5), np.float32), np.eye(4), "C")
        run_events(0.05)
        assert listed(opened) == ["B", "C"]
        assert [node.GetName() for node in opened.widget.panel.train.scans._tickedVolumes()] == [
            "B"
        ]

    def test_a_survey_tells_what_was_found_and_what_it_would_take(self, opened):
        result = survey(opened)
        ui = opened.ui
        table = ui.trainScansTable
        uses = [table.item(row, 1).text() for row in range(table.rowCount)]
        assert uses == ["✗ duplicate", "used", "used", "used"]
        assert [table.item(0, column).text() for column in range(table.columnCount)] == [
            "copy.nii.gz", "✗ duplicate", "6", "4.8 × 4.8 × 20",
        ]  # fmt: skip
        assert ui.trainScanLabel.isHidden()
        table.selectRow(0)
        assert ui.trainScanLabel.text == (
            "copy.nii.gz: It has the same content as normal_0.nii.gz. (MR, 40 × 48 × 6 voxels)"
        )
        assert ui.trainCountLabel.text == ("3 of 4 scans will be used (MR). Not used: 1 duplicate.")
        assert ui.trainEstimateLabel.text == (
            "⚠ It will not fit on the disk. About 70 s to embed and 2.0 h for 40 epochs; 3.2 GB "
            "of memory, 900 MB of disk while it runs (500 MB free)."
        )
        assert [source["path"] for source in result.sources] == [
            f"/scans/normal_{number}.nii.gz" for number in range(3)
        ]

    def test_the_table_of_an_archive_shows_the_rows_that_need_a_look(self, opened, monkeypatch):
        from SpatialARAnomalyLib.slicerapp.panels import TrainScans

        monkeypatch.setattr(TrainScans, "MAX_ROWS", 2)
        assert len(survey(opened).rows) == 4
        table = opened.ui.trainScansTable
        uses = [table.item(row, 1).text() for row in range(table.rowCount)]
        assert uses == ["✗ duplicate", "used"]
        assert opened.ui.trainCountLabel.text.endswith("The table shows 2 of them.")

    def test_scans_of_the_scene_are_handed_over_as_they_are(self, opened):
        voxels = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)
        affine = np.array([[0, -2, 0, 5], [1, 0, 0, 6], [0, 0.5, 3, 7], [0, 0, 0, 1.0]])
        add_volume(voxels, affine, "Oblique")
        run_events(0.05)
        ticked(opened, "Oblique")
        source = survey(opened).sources[-1]
        assert np.array_equal(np.load(source["voxels"]), voxels)
        assert np.array_equal(source["affine"], affine)
        first = Path(source["voxels"])
        survey(opened)
        assert not first.exists(), "the files of a survey go with the next one"

    def test_large_scans_do_not_stop_slicer(self, opened):
        add_volume(np.zeros((120, 512, 512), np.float32), np.eye(4), "Large")
        run_events(0.05)
        ticked(opened, "Large")
        with gui_gap(clock=time.thread_time) as gap:
            survey(opened)
        assert gap.longest_s < 0.25

    def test_a_scan_deleted_while_it_is_handed_over_is_told(self, opened, scene):
        volume = add_volume(np.zeros((120, 512, 512), np.float32), np.eye(4), "Large")
        run_events(0.05)
        ticked(opened, "Large")
        opened.ui.trainSurveyButton.click()
        assert status(opened) == "Sending the volume"
        volume.GetImageData().GetPointData().GetScalars().Modified()
        wait_until(lambda: not opened.widget.panel.train.scans.surveying, 20)
        assert status(opened) == (
            "⚠ A scan was changed or deleted while it was sent. Click 'Survey scans' again."
        )

    def test_a_survey_can_be_stopped(self, opened):
        add_volume(np.zeros((120, 512, 512), np.float32), np.eye(4), "Large")
        run_events(0.05)
        ticked(opened, "Large")
        opened.ui.trainSurveyButton.click()
        assert opened.ui.trainSurveyButton.text == "Stop survey"
        assert tip(opened.ui.trainButton) == "The survey is running."
        opened.ui.trainSurveyButton.click()
        assert status(opened) == "Cancelled."
        assert opened.ui.trainSurveyButton.text == "Survey scans"

    def test_what_matters_asks_for_another_survey(self, opened):
        ui = opened.ui
        survey(opened)
        ui.trainNameEdit.setText("Heads")
        assert ui.trainButton.isEnabled()
        ui.trainEpochsSpinBox.setValue(7)
        assert ui.trainButton.isEnabled()
        assert "survey again for an estimate" in ui.trainEstimateLabel.text
        ui.trainPlaneSelector.setCurrentIndex(1)
        for change in (
            lambda: ui.trainPlaneSelector.setCurrentIndex(0),
            lambda: ui.trainOrientationSelector.setCurrentIndex(2),
            lambda: ui.trainUnstatedCheckBox.setChecked(True),
        ):
            assert tip(ui.trainButton) == "The choice of scans has changed: survey them again."
            survey(opened)
            assert ui.trainButton.isEnabled()
            change()
        spec = opened.widget.panel.train.form.spec()
        assert (spec.orientation, spec.allow_unstated_orientation) == (Orientation.QFORM, True)

    def test_a_name_that_is_taken_is_refused_at_once(self, opened, tmp_path):
        survey(opened)
        assert tip(opened.ui.trainButton) == "Give the model a name."
        (tmp_path / "models").mkdir()
        (tmp_path / "models/Heads_T1.safetensors").touch()
        opened.ui.trainNameEdit.setText("Heads T1")
        assert "A model of this name exists" in opened.ui.trainButton.toolTip

    def test_what_nobody_chose_is_the_spec_s_default(self, opened):
        assert opened.widget.panel.train.form.spec() == TrainSpec()

    def test_selectors_offer_every_value_of_the_spec(self, opened):
        ui = opened.ui
        for selector, values in (
            (ui.trainModalitySelector, ["", *Modality]),
            (ui.trainPlaneSelector, [*Plane]),
            (ui.trainPresetSelector, [*Preset]),
            (ui.trainOrientationSelector, ["", *Orientation]),
        ):
            count = selector.property("count")
            assert sorted(selector.itemData(index) for index in range(count)) == sorted(values)

    def test_the_resolution_is_a_multiple_of_the_patch(self, opened):
        opened.ui.trainSizeSpinBox.setValue(230)
        opened.ui.trainSizeSpinBox.editingFinished.emit()
        assert opened.ui.trainSizeSpinBox.value == 224

    def test_an_encoder_of_ones_own_asks_for_its_files(self, opened, tmp_path):
        ui = opened.ui
        ui.trainSection.collapsed = False
        ui.trainEncoderSelector.setCurrentIndex(ui.trainEncoderSelector.property("count") - 1)
        assert ui.trainEncoderPathEdit.isVisibleTo(ui.trainSection)
        assert tip(ui.trainSurveyButton) == "Choose the folder or file of the encoder."
        ui.trainEncoderPathEdit.setCurrentPath(str(tmp_path))
        assert ui.trainSurveyButton.isEnabled()
        assert opened.widget.panel.train.form.spec().encoder == str(tmp_path)

    def test_weights_of_the_hub_are_offered_where_they_are_on_this_machine(self, opened):
        hub = Path(os.environ["HF_HOME"]) / "hub/models--timm--vit_small_patch16_dinov3.lvd1689m"
        encoders = opened.ui.trainEncoderSelector
        assert encoders.findText("DINOv3 ViT-S/16") < 0
        (hub / "snapshots/abc").mkdir(parents=True)
        (hub / "snapshots/abc/model.safetensors").write_bytes(b"")
        (hub / "snapshots/abc/config.json").write_text("{}")
        (hub / "refs").mkdir()
        (hub / "refs/main").write_text("abc")
        opened.exit()
        opened.enter()
        encoders.setCurrentIndex(encoders.findText("DINOv3 ViT-S/16"))
        chosen = opened.widget.panel.train.form.spec().encoder
        assert chosen == "timm/vit_small_patch16_dinov3.lvd1689m"
        opened.enter()
        assert opened.widget.panel.train.form.spec().encoder == chosen


class TestTraining:
    def test_the_plot_grows_epoch_by_epoch(self, opened, trainer):
        rows = []
        plot = opened.widget.panel.train._plot
        draw = plot.draw

        def watched(curve, name):
            drawn = draw(curve, name)
            rows.append(len(chart()[1]["epoch"]))
            return drawn

        plot.draw = watched
        begin(opened, trainer)
        wait_until(lambda: rows and rows[-1] >= 12, 20, "twelve epochs")
        assert rows == sorted(rows)
        assert len(set(rows)) >= 3
        node, columns = chart()
        assert columns["epoch"][:6] == [1, 2, 3, 4, 5, 6]
        # Of a mean squared error m the NLL is ½·(ln 2πm + 1); the fake one's is 1/epoch.
        expected = [0.5 * (math.log(2 * math.pi / epoch) + 1) for epoch in range(1, 7)]
        assert columns["train_nll"][:6] == pytest.approx(expected)
        assert columns["held_out_nll"][:6] == pytest.approx([1.3, 1.2, 1.1, 1.0, 1.1, 1.2])
        assert set(columns["best_epoch"]) == {4}
        assert set(columns["best_nll"]) == {1.0}
        names = [node.GetNthPlotSeriesNode(index).GetName() for index in range(3)]
        assert names == ["training scans", "held-out scans", "best: epoch 4"]
        assert node.GetYAxisTitle() == "NLL (nats per channel)"
        assert node.GetXAxisTitle() == "Epoch"
        assert node.GetTitle() == "Training of Heads, T1"

    def test_the_chart_is_shown_and_comes_back_after_it_was_deleted(self, opened, trainer, scene):
        import slicer

        begin(opened, trainer)
        wait_until(lambda: chart() is not None, 20, "the chart")
        selection = slicer.app.applicationLogic().GetSelectionNode()
        assert selection.GetActivePlotChartID() == chart()[0].GetID()
        scene.RemoveNode(chart()[0].GetNthPlotSeriesNode(1))
        wait_until(lambda: chart() is None, 20, "the rest of the chart to go")
        opened.ui.trainPlotButton.click()
        assert len(chart()[1]["epoch"]) >= 1

    def test_progress_names_step_epoch_and_time_left(self, opened, trainer):
        training = begin(opened, trainer)
        wait_until(lambda: training.progress.share > 0, 20)
        shares = [training.progress.share]
        epochs_done(training, 3)
        shares.append(training.progress.share)
        assert shares == sorted(shares)
        assert status(opened).startswith("Step 3 of 4: Training the model, epoch ")
        assert status(opened).endswith("of 500, about 1 s left")

    def test_a_pause_holds_it_until_it_goes_on(self, opened, trainer):
        training = begin(opened, trainer)
        epochs_done(training, 2)
        opened.ui.trainPauseButton.click()
        wait_until(lambda: status(opened).startswith("Paused."), 20, "the pause")
        assert opened.ui.trainPauseButton.text == "Continue"
        count = len(training.curve)
        run_events(0.3)
        assert len(training.curve) == count
        opened.ui.trainPauseButton.click()
        assert opened.ui.trainPauseButton.text == "Pause"
        epochs_done(training, count + 2)

    def test_a_paused_training_can_be_cancelled(self, opened, trainer):
        training = begin(opened, trainer)
        opened.ui.trainPauseButton.click()
        wait_until(lambda: training.state == "paused", 20)
        opened.ui.trainButton.click()
        assert ended(opened, trainer).startswith("Cancelled.")

    def test_it_ends_with_a_message(self, opened, trainer):
        begin(opened, trainer, epochs=3)
        assert ended(opened, trainer) == "The model Heads, T1 is ready."
        assert opened.ui.trainPlotButton.isEnabled()

    def test_what_is_asked_of_the_worker_is_what_was_chosen(self, opened, trainer):
        ui = opened.ui
        ui.trainModalitySelector.setCurrentIndex(2)
        assert ui.trainPresetSelector.currentText == "Composite (recommended)"
        ui.trainPresetSelector.setCurrentIndex(2)
        ui.trainSizeSpinBox.setValue(224)
        training = begin(opened, trainer, epochs=9)
        assert training.request.spec == TrainSpec(
            name="Heads, T1", modality=Modality.MR, fov_mm=230.0, size_px=224,
            preset=Preset.DILATED, epochs=9,
        )  # fmt: skip
        assert training.request.model.name == "Heads_T1.safetensors"

    def test_a_worker_that_dies_is_told_and_the_next_training_works(
        self, opened, trainer, tmp_path
    ):
        training = begin(opened, trainer)
        epochs_done(training, 1)
        os.kill(trainer.worker.pid, 9)
        assert ended(opened, trainer).startswith("⚠ The worker process crashed.")
        begin(opened, trainer, epochs=2)
        assert ended(opened, trainer) == "The model Heads, T1 is ready."


class TestLife:
    def test_it_goes_on_when_the_module_is_left_and_the_scene_closed(self, opened, trainer):
        import slicer

        training = begin(opened, trainer)
        epochs_done(training, 1)
        opened.exit()
        slicer.mrmlScene.Clear(False)
        run_events(0.05)
        count = len(training.curve)
        epochs_done(training, count + 2)
        assert chart() is None, "a closed scene is not filled again by itself"
        opened.enter()
        assert opened.ui.trainButton.text == "Cancel"
        opened.ui.trainPlotButton.click()
        assert len(chart()[1]["epoch"]) >= count

    @pytest.mark.slow
    def test_detection_works_meanwhile(self, opened, trainer, warm_worker, models_folder):
        opened.ui.modelsFolderEdit.setCurrentPath(str(models_folder))
        opened.widget.logic.worker = warm_worker
        training = begin(opened, trainer, epochs=9000)
        scan, _lesion = add_head()
        opened.ui.inputSelector.setCurrentNode(scan)
        run_events()
        before = len(training.curve)
        assert detected(opened) is not None, opened.ui.statusLabel.text
        assert training.running
        assert len(training.curve) > before

    def test_a_reload_of_the_module_finds_it_as_it_is(self, opened, trainer):
        training = begin(opened, trainer)
        epochs_done(training, 1)
        opened.ui.trainPauseButton.click()
        wait_until(lambda: training.state == "paused", 20)
        opened.reload()
        opened.enter()
        assert opened.ui.trainButton.text == "Cancel"
        assert opened.ui.trainPauseButton.text == "Continue"
        assert status(opened).startswith("Paused.")
        opened.ui.trainPauseButton.click()
        count = len(training.curve)
        epochs_done(training, count + 2)
        opened.ui.trainButton.click()
        assert ended(opened, trainer).startswith("Cancelled.")

    def test_how_it_ended_is_told_to_the_panel_that_comes_later(self, opened, trainer):
        begin(opened, trainer, epochs=4)
        trainer.detach()  # as if it ended while the module is reloaded
        wait_until(lambda: not trainer.running, 20)
        opened.reload()
        assert status(opened) == "The model Heads, T1 is ready."

    def test_the_scenes_scans_stay_as_long_as_it_reads_them(self, opened, trainer):
        add_volume(np.ones((3, 4, 5), np.float32), np.eye(4), "A")
        run_events(0.05)
        ticked(opened, "A")
        training = begin(opened, trainer)
        file = Path(training.request.sources[-1]["voxels"])
        opened.reload()
        run_events(0.05)
        assert file.exists()
        opened.ui.trainButton.click()
        ended(opened, trainer)
        assert not file.exists()

    def test_choices_are_remembered_but_no_names(self, opened, trainer, settings):
        add_volume(np.ones((3, 4, 5), np.float32), np.eye(4), "Müller^Eva")
        run_events(0.05)
        ticked(opened, "Müller^Eva")
        ui = opened.ui
        ui.trainSizeSpinBox.setValue(224)
        ui.trainPresetSelector.setCurrentIndex(1)
        ui.trainPlaneSelector.setCurrentIndex(2)
        folder = ui.trainFolderEdit.currentPath
        begin(opened, trainer, epochs=3)
        ended(opened, trainer)
        opened.reload()
        ui = opened.ui
        assert ui.trainSizeSpinBox.value == 224
        assert ui.trainEpochsSpinBox.value == 3
        assert ui.trainPresetSelector.currentIndex == 1
        assert ui.trainFolderEdit.currentPath == folder
        # These are of the scene.
        assert ui.trainPlaneSelector.currentIndex == 2
        assert ui.trainNameEdit.text == "Heads, T1"
        kept = {key: str(settings.value(key)) for key in settings.allKeys()}
        assert not [key for key, value in kept.items() if "Eva" in value or "normal_0" in value]


class TestQuit:
    @pytest.fixture
    def window(self, app, monkeypatch, trainer):
        """A main window."""
        import qt
        import slicer

        window = qt.QMainWindow()
        monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
        window.show()
        yield window
        trainer._question = None
        window.hide()

    def test_quitting_asks_while_it_runs(self, opened, trainer, window):
        asked, answers = [], [False, True]

        def confirm(text):
            asked.append(text)
            window.close()  # a second click on the cross does not ask twice
            return answers.pop(0)

        training = begin(opened, trainer)
        trainer.confirmQuit = confirm
        assert not window.close()
        assert window.isVisible()
        assert asked == [
            "A training is running and will stop. It can be resumed under Train. Quit?"
        ]
        count = len(training.curve)
        epochs_done(training, count + 2)
        assert window.close()
        assert not window.isVisible()
        assert len(asked) == 2

    def test_quitting_does_not_ask_when_none_runs(self, opened, trainer, window):
        begin(opened, trainer, epochs=2)
        ended(opened, trainer)
        assert window.statusBar().currentMessage() == "The model Heads, T1 is ready."
        trainer.confirmQuit = lambda text: pytest.fail("asked")
        assert window.close()

    def test_the_worker_ends_with_slicer(self, app, scene, settings, load_module, tmp_path):
        import slicer
        from SpatialARAnomalyLib.slicerapp.tasks.Training import (
            TRAINER_ATTRIBUTE,
            sharedTrainer,
        )

        trainer = sharedTrainer()
        trainer.worker._command = fake_command("trains", tmp_path)
        assert sharedTrainer() is trainer
        trainer.worker.submit("survey", inputs={"volumes": []}, onEnd=lambda event: None)
        wait_until(lambda: trainer.worker.pid, 20, "hello")
        app.aboutToQuit.emit()
        assert not trainer.worker.running
        delattr(slicer.modules, TRAINER_ATTRIBUTE)
