"""The worker's jobs of the model library, in one real worker process."""

import os

import pytest
from service.model_folders import add_model, change_byte
from service.worker_process import WorkerProcess
from SpatialARAnomalyLib.engine.model.model_file import read_card


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
    model, there = models / "Größe 脳.safetensors", tmp_path / "там"
    file = worker.result("model_export", {"model": str(model)}, output=tmp_path / "x")["file"]
    assert file == str(tmp_path / "x.safetensors")
    again = worker.failure("model_export", {"model": str(model)}, output=tmp_path / "x")
    assert again["code"] == "output-exists"
    worker.result("model_export", {"model": str(model)}, {"overwrite": True}, tmp_path / "x")
    found = worker.result("model_import", {"file": file}, output=there)
    assert (found["arrival"], found["name"]) == ("added", "Größe 脳")
    assert (there / model.name).read_bytes() == model.read_bytes()
    assert worker.result("model_import", {"file": file}, output=there)["arrival"] == "present"
    renamed = worker.result("model_rename", {"model": found["model"]}, {"name": "脳"})
    assert read_card(there / "脳").name == renamed["name"] == "脳"
    card = worker.result("model_card", {"model": renamed["model"]}, output=tmp_path / "card")
    assert [os.path.exists(card[key]) for key in ("file", "picture")] == [True, True]
    verified = worker.result("model_verify", {"model": renamed["model"]})
    assert verified["weights_sha256"] == read_card(model).weights_sha256
    worker.result("model_delete", {"model": renamed["model"]})
    assert os.listdir(there) == []


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
        ("model_import", {"file": "/none"}, {}, "model-missing"),
    ],
)
def test_what_cannot_be_done_fails_with_its_reason(worker, tmp_path, job, inputs, spec, code):
    output = None if job in ("model_verify", "model_delete", "model_rename") else tmp_path / "out"
    assert worker.failure(job, inputs, spec, output)["code"] == code
    assert not (tmp_path / "out").exists()


def test_neither_log_nor_events_say_where_models_lie(worker, models):
    change_byte(models / "Größe 脳.safetensors")
    failed = worker.failure("model_verify", {"model": str(models / "Größe 脳")})
    assert failed["code"] == "model-tampered"
    assert str(models) not in failed["text"] + str(failed["facts"]) + worker.log


def test_no_job_needs_torch(tmp_path, models):
    from service.worker_process import without

    with WorkerProcess(tmp_path / "desk", without("torch", "transformers")) as bare:
        model = {"model": str(models / "Größe 脳")}
        bare.result("model_verify", model)
        file = bare.result("model_export", model, output=tmp_path / "x")["file"]
        bare.result("model_import", {"file": file}, output=tmp_path / "there")
        bare.result("model_rename", model, {"name": "x"})
        bare.result("model_delete", {"model": str(models / "x")})
