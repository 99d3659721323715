"""The folder of models moves as a whole; until it is there, it is here."""

import errno
import os
import shutil

import pytest
from Service.model_folders import Stopper, add_model
from Service.small_site import tree
from SpatialARAnomalyLib.engine.errors import Cancelled, OutputError
from SpatialARAnomalyLib.engine.model_store import verify_model
from SpatialARAnomalyLib.service import models_move
from SpatialARAnomalyLib.service.models_move import copy_models, remove_moved
from SpatialARAnomalyLib.service.training_folder import TrainingFolder

QUIET = Stopper()


@pytest.fixture
def models(tmp_path):
    """Two models, one of them damaged, and an unfinished training."""
    folder = tmp_path / "Modèles"
    add_model(folder, "brain")
    add_model(folder, "Größe 脳", seed=1)
    (folder / "Größe 脳" / "model.safetensors").write_bytes(b"damaged")
    training = TrainingFolder(folder / "next")
    with training.hold():
        training.features.mkdir()
        (training.features / "ab.npy").write_bytes(b"tokens")
        training.checkpoint.write_bytes(b"checkpoint")
    return folder


def held(folder):
    """What a folder holds, but for locks, which belong to processes."""
    return {name: value for name, value in tree(folder).items() if not name.endswith("/lock")}


@pytest.mark.parametrize("target", ["new/place", "empty"])
def test_all_models_move(models, tmp_path, target):
    (tmp_path / "empty").mkdir()
    before, place = held(models), tmp_path / target
    reporter = Stopper()
    copied = copy_models(models, place, reporter)
    assert held(place) == before == held(models)
    assert (copied.models, copied.left) == (3, ())
    assert copied.bytes == sum(len(value) for value in before.values() if value)
    assert reporter.stages == ["copy", "verify"]
    verify_model(place / "brain")
    removed = remove_moved(models, place, reporter)
    assert (removed.models, removed.left) == (3, ())
    assert not models.exists()
    assert held(place) == before


def test_dates_are_kept(models, tmp_path):
    os.utime(models / "brain" / "model.json", (1e9, 1e9))
    copy_models(models, tmp_path / "new", QUIET)
    assert (tmp_path / "new" / "brain" / "model.json").stat().st_mtime == 1e9


def test_what_is_not_ours_stays_and_is_named(models, tmp_path):
    (models / "thesis.docx").write_text("years of work")
    (models / "scans").mkdir()
    copied = copy_models(models, tmp_path / "new", QUIET)
    removed = remove_moved(models, tmp_path / "new", QUIET)
    assert copied.left == removed.left == ("scans", "thesis.docx")
    assert sorted(os.listdir(models)) == ["scans", "thesis.docx"]
    assert sorted(os.listdir(tmp_path / "new")) == ["Größe 脳", "brain", "next.training"]


def refused(models, target) -> OutputError:
    """The error of a move that must change nothing."""
    top = models.parent
    before = tree(top)
    with pytest.raises(OutputError) as caught:
        copy_models(models, target, QUIET)
    assert tree(top) == before
    assert str(top) not in str(caught.value)
    assert caught.value.hint
    return caught.value


def test_a_place_inside_around_or_the_same_is_refused(models, tmp_path):
    (tmp_path / "link").symlink_to(models)
    for target in (models, models / "new", models / "brain", tmp_path, tmp_path / "link"):
        assert refused(models, target).code == "move-inside"
    for target in (models, tmp_path, tmp_path / "link"):
        with pytest.raises(OutputError):
            remove_moved(models, target, QUIET)
    assert len(os.listdir(models)) == 3


def test_a_place_that_is_not_empty_is_refused(models, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.docx").write_text("years of work")
    error = refused(models, tmp_path / "full")
    assert (error.code, "thesis.docx" in error.message) == ("move-not-empty", True)
    (tmp_path / "file").write_text("years of work")
    assert refused(models, tmp_path / "file").code == "output-unwritable"


def test_what_a_killed_move_left_hinders_no_other(models, tmp_path):
    (tmp_path / "new" / ".partial-abc" / "new" / "brain").mkdir(parents=True)
    (tmp_path / "new" / ".DS_Store").touch()
    copy_models(models, tmp_path / "new", QUIET)
    verify_model(tmp_path / "new" / "brain")


def test_a_running_training_is_told(models, tmp_path):
    with TrainingFolder(models / "next").hold():
        assert refused(models, tmp_path / "new").code == "training-running"


def test_links_are_not_followed(models, tmp_path):
    (models / "brain" / "link").symlink_to(tmp_path)
    assert refused(models, tmp_path / "new").code == "move-link"
    (models / "brain" / "link").unlink()
    shutil.move(models / "brain", tmp_path / "elsewhere")
    (models / "brain").symlink_to(tmp_path / "elsewhere")
    assert refused(models, tmp_path / "new").code == "move-link"


def test_too_little_room_is_told_before_anything_is_copied(models, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(models_move.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    assert refused(models, tmp_path / "new").code == "move-no-room"


@pytest.mark.parametrize("moment", ["fsync", "rename"])
@pytest.mark.parametrize("call", [0, 1, 2])
def test_a_move_that_the_disk_refuses_changes_nothing(models, tmp_path, monkeypatch, moment, call):
    real, calls = getattr(os, moment), []

    def fail(*given: object) -> None:
        calls.append(given)
        if len(calls) == call + 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
        real(*given)

    monkeypatch.setattr(os, moment, fail)
    error = refused(models, tmp_path / "new")
    assert "No space left" in error.message


@pytest.mark.parametrize("moment", range(12))
def test_a_cancelled_move_changes_nothing(models, tmp_path, moment):
    before = tree(tmp_path)
    with pytest.raises(Cancelled):
        copy_models(models, tmp_path / "new", Stopper(moment))
    assert tree(tmp_path) == before


def test_a_copy_that_is_not_what_was_written_is_noticed(models, tmp_path, monkeypatch):
    real = models_move.sync

    def spoiling(path):
        real(path)
        if path.name == "model.safetensors":
            path.write_bytes(path.read_bytes()[:-1] + b"!")

    monkeypatch.setattr(models_move, "sync", spoiling)
    assert refused(models, tmp_path / "new").code == "move-damaged"


def test_only_what_is_the_same_there_is_removed_here(models, tmp_path):
    place = tmp_path / "new"
    copy_models(models, place, QUIET)
    (models / "brain" / "model.json").write_text("changed meanwhile")
    shutil.rmtree(place / "Größe 脳")
    removed = remove_moved(models, place, QUIET)
    assert (removed.models, sorted(removed.left)) == (1, ["Größe 脳", "brain"])
    assert sorted(os.listdir(models)) == ["Größe 脳", "brain"]


def test_what_became_a_link_meanwhile_is_left_alone(models, tmp_path):
    place = tmp_path / "new"
    copy_models(models, place, QUIET)
    shutil.move(models / "brain", tmp_path / "elsewhere")
    (models / "brain").symlink_to(tmp_path / "elsewhere")
    removed = remove_moved(models, place, QUIET)
    assert (removed.models, removed.left) == (2, ("brain",))
    verify_model(tmp_path / "elsewhere")


def test_a_removal_that_is_refused_or_was_interrupted_goes_on_later(models, tmp_path, monkeypatch):
    place = tmp_path / "new"
    before = held(models)
    copy_models(models, place, QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(models_move.os, "rename", lambda *_: (_ for _ in ()).throw(OSError(16, "x")))
        assert len(remove_moved(models, place, QUIET).left) == 3
    assert held(models) == before
    with pytest.raises(Cancelled):
        remove_moved(models, place, Stopper(1))
    assert len(os.listdir(models)) in (1, 2)
    assert remove_moved(models, place, QUIET).left == ()
    assert not models.exists()
    assert held(place) == before


def test_a_file_called_lock_is_not_lost(models, tmp_path):
    (models / "brain" / "lock").write_text("years of work")
    copy_models(models, tmp_path / "new", QUIET)
    remove_moved(models, tmp_path / "new", QUIET)
    assert (tmp_path / "new" / "brain" / "lock").read_text() == "years of work"
