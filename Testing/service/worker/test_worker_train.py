"""Training in the worker: paused, cancelled or killed, it resumes to the same model.

The workers are forked from one warm process.
"""

import json
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from service.forked_workers import Nursery
from service.small_site import SHAPE_KJI, SPACING_MM, tree
from service.worker_process import LAST
from SpatialARAnomalyLib.engine.errors import Cancelled, OutputError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.training.folder import (
    TrainingFolder,
    discard,
    list_unfinished,
)
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.training.train import train

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends POSIX signals"),
    pytest.mark.slow,
]

VOLUMES, EPOCHS, KILLS = 12, 60, 20
SPEC = {
    "name": "heads", "size_px": 64, "hidden_channels": 16, "epochs": EPOCHS, "batch_size": 16,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nursery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIAL_AR_ANOMALY_HOME", str(folder / "settings"))
        one = Nursery(folder / "desk")
    yield one
    one.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Half of the scans in files, half as arrays of the scene."""
    folder = tmp_path_factory.mktemp("heads")
    normals = []
    for number in range(VOLUMES):
        head = normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
        if number % 2:
            np.save(folder / f"{number}.npy", head.voxels)
            normals.append({
                "voxels": str(folder / f"{number}.npy"),
                "affine": head.ras_from_voxel.tolist(),
                "name": f"node {number}",
            })  # fmt: skip
        else:
            write_nifti(folder / f"{number}.nii.gz", head)
            normals.append({"path": str(folder / f"{number}.nii.gz")})
    return {"normals": normals}


@pytest.fixture(scope="module")
def uninterrupted(nursery, inputs, tmp_path_factory):
    model = tmp_path_factory.mktemp("uninterrupted") / "model.safetensors"
    worker = nursery.worker()
    result = worker.result("train", inputs, SPEC, model)
    worker.close()
    assert (result["name"], result["model"]) == ("heads", str(model))
    return model, result


@pytest.fixture
def worker(nursery):
    """A worker; what it leaves in its log must be nothing."""
    one = nursery.worker()
    yield one
    one.close()
    assert one.log == ""


def is_epoch(number):
    return lambda event: event.get("epoch") == number


def cancelled_after(worker, inputs, model, epoch, spec=SPEC):
    """A training that was cancelled after so many epochs."""
    worker.hold_at(f"epoch {epoch}")
    job = worker.submit("train", inputs, spec, model)
    worker.until(is_epoch(epoch))
    worker.say({"cancel": job})
    assert worker.until(lambda event: event["event"] in LAST)[-1]["event"] == "cancelled"
    worker.hold_at("")


def in_scene(inputs, folder):
    """The same scans, with all arrays in a folder that the panel will remove."""
    folder.mkdir()
    normals = []
    for source in inputs["normals"]:
        if "voxels" in source:
            copied = shutil.copy(source["voxels"], folder)
            source = source | {"voxels": str(copied)}
        normals.append(source)
    return {"normals": normals}


def test_stages_epochs_and_the_result_are_told(worker, inputs, uninterrupted, tmp_path):
    model = tmp_path / "für die Neuro" / "model.safetensors"
    events = worker.events_of(worker.submit("train", inputs, SPEC, model))
    stages = [event["name"] for event in events if event["event"] == "stage"]
    assert stages == ["read", "embed", "fit", "calibrate"]
    curve = [
        {key: event[key] for key in ("epoch", "train_mse", "held_out_nll")}
        for event in events
        if event["event"] == "epoch"
    ]
    result = events[-1]
    assert result["curve"] == curve == uninterrupted[1]["curve"]
    assert [one["epoch"] for one in curve] == [*range(1, EPOCHS + 1)]
    best = min(one["held_out_nll"] for one in curve)
    assert curve[result["best_epoch"] - 1]["held_out_nll"] == result["held_out_nll"] == best
    assert (result["training_volumes"], result["held_out_volumes"]) == (10, 2)
    assert model.read_bytes() == uninterrupted[0].read_bytes()
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]


def test_what_a_survey_finds_is_trained_on(worker, inputs, tmp_path):
    (tmp_path / "scans").mkdir()
    for source in inputs["normals"][:6:2]:
        shutil.copy(source["path"], tmp_path / "scans")
    (tmp_path / "scans" / "bad.nii.gz").write_text("not a scan")
    volumes = inputs["normals"][1:4:2]
    asked = {"folders": [str(tmp_path / "scans")], "files": [], "volumes": volumes}
    spec = {key: SPEC[key] for key in ("size_px", "batch_size", "device")} | {"epochs": 2}
    found = worker.result("survey", asked, spec)
    left_out = {row["name"]: row["code"] for row in found["rows"] if row["status"] != "used"}
    assert left_out == {"bad.nii.gz": "unreadable"}
    assert found["estimate"]["fit_s"] > 0
    normals = [row["source"] for row in found["rows"] if row["status"] == "used"]
    spec |= {"name": "surveyed", "modality": found["modality"], "hidden_channels": 16}
    result = worker.result("train", {"normals": normals}, spec, tmp_path / "model")
    assert result["training_volumes"] + result["held_out_volumes"] == 5
    assert result["fov_mm"] == found["fov_mm"]


@pytest.mark.parametrize("stage", ["embed", "fit"])
def test_a_pause_changes_nothing_of_the_model(worker, inputs, uninterrupted, tmp_path, stage):
    worker.hold_at(stage)
    job = worker.submit("train", inputs, SPEC, tmp_path / "model")
    worker.until(lambda event: event.get("name") == stage)
    worker.say({"pause": job})
    worker.until(lambda event: event["event"] == "paused")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    time.sleep(0.2)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    (left,) = list_unfinished(tmp_path)
    assert left.running
    worker.say({"continue": job})
    events = worker.events_of(job)
    assert events[0]["event"] == "continued"
    assert events[-1]["event"] == "result"
    assert (tmp_path / "model.safetensors").read_bytes() == uninterrupted[0].read_bytes()


def test_a_cancelled_training_is_kept_with_its_best_epoch(worker, inputs, uninterrupted, tmp_path):
    """Resumed after the panel removed its files, and the models folder was moved."""
    scene = in_scene(inputs, tmp_path / "scene")
    cancelled_after(worker, scene, tmp_path / "models" / "model", 5)
    shutil.rmtree(tmp_path / "scene")
    (tmp_path / "models").rename(tmp_path / "moved")
    (left,) = list_unfinished(tmp_path / "moved")
    assert (left.name, left.epochs) == ("heads", EPOCHS)
    # Tokens, and their means by slice.
    assert len(list((left.folder / "features").glob("*.npy"))) == 2 * VOLUMES
    assert left.epochs_done >= 5
    assert [vars(one) for one in left.curve] == uninterrupted[1]["curve"][: left.epochs_done]
    assert (left.running, left.finished) == (False, False)
    assert time.time() - 60 < left.touched <= time.time() + 1
    with safe_open(left.folder / "checkpoint.safetensors", framework="np") as file:
        about = json.loads(file.metadata()["fit"])
        assert {name.split(".")[0] for name in file.keys()} == {"best", "last", "adamw"}  # noqa: SIM118
    figures = [one.held_out_nll for one in left.curve]
    assert figures[about["best_epoch"] - 1] == min(figures)

    job = worker.submit("train", {"normals": left.sources}, left.spec.to_dict(), left.model)
    events = worker.events_of(job)
    told = [event["epoch"] for event in events if event["event"] == "epoch"]
    assert told == [*range(1, EPOCHS + 1)]  # so that the plot is whole
    assert left.model.read_bytes() == uninterrupted[0].read_bytes()
    assert list_unfinished(left.model.parent) == []


def test_a_training_sent_again_takes_no_more_room_and_resumes(worker, inputs, tmp_path):
    cancelled_after(worker, in_scene(inputs, tmp_path / "scene"), tmp_path / "model", 3)
    arrays = sorted((tmp_path / "model.training" / "scans").iterdir())
    cancelled_after(worker, in_scene(inputs, tmp_path / "again"), tmp_path / "model", 4)
    assert sorted((tmp_path / "model.training" / "scans").iterdir()) == arrays
    assert len(arrays) == VOLUMES // 2


def test_another_training_of_that_name_leaves_the_first_as_it_was(worker, inputs, tmp_path):
    cancelled_after(worker, inputs, tmp_path / "model", 2)
    before = tree(tmp_path)
    head = normal_head(50, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    np.save(tmp_path / "other.npy", head.voxels)
    other = inputs["normals"][0], {
        "voxels": str(tmp_path / "other.npy"), "affine": head.ras_from_voxel.tolist(),
    }  # fmt: skip
    failed = worker.failure("train", {"normals": other}, SPEC, tmp_path / "model")
    assert failed["code"] == "checkpoint-other"
    (tmp_path / "other.npy").unlink()
    assert tree(tmp_path) == before


def test_a_discarded_training_is_gone_and_nothing_else(worker, nursery, inputs, tmp_path):
    cancelled_after(worker, inputs, tmp_path / "model", 1)
    (left,) = list_unfinished(tmp_path)
    worker.hold_at("fit")
    job = worker.submit("train", inputs, SPEC, tmp_path / "model")
    worker.until(lambda event: event.get("name") == "fit")
    (running,) = list_unfinished(tmp_path)
    assert running.running
    other = nursery.worker()
    failed = other.failure("training_discard", {"folder": str(left.folder)})
    assert failed["code"] == "training-running"
    worker.say({"cancel": job})
    assert worker.until(lambda event: event["event"] in LAST)[-1]["event"] == "cancelled"
    (left.folder / "mine.txt").write_text("years of work")
    assert other.result("training_discard", {"folder": str(left.folder)})
    other.close()
    files = {name for name, content in tree(left.folder).items() if content is not None}
    assert files - {"lock", "training.json"} == {"mine.txt"}
    (left.folder / "mine.txt").unlink()
    discard(left.folder)
    assert list(tmp_path.iterdir()) == []


def test_only_trainings_are_discarded(worker, tmp_path):
    (tmp_path / "brain.training").mkdir()
    (tmp_path / "brain.training" / "checkpoint.safetensors").write_text("years of work")
    for folder in (*(str(tmp_path / name) for name in ("brain.training", "brain")), "/", "", "x"):
        failed = worker.failure("training_discard", {"folder": folder})
        assert failed["code"] == "output-not-a-training"
    assert list(tree(tmp_path)) == ["brain.training", "brain.training/checkpoint.safetensors"]
    assert list_unfinished(tmp_path) == []
    assert list_unfinished(tmp_path / "nowhere") == []


def test_a_training_of_nothing_leaves_nothing(worker, inputs, tmp_path):
    gone = {"voxels": str(tmp_path / "gone.npy"), "affine": np.eye(4).tolist(), "name": "gone"}
    normals = [inputs["normals"][0], gone]
    failed = worker.failure("train", {"normals": normals}, SPEC, tmp_path / "new" / "model")
    assert failed["code"] == "array-unreadable"
    assert failed["text"].startswith("gone: ")
    for normals, spec in (([], SPEC), (inputs["normals"], SPEC | {"epochs": 0})):
        worker.failure("train", {"normals": normals}, spec, tmp_path / "new" / "model")
    assert list(tmp_path.iterdir()) == []


def test_no_name_and_no_place_of_a_scan_leaves_the_folder(worker, inputs, tmp_path):
    patient = tmp_path / "Müller, Anna"
    scene = in_scene(inputs, patient)
    for source in scene["normals"][1::2]:
        source["name"] = "T1 of Anna"
    cancelled_after(worker, scene, tmp_path / "models" / "model", 1)
    kept = (tmp_path / "models" / "model.training" / "request.json").read_text(encoding="utf-8")
    assert "T1 of Anna" in kept
    worker.result("train", scene, SPEC, tmp_path / "models" / "model")
    left = b"".join(content for content in tree(tmp_path / "models").values() if content)
    said = b"".join(worker.lines).replace(str(tmp_path / "models").encode(), b"") + left
    assert b"Anna" not in said
    assert str(tmp_path).encode() not in said


def test_a_training_of_the_command_line_is_listed_and_resumed(worker, inputs, tmp_path):
    class CancelAtOnce(SilentReporter):
        done = False

        def epoch(self, figures):
            self.done = True

        def check_cancelled(self):
            if self.done:
                raise Cancelled

    files = [source["path"] for source in inputs["normals"][::2]]
    spec = TrainSpec.from_dict(SPEC | {"name": None})
    with pytest.raises(Cancelled):
        train([*map(Path, files)], tmp_path / "brain", spec, CancelAtOnce())
    (left,) = list_unfinished(tmp_path)
    assert (left.name, left.epochs_done) == ("brain", 1)
    assert [source["path"] for source in left.sources] == files
    result = worker.result("train", {"normals": left.sources}, left.spec.to_dict(), left.model)
    assert result["name"] == "brain"


def test_what_cannot_be_resumed_is_listed_to_be_discarded(inputs, tmp_path):
    for name, request in (("damaged", "{"), ("newer", '{"spec": {"depth": 3}, "sources": []}')):
        with TrainingFolder(tmp_path / name).hold():
            (tmp_path / f"{name}.training" / "checkpoint.safetensors").write_text("torn")
            (tmp_path / f"{name}.training" / "request.json").write_text(request)
    deep = (100_000).to_bytes(8, "little") + b"[" * 100_000
    (tmp_path / "newer.training" / "checkpoint.safetensors").write_bytes(deep)
    (tmp_path / "done.safetensors").touch()
    with TrainingFolder(tmp_path / "done").hold():
        (tmp_path / "done.training" / "checkpoint.safetensors").write_text("torn")
        content = {"spec": SPEC, "sources": inputs["normals"]}
        (tmp_path / "done.training" / "request.json").write_text(json.dumps(content))
    found = {one.folder.name: one for one in list_unfinished(tmp_path)}
    assert sorted(found) == ["damaged.training", "done.training", "newer.training"]
    assert {one.spec for one in found.values()} == {None}
    assert {one.epochs_done for one in found.values()} == {0}
    assert [name for name, one in found.items() if one.finished] == ["done.training"]
    for one in found.values():
        discard(one.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["done.safetensors"]


def test_whether_a_training_runs_can_be_asked_without_harm(tmp_path):
    folder = TrainingFolder(tmp_path / "model")
    assert not folder.is_held
    with folder.hold():
        assert folder.is_held
        with pytest.raises(OutputError, match="is running"), folder.hold():
            pass
    assert not folder.is_held


def test_an_array_is_copied_where_it_cannot_be_linked(inputs, tmp_path, monkeypatch):
    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    voxels = inputs["normals"][1]["voxels"]
    folder = TrainingFolder(tmp_path / "model")
    with folder.hold():
        links = Path(voxels).stat().st_nlink
        linked = folder.keep_array(Path(voxels), lambda: None)
        assert linked.stat().st_nlink == links + 1
        linked.unlink()
        monkeypatch.setattr(os, "link", refused)

        def cancel() -> None:
            if list(folder.scans.iterdir()):
                raise Cancelled

        with pytest.raises(Cancelled):
            folder.keep_array(Path(voxels), cancel)
        assert list(folder.scans.iterdir()) == []
        copied = folder.keep_array(Path(voxels), lambda: None)
        assert (copied, copied.stat().st_nlink) == (linked, 1)
        assert copied.read_bytes() == Path(voxels).read_bytes()
        assert folder.keep_array(copied, lambda: None) == copied
    assert list(tmp_path.iterdir()) == []


def moments(seed: int):
    """When to kill: at a file operation on tokens or checkpoint, or some work into the stage."""
    random = np.random.RandomState(seed)
    for life in range(KILLS):
        stage, part = (("embed", "features"), ("fit", "checkpoint"))[life >= KILLS // 2]
        if life % 2:
            most = 5 if stage == "embed" else 9
            yield {"KILL_AT": f"{part} {random.randint(1, most)}"}
        else:
            most = 0.015 if stage == "embed" else 0.05
            yield {"KILL_AFTER": f"{stage} {random.uniform(1e-4, most)}"}


def check_whole(folder) -> int:
    """Nothing under a final name is torn; how many epochs the checkpoint holds."""
    for file in (folder / "features").glob("*.npy"):
        assert np.isfinite(np.load(file)).all()
    checkpoint = folder / "checkpoint.safetensors"
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            assert np.isfinite(file.get_tensor(name)).all()
        return len(json.loads(file.metadata()["fit"])["curve"])


def test_twenty_kills_change_nothing(nursery, inputs, uninterrupted, tmp_path):
    model, log = tmp_path / "models" / "model.safetensors", tmp_path / "embeddings"
    stages, tokens, epochs = Counter(), {}, 0
    spec = SPEC
    for moment in moments(seed=4):
        worker = nursery.worker(EMBED_LOG=str(log), **moment)
        worker.submit("train", inputs, spec, model)
        heard = worker.until(lambda event: False)
        worker.close()
        assert not [event for event in heard if event["event"] in LAST], heard[-1]
        # The first file is touched before the first stage is told.
        begun = [event["name"] for event in heard if event["event"] == "stage"]
        stages[(begun or ["start"])[-1]] += 1

        folder = tmp_path / "models" / "model.training"
        now = {
            file.name: (file.stat().st_ino, file.stat().st_mtime_ns)
            for file in (folder / "features").glob("*.npy")
        }
        assert tokens.items() <= now.items(), "tokens were written again"
        tokens = now
        done = check_whole(folder)
        assert done >= epochs
        epochs = done
        (left,) = list_unfinished(model.parent)
        assert left.epochs_done == epochs
        assert (left.running, left.finished, left.epochs) == (False, False, EPOCHS)
        # From now on as after a restart of Slicer: by what the folder itself says.
        inputs, spec, model = {"normals": left.sources}, left.spec.to_dict(), left.model
    assert stages["embed"] >= 5, stages
    assert stages["fit"] >= 10, stages
    assert 0 < epochs < EPOCHS

    worker = nursery.worker(EMBED_LOG=str(log))
    last = worker.events_of(worker.submit("train", inputs, spec, model))
    worker.close()
    assert last[-1]["event"] == "result", last[-1]
    assert [event["epoch"] for event in last if event["event"] == "epoch"] == [
        *range(1, EPOCHS + 1)
    ]
    assert model.read_bytes() == uninterrupted[0].read_bytes()
    assert last[-1]["curve"] == uninterrupted[1]["curve"]
    assert [path.name for path in model.parent.iterdir()] == ["model.safetensors"]
    # A volume whose tokens were stored is never embedded again.
    finished = set()
    for line in log.read_text().splitlines():
        what, key = line.split()
        assert what == "done" or key not in finished
        if what == "done":
            finished.add(key)
    assert len(finished) <= 2 * VOLUMES
