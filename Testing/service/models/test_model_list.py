"""The panel's list of models: all of them, quickly, and the damaged ones with their reason."""

import os
import shutil

import pytest
import safetensors.torch
import torch
from service.model_folders import add_model, change_byte, change_card
from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.engine.model.model_file import load_model, read_card, verify_model
from SpatialARAnomalyLib.service.models import listing
from SpatialARAnomalyLib.service.models.listing import list_models


@pytest.fixture
def folder(tmp_path):
    """Two models, whose files sort otherwise than their names."""
    add_model(tmp_path, "brain", file="b")
    add_model(tmp_path, "Abdomen Größe", file="z")
    return tmp_path


def told(folder):
    return [
        (entry.path.stem, entry.card and entry.card.name, entry.error and entry.error.code)
        for entry in list_models(folder)
    ]


def test_models_are_listed_by_name_with_their_cards(folder):
    assert told(folder) == [("z", "Abdomen Größe", None), ("b", "brain", None)]
    assert [entry.card for entry in list_models(folder)] == [
        read_card(folder / "z"),
        read_card(folder / "b"),
    ]
    assert [entry.bytes for entry in list_models(folder)] == [
        os.path.getsize(folder / f"{name}.safetensors") for name in "zb"
    ]


def test_what_is_no_model_s_file_is_left_out(folder):
    (folder / "notes.txt").write_text("years of work")
    (folder / "folder.safetensors").mkdir()
    (folder / "dangling.safetensors").symlink_to(folder / "gone")
    (folder / "b.training").mkdir()
    (folder / ".partial-abc").mkdir()
    shutil.copy(folder / "b.safetensors", folder / "._b.safetensors")
    shutil.copy(folder / "b.safetensors", folder / ".partial-abc" / "new.safetensors")
    assert len(told(folder)) == 2


def test_a_damaged_model_is_listed_with_what_is_wrong(folder):
    for name in ("cut", "changed", "empty"):
        shutil.copy(folder / "b.safetensors", folder / f"{name}.safetensors")
    os.truncate(folder / "cut.safetensors", 5000)
    change_card(folder / "changed.safetensors", lambda card: card.replace(b"brain", b"brian"))
    os.truncate(folder / "empty.safetensors", 0)
    safetensors.torch.save_file({"a": torch.ones(3)}, folder / "others.safetensors")
    assert told(folder) == [
        ("z", "Abdomen Größe", None),
        ("b", "brain", None),
        ("changed", None, "model-tampered"),
        ("cut", None, "model-damaged"),
        ("empty", None, "model-file"),
        ("others", None, "model-file"),
    ]


def test_no_folder_no_models(tmp_path):
    assert list_models(tmp_path / "missing") == []
    (tmp_path / "file").touch()
    assert list_models(tmp_path / "file") == []


def test_listing_reads_no_tensors_and_loading_does(folder):
    change_byte(folder / "b.safetensors")
    assert [entry.error for entry in list_models(folder)] == [None, None]
    for reader in (verify_model, load_model):
        with pytest.raises(ModelError) as caught:
            reader(folder / "b")
        assert caught.value.code == "model-tampered"


def test_what_was_not_changed_is_not_read_again(folder, monkeypatch):
    before, read = list_models(folder), []
    monkeypatch.setattr(
        listing, "read_card", lambda path: read.append(path.stem) or read_card(path)
    )
    again = list_models(folder)
    assert all(one is other for one, other in zip(before, again, strict=True))
    add_model(folder, "brain 2", file="b")
    assert told(folder) == [("z", "Abdomen Größe", None), ("b", "brain 2", None)]
    assert read == ["b"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_a_model_that_may_not_be_read_is_tried_again(folder):
    (folder / "b.safetensors").chmod(0)
    assert told(folder)[0] == ("b", None, "model-unreadable")
    (folder / "b.safetensors").chmod(0o600)
    assert told(folder)[1] == ("b", "brain", None)
