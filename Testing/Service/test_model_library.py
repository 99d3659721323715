"""Models are renamed and deleted wholly or not at all, and nothing but models is touched."""

import errno
import os

import pytest
from Service.model_folders import add_model
from Service.small_site import tree
from SpatialARAnomalyLib.engine.errors import ModelError, OutputError, SpatialARError
from SpatialARAnomalyLib.engine.model_store import load_model, read_card, verify_model
from SpatialARAnomalyLib.service.model_library import delete_model, rename_model
from SpatialARAnomalyLib.service.model_list import list_models


@pytest.fixture
def models(tmp_path):
    """Two models, and what is none."""
    folder = tmp_path / "Modèles"
    add_model(folder, "brain")
    add_model(folder, "abdomen", seed=1, folder="Abdomen 1")
    (folder / "notes.txt").write_text("years of work")
    return folder


def unchanged(models, action) -> SpatialARError:
    """The error of an action that must change nothing."""
    before = tree(models)
    with pytest.raises(SpatialARError) as caught:
        action()
    assert tree(models) == before
    assert str(models) not in str(caught.value)
    assert caught.value.hint
    return caught.value


def names(models):
    return [(entry.folder.name, entry.name) for entry in list_models(models)]


def test_a_model_gets_its_new_name_in_card_and_folder(models):
    before, weights = read_card(models / "brain"), load_model(models / "brain")[1].state_dict()
    folder, card = rename_model(models / "brain", "Größe 脳")
    assert folder == models / "Größe 脳"
    assert not (models / "brain").exists()
    assert sorted(os.listdir(folder)) == ["model.json", "model.safetensors"]
    again, network = load_model(folder)
    assert again == card
    assert again.to_dict() | {"name": "brain"} == before.to_dict()
    assert all(value.equal(weights[key]) for key, value in network.state_dict().items())
    assert names(models) == [("Abdomen 1", "abdomen"), ("Größe 脳", "Größe 脳")]


def test_there_and_back_again_is_the_same_model(models):
    before = tree(models)
    rename_model(rename_model(models / "brain", "other")[0], "brain")
    assert tree(models) == before


def test_only_the_case_or_only_the_folder_may_change(models):
    rename_model(models / "brain", "Brain")
    rename_model(models / "Abdomen 1", "abdomen")
    assert names(models) == [("abdomen", "abdomen"), ("Brain", "Brain")]


@pytest.mark.parametrize("name", ["abdomen", "ABDOMEN", "abdomen 1", "notes.txt"])
def test_a_taken_name_is_refused(models, name):
    error = unchanged(models, lambda: rename_model(models / "brain", name))
    assert error.code == "model-name-taken"


@pytest.mark.parametrize("name", ["", "a/b", "../brain", "con", "x" * 99, "a\nb", " a", "/tmp/a"])
def test_a_name_that_cannot_be_is_refused(models, name):
    error = unchanged(models, lambda: rename_model(models / "brain", name))
    assert error.code == "model-name"


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_damaged_model_is_not_given_a_digest_that_fits(models, file):
    path = models / "brain" / file
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    assert unchanged(models, lambda: rename_model(models / "brain", "x")).code == "model-tampered"


@pytest.mark.parametrize("moment", ["card", "folder"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_rename_that_the_disk_refuses_changes_nothing(models, monkeypatch, moment, number):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(models))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync" if moment == "card" else "rename", fail)
        error = unchanged(models, lambda: rename_model(models / "brain", "x"))
    assert isinstance(error, OutputError)
    assert os.strerror(number) in error.message
    verify_model(models / "brain")


@pytest.mark.parametrize("action", ["rename", "delete"])
def test_a_model_in_use_is_told(models, monkeypatch, action):
    def fail(*_: object) -> None:
        error = PermissionError(errno.EACCES, "Access is denied")
        error.winerror = 32
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        error = unchanged(
            models,
            lambda: (
                rename_model(models / "brain", "x")
                if action == "rename"
                else delete_model(models / "brain")
            ),
        )
    assert error.code == "model-in-use"
    assert "it is in use" in error.message


def test_a_rename_killed_between_card_and_folder_leaves_a_good_model(models, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    replace = os.replace
    monkeypatch.setattr(os, "rename", kill)
    # Whoever is killed cannot put the card back either.
    monkeypatch.setattr(
        os, "replace", lambda *names: (replace(*names), monkeypatch.setattr(os, "replace", kill))
    )
    with pytest.raises(Killed):
        rename_model(models / "brain", "x")
    monkeypatch.undo()
    assert verify_model(models / "brain").name == "x"
    assert rename_model(models / "brain", "x")[0] == models / "x"


def test_a_model_is_deleted_and_nothing_else(models):
    before = tree(models)
    delete_model(models / "brain")
    gone = {"brain", "brain/model.json", "brain/model.safetensors"}
    assert tree(models) == {name: held for name, held in before.items() if name not in gone}


def test_what_file_managers_and_killed_renames_leave_goes_with_it(models):
    for name in (".DS_Store", "Thumbs.db", "model.json.partial"):
        (models / "brain" / name).touch()
    delete_model(models / "brain")
    assert not (models / "brain").exists()


@pytest.mark.parametrize("damage", ["cut card", "no card", "no weights"])
def test_a_damaged_model_can_be_deleted(models, damage):
    if damage == "cut card":
        (models / "brain" / "model.json").write_text("{")
    else:
        missing = "model.json" if damage == "no card" else "model.safetensors"
        (models / "brain" / missing).unlink()
    delete_model(models / "brain")
    assert names(models) == [("Abdomen 1", "abdomen")]


@pytest.mark.parametrize("more", ["thesis.docx", "scans", "link", "model.json as a folder"])
def test_a_folder_that_holds_more_is_left_alone(models, more):
    folder = models / "brain"
    if more == "scans":
        (folder / more).mkdir()
        (folder / more / "a.nii").touch()
    elif more == "link":
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to(models / "notes.txt")
    elif more == "model.json as a folder":
        (folder / "model.json").unlink()
        (folder / "model.json").mkdir()
    else:
        (folder / more).write_text("years of work")
    error = unchanged(models, lambda: delete_model(folder))
    assert error.code == "model-not-alone"
    assert isinstance(error, ModelError)


def test_what_somebody_puts_into_the_folder_meanwhile_is_left_alone(models, monkeypatch):
    rename = os.rename

    def later(source, target):
        monkeypatch.setattr(os, "rename", rename)
        (models / "brain" / "thesis.docx").write_text("years of work")
        rename(source, target)

    monkeypatch.setattr(os, "rename", later)
    with pytest.raises(ModelError, match="holds more"):
        delete_model(models / "brain")
    assert len(os.listdir(models / "brain")) == 3
    assert len(os.listdir(models)) == 3


def test_what_is_no_model_is_not_deleted(models, tmp_path):
    (models / "empty").mkdir()
    (models / "link").symlink_to(models / "brain")
    for place in ("empty", "none", "notes.txt", "link"):
        error = unchanged(models, lambda place=place: delete_model(models / place))
        assert error.code == "model-missing"
    assert unchanged(models, lambda: delete_model(models)).code == "model-not-alone"


def test_a_model_can_be_named_from_within_its_folder(models, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(models / "brain")
    assert rename_model(Path("."), "x")[0] == models / "x"
    monkeypatch.chdir(models / "x")
    delete_model(Path("."))
    assert names(models) == [("Abdomen 1", "abdomen")]
