"""The panel's list of models: all of them, quickly, and the damaged ones with their reason."""

import dataclasses
import shutil

import pytest
from Engine.model_examples import CARD, small_model
from SpatialARAnomalyLib.engine import model_store
from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.engine.model_store import load_model, read_card, save_model
from SpatialARAnomalyLib.service.model_list import list_models


@pytest.fixture
def folder(tmp_path):
    """Two models, whose folders sort otherwise than their names."""
    for name, place in (("brain", "b"), ("Abdomen Größe", "z")):
        card = dataclasses.replace(CARD, name=name)
        save_model(tmp_path / place, card, small_model())
    return tmp_path


def told(folder):
    return [
        (entry.folder.name, entry.card and entry.card.name, entry.error and entry.error.code)
        for entry in list_models(folder)
    ]


def test_models_are_listed_by_name_with_their_cards(folder):
    assert told(folder) == [("z", "Abdomen Größe", None), ("b", "brain", None)]
    assert [entry.card for entry in list_models(folder)] == [
        read_card(folder / "z"),
        read_card(folder / "b"),
    ]


def test_what_is_no_model_is_left_out(folder):
    (folder / "notes.txt").write_text("years of work")
    (folder / "empty").mkdir()
    (folder / "other").mkdir()
    (folder / "other" / "readme").touch()
    (folder / "b.training").mkdir()
    shutil.copytree(folder / "b", folder / ".partial-abc")
    assert len(told(folder)) == 2


def test_a_damaged_model_is_listed_with_what_is_wrong(folder):
    for place in ("cut", "no weights", "no card", "changed"):
        shutil.copytree(folder / "b", folder / place)
    (folder / "cut" / "model.json").write_text('{"schema"')
    (folder / "no weights" / "model.safetensors").unlink()
    (folder / "no card" / "model.json").unlink()
    text = (folder / "changed" / "model.json").read_text(encoding="utf-8")
    changed = text.replace('"brain"', '"brian"')
    assert changed != text
    (folder / "changed" / "model.json").write_text(changed, encoding="utf-8")
    assert told(folder) == [
        ("z", "Abdomen Größe", None),
        ("b", "brain", None),
        ("changed", None, "model-tampered"),
        ("cut", None, "model-damaged"),
        ("no card", None, "model-missing"),
        ("no weights", None, "model-damaged"),
    ]


def test_no_folder_no_models(tmp_path):
    assert list_models(tmp_path / "missing") == []
    (tmp_path / "file").touch()
    assert list_models(tmp_path / "file") == []


def test_listing_reads_no_weights_and_loading_does(folder, monkeypatch):
    hashed = []
    digest = model_store.file_sha256
    monkeypatch.setattr(
        model_store, "file_sha256", lambda path: hashed.append(path.name) or digest(path)
    )
    weights = folder / "b" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert len(list_models(folder)) == 2
    assert [entry.error for entry in list_models(folder)] == [None, None]
    assert hashed == []
    assert read_card(folder / "b", with_weights=False).name == "brain"
    for reader in (read_card, load_model):
        with pytest.raises(ModelError) as caught:
            reader(folder / "b")
        assert caught.value.code == "model-tampered"
    assert hashed == ["model.safetensors"] * 2
