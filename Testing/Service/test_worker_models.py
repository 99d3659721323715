"""The worker's jobs of the model library, in one real worker process."""

import os

import pytest
from Service.model_folders import add_model
from Service.small_site import tree
from Service.worker_process import WorkerProcess
from SpatialARAnomalyLib.engine.model_store import read_card


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with WorkerProcess(tmp_path_factory.mktemp("desk")) as process:
        yield process


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "Modèles"
    add_model(folder, "Größe 脳")
    return folder


def test_a_model_goes_through_all_jobs(worker, models, tmp_path):
    model, there = models / "Größe 脳", tmp_path / "там"
    file = worker.result("model_export", {"model": str(model)}, output=tmp_path / "x")["file"]
    assert file == str(tmp_path / "x.spatialar")
    again = worker.failure("model_export", {"model": str(model)}, output=tmp_path / "x")
    assert again["code"] == "output-exists"
    worker.result("model_export", {"model": str(model)}, {"overwrite": True}, tmp_path / "x")
    found = worker.result("model_import", {"file": file}, output=there)
    assert (found["arrival"], found["name"]) == ("added", "Größe 脳")
    assert tree(there / "Größe 脳") == tree(model)
    assert worker.result("model_import", {"file": file}, output=there)["arrival"] == "present"
    renamed = worker.result("model_rename", {"model": found["model"]}, {"name": "脳"})
    assert read_card(there / "脳").name == renamed["name"] == "脳"
    verified = worker.result("model_verify", {"model": renamed["model"]})
    assert verified["weights_sha256"] == read_card(model).weights_sha256
    worker.result("model_delete", {"model": renamed["model"]})
    assert os.listdir(there) == []


def test_the_folder_moves_in_two_steps(worker, models, tmp_path):
    place, before = tmp_path / "new", tree(models)
    inputs = {"models": str(models)}
    events = worker.events_of(worker.submit("models_move", inputs, {"step": "copy"}, place))
    assert [event["name"] for event in events if event["event"] == "stage"] == ["copy", "verify"]
    assert (events[-1]["models"], events[-1]["models_folder"]) == (1, str(place))
    assert tree(place) == tree(models) == before
    removed = worker.result("models_move", inputs, {"step": "remove"}, place)
    assert (removed["models"], removed["left"]) == (1, [])
    assert not models.exists()


@pytest.mark.parametrize(
    ("job", "inputs", "spec", "code"),
    [
        ("model_verify", {}, {}, "spec-missing-key"),
        ("model_verify", {"model": ""}, {}, "spec-value"),
        ("model_verify", {"model": "/none"}, {}, "model-missing"),
        ("model_delete", {"model": "/none"}, {}, "model-missing"),
        ("model_delete", {"model": "/none", "force": True}, {}, "spec-unknown-key"),
        ("model_rename", {"model": "/none"}, {}, "spec-missing-key"),
        ("model_rename", {"model": "/none"}, {"name": "a/b"}, "model-name"),
        ("model_import", {"file": "/none"}, {}, "model-file-unreadable"),
        ("models_move", {"models": "/none"}, {"step": "jump"}, "spec-value"),
    ],
)
def test_what_cannot_be_done_fails_with_its_reason(worker, tmp_path, job, inputs, spec, code):
    output = None if job in ("model_verify", "model_delete", "model_rename") else tmp_path / "out"
    assert worker.failure(job, inputs, spec, output)["code"] == code
    assert not (tmp_path / "out").exists()


def test_neither_log_nor_events_say_where_models_lie(worker, models):
    (models / "Größe 脳" / "model.safetensors").unlink()
    failed = worker.failure("model_verify", {"model": str(models / "Größe 脳")})
    assert failed["code"] == "model-damaged"
    assert str(models) not in failed["text"] + str(failed["facts"]) + worker.log


def test_no_job_needs_torch(tmp_path, models):
    from Service.worker_process import without

    with WorkerProcess(tmp_path / "desk", without("torch", "transformers")) as bare:
        model = {"model": str(models / "Größe 脳")}
        bare.result("model_verify", model)
        file = bare.result("model_export", model, output=tmp_path / "x")["file"]
        bare.result("model_import", {"file": file}, output=tmp_path / "there")
        bare.result("model_rename", model, {"name": "x"})
        bare.result("models_move", {"models": str(models)}, {"step": "copy"}, tmp_path / "new")
        bare.result("model_delete", {"model": str(models / "x")})
