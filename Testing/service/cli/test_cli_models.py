"""The commands `models …`."""

import json
import os

import pytest
from service.model_folders import add_model, change_byte
from service.small_site import run, tree
from SpatialARAnomalyLib.engine.model.model_file import read_card


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The user's folder of models, with two of them."""
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(tmp_path / "settings"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("COLUMNS", "200")
    folder = tmp_path / "settings" / "models"
    add_model(folder, "brain [t1]")
    card = read_card(folder / "brain [t1]")
    encoder = card.encoder.from_dict(card.encoder.to_dict() | {"name": "timm/vit_x"})
    add_model(folder, "Größe 脳", seed=1, file="second", encoder=encoder)
    return folder


def text(done) -> str:
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_list_shows_all_models_and_what_is_missing(models):
    shown = text(run("models", "list"))
    first, second = (line for line in shown.splitlines() if "coronal" in line)
    assert " ".join(first.split()) == (
        "brain [t1] MR coronal 240 mm demonstration 3 2026-01-31 0.0 MB"
    )
    assert "timm/vit_x (not here)" in second
    assert "spatial-ar-anomaly encoders get timm/vit_x" in shown


def test_list_shows_problems_of_damaged_models(models):
    change_byte(models / "second.safetensors", 5000)
    shown = text(run("models", "list"))
    assert "second: The model file is not as it was written: its card does not match" in shown


def test_list_as_json(models):
    rows = json.loads(text(run("models", "list", "--json")))
    assert [(row["name"], row["encoder_state"]) for row in rows] == [
        ("brain [t1]", "embedded"),
        ("Größe 脳", "obtainable"),
    ]
    assert rows[0]["normals"] == 3
    assert rows[0]["bytes"] == os.path.getsize(models / "brain [t1].safetensors")
    assert str(models) not in json.dumps(rows)


def test_list_of_another_folder(models, tmp_path):
    assert text(run("models", "list", "--folder", tmp_path / "none")) == "No models.\n"
    add_model(tmp_path / "shared", "abdomen")
    assert "abdomen" in text(run("models", "list", "--folder", tmp_path / "shared"))
    shown = text(run("models", "show", "abdomen", "--folder", tmp_path / "shared", "--json"))
    assert json.loads(shown)["name"] == "abdomen"


@pytest.mark.parametrize("how", ["name", "file's name", "file", "path"])
def test_a_model_is_named_by_name_or_file(models, how):
    named = {
        "name": "größe 脳",
        "file's name": "second",
        "file": "second.safetensors",
        "path": models / "second",
    }[how]
    assert "complete and unchanged" in text(run("models", "verify", named))
    assert "Model Größe 脳" in text(run("models", "show", named))


def test_an_unknown_name_and_a_name_of_two_models_are_refused(models):
    done = run("models", "show", "spleen")
    assert done.exit_code == 2
    assert "the folder's models: 'brain [t1]', 'Größe 脳'" in done.stderr
    add_model(models, "Größe 脳", seed=3, file="third")
    done = run("models", "delete", "Größe 脳", "--yes")
    assert done.exit_code == 2
    assert "2 models are named 'Größe 脳': second.safetensors, third.safetensors." in done.stderr
    assert len(os.listdir(models)) == 3


def test_a_file_of_the_working_folder_is_not_taken_for_a_model_of_the_library(
    models, tmp_path, monkeypatch
):
    add_model(tmp_path / "here", "another", file="second")
    monkeypatch.chdir(tmp_path / "here")
    for command in (["delete", "second", "--yes"], ["rename", "second", "third"]):
        done = run("models", *command)
        assert done.exit_code == 2
        here = os.path.join(".", "second.safetensors")
        assert f"2 models are named 'second': second.safetensors, {here}." in done.stderr
    assert "Größe 脳: complete" in text(run("models", "verify", "second", "--folder", models))
    assert "another: complete" in text(run("models", "verify", here))
    monkeypatch.chdir(models)
    assert "Größe 脳: complete" in text(run("models", "verify", "second"))


def test_a_model_is_exported_and_imported(models, tmp_path):
    there = tmp_path / "там"
    written = text(run("models", "export", "Größe 脳", tmp_path))
    assert written == f"Written: {tmp_path / 'Größe 脳.safetensors'}\n"
    again = run("models", "export", "Größe 脳", tmp_path)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    text(run("models", "export", "Größe 脳", tmp_path, "--overwrite"))
    file = tmp_path / "Größe 脳.safetensors"
    assert "imported" in text(run("models", "import", file, "--folder", there))
    assert (there / file.name).read_bytes() == (models / "second.safetensors").read_bytes()
    assert "already in the folder" in text(run("models", "import", file, "--folder", there))
    add_model(there, "Größe 脳", seed=9)
    assert "'Größe 脳' is taken" in text(run("models", "import", file, "--folder", there))
    done = run("models", "import", file, "--folder", tmp_path / "json", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["arrival"] == "added"


def test_a_file_that_is_not_a_model_is_refused(models, tmp_path):
    (tmp_path / "x.safetensors").write_text("years of work")
    before = tree(models)
    done = run("models", "import", tmp_path / "x.safetensors")
    assert (done.exit_code, "The file is not a model" in done.stderr) == (2, True)
    done = run("models", "import", tmp_path / "x.safetensors", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["code"] == "model-file"
    assert tree(models) == before


def test_rename(models):
    assert text(run("models", "rename", "second", "脳")) == "脳: renamed\n"
    assert read_card(models / "脳").name == "脳"
    done = run("models", "rename", "脳", "BRAIN [T1]")
    assert (done.exit_code, "another model" in done.stderr) == (2, True)


def test_delete_asks_unless_yes_is_given(models):
    from SpatialARAnomalyLib.service.cli.main import app
    from typer.testing import CliRunner

    for answer in ("n\n", ""):
        done = CliRunner().invoke(app, ["models", "delete", "second"], input=answer)
        assert done.exit_code == 130
        assert "Delete the model 'second'?" in done.stderr
        assert "Cancelled. Nothing was changed." in done.stderr
    assert (models / "second.safetensors").exists()
    missing = CliRunner().invoke(app, ["models", "delete", "a/b"])
    assert (missing.exit_code, "Delete the model" in missing.stderr) == (2, False)
    done = CliRunner().invoke(app, ["models", "delete", "second"], input="y\n")
    assert done.exit_code == 0
    assert not (models / "second.safetensors").exists()
    assert text(run("models", "delete", "brain [t1]", "--yes")) == "brain [t1]: deleted\n"
    assert os.listdir(models) == []


def test_a_damaged_model_can_be_deleted_and_not_exported(models, tmp_path):
    change_byte(models / "second.safetensors")
    done = run("models", "export", "second", tmp_path / "out" / "x")
    assert (done.exit_code, "is not as it was written" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()
    assert run("models", "verify", "second").exit_code == 2
    text(run("models", "delete", "second", "--yes"))


def test_verify_as_json(models):
    done = run("models", "verify", "second", "--json")
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["event"], last["name"]) == ("result", "Größe 脳")
    change_byte(models / "second.safetensors")
    done = run("models", "verify", "second", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["code"] == "model-tampered"
