"""Models are exported, imported, renamed and deleted wholly or not at all; other files stay."""

import errno
import os

import pytest
import safetensors.torch
import torch
from service.model_folders import Stopper, add_model, change_byte, change_card
from service.small_site import tree
from SpatialARAnomalyLib.engine.errors import Cancelled, ModelError, OutputError, SpatialARError
from SpatialARAnomalyLib.engine.model.model_file import load_model, read_card, verify_model
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.cli.hints import hint
from SpatialARAnomalyLib.service.models.library import (
    Arrival,
    delete_model,
    export_model,
    import_model,
    rename_model,
)
from SpatialARAnomalyLib.service.models.listing import list_models

QUIET = SilentReporter()
NAME = "Größe 脳 т1"


@pytest.fixture
def models(tmp_path):
    """Two models and another file."""
    folder = tmp_path / "Modèles"
    add_model(folder, "brain")
    add_model(folder, "abdomen", seed=1, file="Abdomen 1")
    (folder / "notes.txt").write_text("text")
    return folder


@pytest.fixture
def there(tmp_path):
    """Another machine's folder of models, with one in it."""
    folder = tmp_path / "别的 машина"
    add_model(folder, "other", seed=1)
    return folder


@pytest.fixture
def file(tmp_path):
    """A model that came from elsewhere."""
    return add_model(tmp_path / "exporté", NAME, file="модель")


def unchanged(folder, action) -> SpatialARError:
    """The error of an action that must change nothing."""
    before = tree(folder)
    with pytest.raises(SpatialARError) as caught:
        action()
    assert tree(folder) == before
    assert str(folder) not in str(caught.value)
    assert hint(caught.value)
    return caught.value


def names(models):
    return [(entry.path.stem, entry.name) for entry in list_models(models)]


def refuse(monkeypatch, where, number, **attributes):
    """Let the system refuse something."""

    def fail(*_: object, **__: object) -> None:
        error = OSError(number, os.strerror(number), "/home/somebody")
        for name, value in attributes.items():
            setattr(error, name, value)
        raise error

    monkeypatch.setattr(where, fail)


# Export and import


def test_a_model_travels_and_stays_the_same(models, there, tmp_path):
    file = export_model(
        models / "brain.safetensors", tmp_path / "new" / "x", QUIET, overwrite=False
    )
    assert file == tmp_path / "new" / "x.safetensors"
    assert os.listdir(file.parent) == ["x.safetensors"]
    found = import_model(file, there, QUIET)
    path = there / "brain.safetensors"
    assert (found.arrival, found.card.name, found.path) == (Arrival.ADDED, "brain", path)
    assert path.read_bytes() == file.read_bytes() == (models / "brain.safetensors").read_bytes()
    assert load_model(path)[0] == found.card
    assert sorted(os.listdir(there)) == ["brain.safetensors", "other.safetensors"]


@pytest.mark.parametrize("name", [NAME, "called otherwise"])
def test_a_model_that_is_there_is_told_and_not_doubled(there, file, name):
    add_model(there, name)
    before = tree(there)
    found = import_model(file, there, QUIET)
    assert (found.arrival, found.card.name) == (Arrival.PRESENT, name)
    assert found.original_name == NAME
    assert tree(there) == before


def test_a_damaged_model_of_the_library_does_not_count_as_there(there, file):
    change_byte(add_model(there, NAME))
    found = import_model(file, there, QUIET)
    assert (found.arrival, found.card.name) == (Arrival.RENAMED, f"{NAME} (2)")
    verify_model(found.path)


@pytest.mark.parametrize("taken_by", ["model", "model in capitals", "file", "training"])
def test_a_name_that_is_taken_gets_a_free_one(there, file, taken_by):
    if taken_by == "training":
        (there / f"{NAME}.training").mkdir()
    elif taken_by == "file":
        (there / f"{NAME}.safetensors").write_text("text", encoding="utf-8")
    else:
        capital = taken_by == "model in capitals"
        add_model(there, NAME.upper() if capital else NAME, seed=5, file="elsewhere")
    before = tree(there)
    found = import_model(file, there, QUIET)
    assert (found.arrival, found.card.name) == (Arrival.RENAMED, f"{NAME} (2)")
    assert found.path == there / f"{NAME} (2).safetensors"
    assert verify_model(found.path).name == f"{NAME} (2)"
    after = tree(there)
    assert {name: after[name] for name in before} == before


def test_a_name_that_cannot_be_a_file_s_is_made_to_fit(there, tmp_path):
    odd = add_model(tmp_path / "odd", "../../T1\u202e", file="x")
    found = import_model(odd, there, QUIET)
    assert (found.arrival, found.card.name) == (Arrival.RENAMED, "_.._T1_")
    assert found.path == there / "_.._T1_.safetensors"
    assert verify_model(found.path).name == "_.._T1_"


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (change_byte, "model-tampered"),
        (
            lambda file: change_card(file, lambda card: card.replace(b'"MR', b'"CT')),
            "model-tampered",
        ),
        (lambda file: os.truncate(file, 9000), "model-damaged"),
        (lambda file: file.write_bytes(b"PK\3\4" * 99), "model-file"),
        (os.unlink, "model-missing"),
    ],
)
def test_a_damaged_model_is_neither_imported_nor_exported(there, file, tmp_path, damage, code):
    damage(file)
    assert unchanged(there, lambda: import_model(file, there, QUIET)).code == code
    copy = tmp_path / "new" / "copy"
    error = unchanged(tmp_path, lambda: export_model(file, copy, QUIET, overwrite=False))
    assert error.code == code


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("moment", ["os.fsync", "os.link", "tempfile.TemporaryFile"])
def test_a_full_disk_leaves_everything_as_it_was(
    there, file, tmp_path, monkeypatch, number, moment
):
    for action in (
        lambda: import_model(file, there, QUIET),
        lambda: import_model(file, tmp_path / "not yet", QUIET),
        lambda: export_model(file, tmp_path / "new" / "a", QUIET, overwrite=False),
    ):
        with monkeypatch.context() as patch:
            refuse(patch, moment, number)
            error = unchanged(tmp_path, action)
        assert isinstance(error, OutputError)
        assert os.strerror(number) in error.message
        assert "somebody" not in str(error)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_told(there, file):
    there.chmod(0o500)
    try:
        error = unchanged(there, lambda: import_model(file, there, QUIET))
    finally:
        there.chmod(0o700)
    assert "must be writable" in error.message


def test_a_file_where_the_folder_must_be_is_told(file, tmp_path):
    (tmp_path / "in the way").write_text("text")
    for place in (tmp_path / "in the way" / "models", tmp_path / "in the way"):
        error = unchanged(tmp_path, lambda place=place: import_model(file, place, QUIET))
        assert error.message == "The output needs a folder; 'in the way' is a file."


def test_a_cancelled_import_and_export_leave_nothing(there, file, tmp_path):
    before = tree(tmp_path)
    for work, moments in (
        (lambda report: import_model(file, there, report), 2),
        (lambda report: import_model(file, tmp_path / "not yet", report), 2),
        (lambda report: export_model(file, tmp_path / "new" / "a", report, overwrite=False), 1),
    ):
        for moment in range(moments):
            with pytest.raises(Cancelled):
                work(Stopper(moment))
            assert tree(tmp_path) == before


def test_progress_is_told_in_stages(there, file):
    report = Stopper()
    import_model(file, there, report)
    assert report.stages == ["verify", "write"]
    assert len(report.reported) == 2
    assert all(0 <= done <= total for done, total in report.reported)


def test_a_name_that_no_disk_takes_is_told(file, there, tmp_path):
    long = tmp_path / ("n" * 300)
    with pytest.raises(OutputError, match="must have at most 255 bytes"):
        export_model(file, long, QUIET, overwrite=True)
    assert unchanged(there, lambda: import_model(long, there, QUIET)).code == "model-missing"


def test_an_export_replaces_a_model_only_when_asked_and_nothing_else_ever(models, file):
    brain = models / "brain.safetensors"
    error = unchanged(models, lambda: export_model(file, brain, QUIET, overwrite=False))
    assert error.code == "output-exists"
    export_model(file, brain, QUIET, overwrite=True)
    assert brain.read_bytes() == file.read_bytes()
    brain.write_text("text")
    error = unchanged(models, lambda: export_model(file, brain, QUIET, overwrite=True))
    assert error.code == "output-not-a-model"


# Rename


def test_a_model_gets_its_new_name_on_the_card_and_as_the_file_s(models):
    before, weights = read_card(models / "brain"), load_model(models / "brain")[1].state_dict()
    path, card = rename_model(models / "brain", "Größe 脳")
    assert path == models / "Größe 脳.safetensors"
    again, network = load_model(path)
    assert again == card
    assert again.to_dict() | {"name": "brain"} == before.to_dict()
    assert all(value.equal(weights[key]) for key, value in network.state_dict().items())
    assert names(models) == [("Abdomen 1", "abdomen"), ("Größe 脳", "Größe 脳")]
    assert len(os.listdir(models)) == 3


def test_there_and_back_again_is_the_same_model(models):
    before = tree(models)
    rename_model(rename_model(models / "brain", "other")[0], "brain")
    assert tree(models) == before


def test_only_the_case_or_only_the_file_may_change(models):
    rename_model(models / "brain", "Brain")
    rename_model(models / "Abdomen 1", "abdomen")
    assert names(models) == [("abdomen", "abdomen"), ("Brain", "Brain")]


@pytest.mark.parametrize("name", ["abdomen", "ABDOMEN", "abdomen 1", "folder"])
def test_a_taken_name_is_refused(models, name):
    (models / "folder.safetensors").mkdir()
    error = unchanged(models, lambda: rename_model(models / "brain", name))
    assert error.code == "model-name-taken"


@pytest.mark.parametrize(
    "name", ["", "a/b", "../brain", "con", "x" * 99, "a\nb", " a", "/tmp/a", "a.safetensors"]
)
def test_a_name_that_cannot_be_is_refused(models, name):
    error = unchanged(models, lambda: rename_model(models / "brain", name))
    assert error.code == "model-name"


@pytest.mark.parametrize("at", [4000, -1])
def test_a_damaged_model_is_not_given_a_digest_that_fits(models, at):
    change_byte(models / "brain.safetensors", at)
    error = unchanged(models, lambda: rename_model(models / "brain", "x"))
    assert error.code in ("model-damaged", "model-tampered")


@pytest.mark.parametrize("moment", ["os.fsync", "os.replace", "os.link"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_rename_that_the_disk_refuses_changes_nothing(models, monkeypatch, moment, number):
    with monkeypatch.context() as patch:
        refuse(patch, moment, number)
        error = unchanged(models, lambda: rename_model(models / "brain", "x"))
    assert isinstance(error, OutputError)
    assert os.strerror(number) in error.message
    verify_model(models / "brain")


def test_a_rename_killed_between_card_and_file_leaves_a_good_model(models, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    replace = os.replace
    monkeypatch.setattr(os, "link", kill)
    # A killed process cannot put the card back either.
    monkeypatch.setattr(
        os, "replace", lambda *names: (replace(*names), monkeypatch.setattr(os, "replace", kill))
    )
    with pytest.raises(Killed):
        rename_model(models / "brain", "x")
    monkeypatch.undo()
    assert verify_model(models / "brain").name == "x"
    assert rename_model(models / "brain", "x")[0] == models / "x.safetensors"


# Delete


def test_a_model_is_deleted_and_nothing_else(models):
    before = tree(models)
    delete_model(models / "brain")
    assert tree(models) == {
        name: held for name, held in before.items() if name != "brain.safetensors"
    }


def test_a_damaged_model_can_be_deleted(models):
    os.truncate(models / "brain.safetensors", 100)
    delete_model(models / "brain")
    assert names(models) == [("Abdomen 1", "abdomen")]


def test_what_is_no_model_is_not_deleted(models):
    (models / "folder.safetensors").mkdir()
    (models / "thesis.safetensors").write_text("text")
    safetensors.torch.save_file({"a": torch.ones(3)}, models / "encoder.safetensors")
    for name, code in (
        ("none", "model-missing"),
        ("notes.txt", "model-missing"),
        ("folder", "model-unreadable"),
        ("thesis", "model-file"),
        ("encoder", "model-file"),
    ):
        error = unchanged(models, lambda name=name: delete_model(models / name))
        assert error.code == code
        assert isinstance(error, ModelError)


@pytest.mark.parametrize("action", ["rename", "delete"])
@pytest.mark.parametrize("moment", ["os.replace", "os.link"])
def test_a_model_in_use_is_told(models, monkeypatch, action, moment):
    with monkeypatch.context() as patch:
        refuse(patch, "os.unlink" if action == "delete" else moment, errno.EACCES, winerror=32)
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
