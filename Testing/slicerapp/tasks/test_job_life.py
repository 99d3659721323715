"""The life of a job: whatever happens, it ends, and the scene is unchanged or complete.

The next detection works after each of them (`ends_well`).
"""

import errno
import os
import shutil
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from Harness import load_scripted_module, run_events, wait_until
from slicerapp.conftest import MODULE
from slicerapp.fake_workers import fake_command
from slicerapp.heads import add_head, add_volume, detected
from SpatialARAnomalyLib.service.demo.demo import head_with_lesion, unseen_head

pytestmark = pytest.mark.slow

SENDING, LOADING = "Sending the volume", "Loading the result"
READING, EMBEDDING, FINDING, WRITING = (
    "Reading", "Embedding slices", "Finding anomalies", "Writing results",
)  # fmt: skip


def work_folders() -> list[Path]:
    import slicer

    return sorted(Path(slicer.app.temporaryPath).glob("SpatialARAnomaly-*"))


def status(module) -> str:
    return module.ui.statusLabel.text


def choose(module, node) -> None:
    module.ui.inputSelector.setCurrentNode(node)
    run_events()


def with_scan(module):
    """Add a scan to the scene and choose it; return the scan."""
    scan, _ = add_head()
    choose(module, scan)
    return scan


def at(module, stage: str, act) -> None:
    """Call a function once, when a stage is first reported."""
    logic, waiting = module.widget.logic, [act]
    show = logic.onProgress

    def told(progress):
        show(progress)
        if progress.text.startswith(stage) and waiting:
            waiting.pop()()

    logic.onProgress = told


def ended(module) -> str:
    """Return the status after the end of the job."""
    wait_until(lambda: not module.widget.logic.busy, 120, "the job to end")
    return status(module)


def ends_well(module) -> None:
    """Check that nothing remains of the job and the next detection works."""
    import slicer

    assert not module.widget.logic.busy
    assert not module.widget.logic.cancelling
    assert module.ui.detectButton.text == "Detect anomalies"
    assert not module.ui.progressBar.isVisibleTo(module.panel)
    if module.ui.inputSelector.currentNode() is None:
        with_scan(module)
    assert module.ui.detectButton.isEnabled(), module.ui.detectButton.toolTip
    assert detected(module) is not None, status(module)
    slicer.mrmlScene.Clear(False)
    wait_until(lambda: not work_folders(), 60, "the work folders to go")


class TestCancel:
    def test_a_second_click_at_once_is_a_cancel(self, opened, scene):
        with_scan(opened)
        before = scene.GetNumberOfNodes()
        opened.ui.detectButton.click()
        assert opened.ui.detectButton.text == "Cancel"
        assert opened.ui.statusLabel.text.startswith(SENDING)
        opened.ui.detectButton.click()
        assert ended(opened) == "Cancelled. The scene is as it was."
        assert scene.GetNumberOfNodes() == before
        assert not work_folders()
        ends_well(opened)

    @pytest.mark.parametrize("stage", [READING, EMBEDDING, FINDING, WRITING])
    def test_it_leaves_the_scene_as_it_was_at_every_stage_of_the_worker(self, stage, opened, scene):
        with_scan(opened)
        before = scene.GetNumberOfNodes()
        at(opened, stage, opened.ui.detectButton.click)
        assert detected(opened) is None
        assert status(opened) == "Cancelled. The scene is as it was."
        assert scene.GetNumberOfNodes() == before
        assert not work_folders()
        ends_well(opened)

    @pytest.mark.parametrize(("stage", "steps"), [(SENDING, "writeNpy"), (LOADING, "copyArray")])
    def test_it_leaves_the_scene_as_it_was_while_voxels_are_copied(
        self, stage, steps, opened, scene, monkeypatch
    ):
        from SpatialARAnomalyLib.slicerapp.tasks import Detection

        closed = []

        def without_end(source, target):
            try:
                while True:
                    yield
            finally:
                closed.append(True)

        with_scan(opened)
        before = scene.GetNumberOfNodes()
        with monkeypatch.context() as patch:
            patch.setattr(Detection, steps, without_end)
            opened.ui.detectButton.click()
            wait_until(lambda: status(opened).startswith(stage), 60, stage)
            run_events(0.05)
            assert opened.widget.logic.busy
            opened.ui.detectButton.click()
            assert not opened.widget.logic.busy
        assert closed
        assert status(opened) == "Cancelled. The scene is as it was."
        assert scene.GetNumberOfNodes() == before
        assert not work_folders()
        ends_well(opened)

    def test_a_result_that_comes_after_it_is_not_taken(self, opened, scene, tmp_path):
        from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

        logic, real = opened.widget.logic, opened.widget.logic.worker
        logic.worker = WorkerProcess(command=fake_command("result after the cancel", tmp_path))
        with_scan(opened)
        before = scene.GetNumberOfNodes()
        at(opened, EMBEDDING, opened.ui.detectButton.click)
        assert detected(opened) is None
        assert status(opened) == "Cancelled. The scene is as it was."
        assert scene.GetNumberOfNodes() == before
        logic.worker.stop()
        logic.worker = real
        ends_well(opened)

    def test_the_button_waits_until_the_worker_has_stopped(self, opened, tmp_path):
        from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

        logic, real = opened.widget.logic, opened.widget.logic.worker
        logic.worker = WorkerProcess(
            command=fake_command("ignores cancel", tmp_path), cancelGraceS=0.3
        )
        with_scan(opened)
        opened.ui.detectButton.click()
        wait_until(lambda: not status(opened).startswith(SENDING), 60, "the worker")
        opened.ui.detectButton.click()
        assert status(opened) == "Cancelling…"
        assert not opened.ui.detectButton.isEnabled()
        assert "current batch" in opened.ui.detectButton.toolTip
        assert ended(opened) == "Cancelled. The scene is as it was."
        assert not logic.worker.running
        logic.worker = real
        ends_well(opened)


def delete(scene, scan):
    scene.RemoveNode(scan)


def change_voxels(scene, scan):
    import slicer

    slicer.util.arrayFromVolume(scan)[0] += 1
    slicer.util.arrayFromVolumeModified(scan)


def move(scene, scan):
    scan.SetOrigin(1.0, 2.0, 3.0)


def close(scene, scan):
    scene.Clear(False)


@pytest.mark.parametrize("stage", ["at once", EMBEDDING, LOADING])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (delete, "was deleted during the detection"),
        (change_voxels, "was changed during the detection"),
        (move, "was changed during the detection"),
        (close, "scene was closed"),
    ],
    ids=["deleted", "other voxels", "moved", "scene closed"],
)
def test_there_is_no_result_for_a_scan_that_is_not_there_any_more(
    change, says, stage, opened, scene
):
    scan = with_scan(opened)
    classes = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLTableNode")
    if stage == "at once":
        opened.ui.detectButton.click()
        change(scene, scan)
    else:
        at(opened, stage, lambda: change(scene, scan))
        opened.ui.detectButton.click()
    assert says in ended(opened)
    run_events()
    left = sum(scene.GetNumberOfNodesByClass(one) for one in classes)
    assert left == scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") <= 1
    ends_well(opened)


def test_the_earlier_result_may_go_meanwhile(opened, scene):
    with_scan(opened)
    first = detected(opened)
    at(opened, EMBEDDING, lambda: scene.RemoveNode(first.volume))
    second = detected(opened)
    assert second is not None, status(opened)
    assert opened.ui.resultSelector.currentNode().GetID() == second.id
    assert len(work_folders()) == 1
    ends_well(opened)


def test_a_model_that_goes_before_it_is_loaded_is_told(opened, scene, models_folder):
    with_scan(opened)
    before = scene.GetNumberOfNodes()
    shutil.move(models_folder / "quick.safetensors", models_folder.parent / "away")
    assert detected(opened) is None
    assert "model" in status(opened)
    assert scene.GetNumberOfNodes() == before
    shutil.move(models_folder.parent / "away", models_folder / "quick.safetensors")
    ends_well(opened)


def test_a_model_that_goes_after_it_was_loaded_changes_nothing(opened, models_folder):
    with_scan(opened)
    at(opened, EMBEDDING, (models_folder / "quick.safetensors").unlink)
    assert detected(opened) is not None, status(opened)


def test_a_result_arrives_also_while_the_user_is_elsewhere(opened):
    import slicer
    from SpatialARAnomalyLib.slicerapp.scene.Result import Result

    with_scan(opened)
    opened.ui.detectButton.click()
    opened.exit()
    assert "finding" in ended(opened)
    (result,) = Result.all()
    opened.enter()
    assert opened.ui.resultSelector.currentNode().GetID() == result.id
    shown = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    assert shown.GetForegroundVolumeID() == result.id
    ends_well(opened)


def test_the_user_may_go_and_come_back_meanwhile(opened):
    with_scan(opened)
    at(opened, EMBEDDING, lambda: (opened.exit(), opened.enter()))
    assert detected(opened) is not None, status(opened)
    ends_well(opened)


def test_the_scene_may_be_closed_while_the_user_is_elsewhere(opened, scene):
    with_scan(opened)
    at(opened, EMBEDDING, lambda: (opened.exit(), scene.Clear(False)))
    opened.ui.detectButton.click()
    assert "scene was closed" in ended(opened)
    opened.enter()
    ends_well(opened)


def test_a_killed_worker_is_told_and_replaced(opened, warm_worker, scene):
    with_scan(opened)
    before, killed = scene.GetNumberOfNodes(), []

    def kill():
        killed.append(warm_worker.pid)
        os.kill(warm_worker.pid, signal.SIGKILL)

    at(opened, EMBEDDING, kill)
    assert detected(opened) is None
    assert "worker process crashed" in status(opened)
    assert scene.GetNumberOfNodes() == before
    assert not work_folders()
    ends_well(opened)
    assert warm_worker.pid not in [None, *killed]


class TestDisk:
    def test_a_full_disk_is_told_with_its_reason(self, opened, scene, monkeypatch):
        from SpatialARAnomalyLib.slicerapp.tasks import Detection

        real = Detection.writeNpy

        def full(array, path):
            yield next(real(array, path))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        with_scan(opened)
        before = scene.GetNumberOfNodes()
        with monkeypatch.context() as patch:
            patch.setattr(Detection, "writeNpy", full)
            assert detected(opened) is None
        assert "No space left on device" in status(opened)
        assert "temporary folder" in status(opened)
        assert scene.GetNumberOfNodes() == before
        assert not work_folders()
        ends_well(opened)

    def test_no_folder_to_work_in_is_told_with_its_reason(self, opened, scene, monkeypatch):
        from SpatialARAnomalyLib.slicerapp.worker import ArrayTransfer

        def refuse(**_):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        with_scan(opened)
        with monkeypatch.context() as patch:
            patch.setattr(ArrayTransfer, "tempfile", types.SimpleNamespace(mkdtemp=refuse))
            assert detected(opened) is None
        assert "Read-only file system" in status(opened)
        ends_well(opened)

    def test_folders_live_as_long_as_their_results(self, opened, scene):
        with_scan(opened)
        first, second = detected(opened), detected(opened)
        assert first is not None
        assert second is not None
        assert len(work_folders()) == 2
        assert not [path for folder in work_folders() for path in folder.rglob("voxels.npy")]
        scene.RemoveNode(first.volume)
        assert len(work_folders()) == 1
        scene.Clear(False)
        assert not work_folders()
        ends_well(opened)


def without_nll(event):
    Path(event["files"]["nll"]).unlink()
    return event


def nll_of_other_shape(event):
    np.save(event["files"]["nll"], np.zeros((2, 3, 4), np.float32))
    return event


def nll_that_is_none(event):
    Path(event["files"]["nll"]).write_bytes(b"\x93NUMPY no array")
    return event


def without_labels(event):
    Path(event["files"]["labels"]).unlink()
    return event


@pytest.mark.parametrize(
    "change",
    [
        without_nll,
        nll_of_other_shape,
        nll_that_is_none,
        without_labels,
        lambda event: event | {"files": None},
        lambda event: event | {"calibration": {}},
        lambda event: event | {"findings": [{"rank": 1}]},
        lambda event: event | {"labels_start_kji": "here"},
    ],
    ids=["no NLL", "other shape", "no array", "no labels", "files", "calibration", "rows", "start"],
)
def test_a_result_that_is_none_is_told_and_leaves_the_scene_as_it_was(
    change, opened, scene, warm_worker, monkeypatch
):
    submit = warm_worker.submit

    def changing(job, *, onEnd, **more):
        return submit(job, onEnd=lambda event: onEnd(change(event)), **more)

    with_scan(opened)
    before = scene.GetNumberOfNodes()
    with monkeypatch.context() as patch:
        patch.setattr(warm_worker, "submit", changing)
        assert detected(opened) is None
    assert status(opened).startswith("⚠")
    assert scene.GetNumberOfNodes() == before
    assert not work_folders()
    ends_well(opened)


def test_a_scan_without_a_place_is_refused(opened, scene):
    scan = with_scan(opened)
    scan.SetOrigin(float("nan"), 0.0, 0.0)
    before = scene.GetNumberOfNodes()
    opened.ui.detectButton.click()
    assert not opened.widget.logic.busy
    assert "is not finite" in status(opened)
    assert "is not finite" in opened.ui.detectButton.toolTip
    assert scene.GetNumberOfNodes() == before
    scan.SetOrigin(0.0, 0.0, 0.0)
    opened.enter()
    ends_well(opened)


def test_a_logic_that_is_done_with_says_nothing_more(app, scene, warm_worker, models_folder):
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.slicerapp.Logic import Logic
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import DetectionSettings, Outcome

    settings = DetectionSettings(
        model=models_folder / "quick.safetensors",
        falsePositiveRate=0.001,
        leastVolumeMl=0.5,
        device=Device.CPU,
        allowMismatch=False,
    )
    scan, _ = add_head()
    outcomes, texts = [], []
    logic = Logic(warm_worker)
    logic.onProgress = lambda progress: texts.append(progress.text)
    logic.startDetection(scan, settings, outcomes.append)
    wait_until(lambda: texts[-1].startswith(EMBEDDING), 60, EMBEDDING)
    logic.cleanup()
    wait_until(lambda: not logic.busy and not warm_worker.busy, 60, "the end")
    assert outcomes == [Outcome()]  # as if it were cancelled: a script may wait for it
    assert not work_folders()


@pytest.fixture
def modules():
    """Restore the library's modules after a reload."""
    kept = {
        name: module
        for name, module in sys.modules.items()
        if name.split(".")[0] == "SpatialARAnomalyLib"
    }
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "SpatialARAnomalyLib"]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.fixture
def alone(modules, scene, settings, models_folder):
    """Load and enter the module with its own worker, as in Slicer."""
    import slicer
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.slicerapp import Settings
    from SpatialARAnomalyLib.slicerapp.worker import WorkerProcess as worker_module

    assert worker_module._worker is None
    Settings.setModelsFolder(models_folder)
    Settings.setDevice(Device.CPU)
    module = load_scripted_module(MODULE)
    module.enter()
    yield module
    if slicer.app.moduleManager().isLoaded("SpatialARAnomaly"):
        module.unload()


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_the_worker_ends_with_the_module_also_in_a_job(alone, scene):
    from SpatialARAnomalyLib.slicerapp.worker import WorkerProcess as worker_module

    with_scan(alone)
    before = scene.GetNumberOfNodes()
    alone.ui.detectButton.click()
    wait_until(lambda: status(alone).startswith(EMBEDDING), 120, EMBEDDING)
    pid = alone.widget.logic.worker.pid
    alone.unload()
    assert worker_module._worker is None
    wait_until(lambda: not exists(pid), 20, "the worker to end")
    assert scene.GetNumberOfNodes() == before
    assert not work_folders()


@pytest.mark.slow
def test_the_worker_ends_with_slicer_also_in_a_job(alone, app):
    with_scan(alone)
    alone.ui.detectButton.click()
    wait_until(lambda: status(alone).startswith(EMBEDDING), 120, EMBEDDING)
    pid = alone.widget.logic.worker.pid
    app.aboutToQuit.emit()
    wait_until(lambda: not exists(pid), 20, "the worker to end")
    assert not work_folders()


@pytest.mark.slow
def test_the_module_may_be_reloaded_in_a_job(alone, scene):
    with_scan(alone)
    before = scene.GetNumberOfNodes()
    alone.ui.detectButton.click()
    wait_until(lambda: status(alone).startswith(EMBEDDING), 120, EMBEDDING)
    pid = alone.widget.logic.worker.pid
    alone.reload()
    alone.enter()
    wait_until(lambda: not exists(pid), 20, "the worker to end")
    assert scene.GetNumberOfNodes() == before
    assert not work_folders()
    choose(alone, scene.GetFirstNodeByName("Scan"))
    ends_well(alone)


class TestSampleHeads:
    @pytest.fixture
    def shown(self, monkeypatch):
        """The displayed messages."""
        import slicer

        texts = []
        monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, *_, **__: texts.append(text))
        return texts

    @pytest.mark.parametrize("kind", ["normal", "lesion"])
    def test_a_click_shows_the_workers_head(self, kind, opened, scene, shown):
        import SampleData
        import slicer
        from SpatialARAnomalyLib.slicerapp.tasks.SampleHeads import sampleNames

        (node,) = SampleData.click_sample(sampleNames()[kind])
        head = unseen_head(1) if kind == "normal" else head_with_lesion(1)[0]
        assert np.array_equal(slicer.util.arrayFromVolume(node), head.voxels)
        placed = slicer.util.arrayFromVTKMatrix(_ras_from_voxel(node))
        assert placed == pytest.approx(head.ras_from_voxel)
        for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            assert view.GetBackgroundVolumeID() == node.GetID()
        assert not shown
        assert not work_folders()

    @pytest.mark.parametrize("how", ["fails", "is cancelled", "has no folder"])
    def test_one_that_does_not_come_shows_a_message(
        self, how, opened, scene, shown, monkeypatch, tmp_path
    ):
        import qt
        import SampleData
        from SpatialARAnomalyLib.slicerapp.tasks.SampleHeads import NORMAL, sampleNames
        from SpatialARAnomalyLib.slicerapp.worker import ArrayTransfer
        from SpatialARAnomalyLib.slicerapp.worker import WorkerProcess as worker_module
        from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

        behavior = "killed" if how == "fails" else "hangs in the job"
        worker = WorkerProcess(command=fake_command(behavior, tmp_path))
        monkeypatch.setattr(worker_module, "_worker", worker)
        if how == "is cancelled":
            qt.QTimer.singleShot(0, worker.stop)
        if how == "has no folder":

            def refuse(**_):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))

            monkeypatch.setattr(ArrayTransfer, "tempfile", types.SimpleNamespace(mkdtemp=refuse))
        before = scene.GetNumberOfNodes()
        assert SampleData.click_sample(sampleNames()[NORMAL]) == [None]
        says = {
            "fails": "crashed",
            "is cancelled": "cancelled",
            "has no folder": "Read-only file system",
        }
        assert len(shown) == 1
        assert says[how] in shown[0]
        assert scene.GetNumberOfNodes() == before
        worker.stop()
        assert not work_folders()


def _ras_from_voxel(node):
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return matrix


class TestDemonstrationModel:
    def make(self, module) -> None:
        module.widget.panel.detect.demonstrationAction.trigger()

    @pytest.mark.parametrize("stage", ["Making normal heads", EMBEDDING])
    def test_a_cancel_leaves_no_model(self, stage, opened, models_folder):
        at(opened, stage, opened.ui.detectButton.click)
        self.make(opened)
        assert opened.ui.detectButton.text == "Cancel"
        assert ended(opened) == "Cancelled. No model was made."
        assert [path.name for path in models_folder.iterdir()] == ["quick.safetensors"]
        ends_well(opened)

    def test_a_cancel_beside_a_broken_model_makes_it_no_better(self, opened, models_folder):
        broken = models_folder / "demonstration-head.safetensors"
        broken.write_bytes((models_folder / "quick.safetensors").read_bytes()[:-1])
        opened.enter()
        self.make(opened)
        opened.ui.detectButton.click()
        assert ended(opened) == "Cancelled. No model was made."
        ends_well(opened)

    def test_a_model_that_is_made_is_chosen(
        self, opened, models_folder, warm_worker, monkeypatch, site
    ):
        import qt

        asked = []

        def making(job, *, spec, output, onEvent, onEnd):
            def make():
                onEvent({"event": "stage", "name": "fit", "index": 4, "of": 5})
                assert status(opened) == "Training the model"
                shutil.copy(site.model, output)
                onEnd({"event": "result", "model": str(output), "name": "any"})

            asked.append((job, spec))
            qt.QTimer.singleShot(0, make)
            return 1

        shutil.move(models_folder / "quick.safetensors", models_folder / "zzz.safetensors")
        opened.enter()
        monkeypatch.setattr(warm_worker, "submit", making)
        self.make(opened)
        assert "demonstration model is ready" in ended(opened)
        assert asked == [("demonstration_model", {"device": "cpu"})]
        assert opened.widget.panel.detect.chosenModel().path.stem == "demonstration-head"
        self.make(opened)
        assert status(opened) == "The demonstration model already exists."


def test_no_turn_of_the_event_loop_copies_much(opened, scene, warm_worker, monkeypatch, tmp_path):
    """64 MB are sent and 128 MB loaded, a few pieces in each turn."""
    import qt
    from SpatialARAnomalyLib.slicerapp.worker import ArrayTransfer

    with_scan(opened)
    calibration = detected(opened).calibration.to_dict()
    voxels = np.zeros((128, 512, 512), np.int16)
    nll = np.lib.format.open_memmap(
        tmp_path / "nll.npy", mode="w+", dtype=np.float32, shape=voxels.shape
    )
    now, moved, turns, sent = [0.0], [0], [], []
    work, pieces = ArrayTransfer.Transfer._work, ArrayTransfer._pieces

    def look():
        now[0] += ArrayTransfer.STEP_S / 4
        return now[0]

    def counted(array):
        for piece in pieces(array):
            moved[0] += array[piece].nbytes
            yield piece

    def turn(transfer):
        moved[0] = 0
        work(transfer)
        turns.append(moved[0])

    def answering(job, *, inputs, onEnd, **_):
        sent.append(np.load(inputs["voxels"], mmap_mode="r").shape)
        event = {
            "event": "result",
            "files": {"nll": str(tmp_path / "nll.npy"), "labels": None},
            "labels_start_kji": None,
            "findings": [],
            "calibration": calibration,
            "case_score": 1.0,
            "case_p_value": None,
            "cautions": [],
            "model": {"name": "any"},
            "false_positive_rate": 0.001,
        }
        qt.QTimer.singleShot(0, lambda: onEnd(event))
        return 1

    monkeypatch.setattr(ArrayTransfer, "time", types.SimpleNamespace(perf_counter=look))
    monkeypatch.setattr(ArrayTransfer, "_pieces", counted)
    monkeypatch.setattr(ArrayTransfer.Transfer, "_work", turn)
    monkeypatch.setattr(warm_worker, "submit", answering)
    choose(opened, add_volume(voxels, np.eye(4), "Large"))
    assert detected(opened) is not None, status(opened)
    assert sent == [voxels.shape]
    assert sum(turns) == voxels.nbytes + nll.nbytes
    assert max(turns) <= 4 * ArrayTransfer.PIECE_BYTES
