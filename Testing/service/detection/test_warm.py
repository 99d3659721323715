"""What is kept between detections is what the next one needs, and nothing of another."""

import os
import shutil

import pytest
import torch
from service.model_folders import change_byte
from service.small_site import run
from SpatialARAnomalyLib.engine.encoder import encoder as encoder_module
from SpatialARAnomalyLib.engine.errors import (
    EncoderError,
    ModelError,
)
from SpatialARAnomalyLib.engine.model import model_file
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.service.detection import model_cache
from SpatialARAnomalyLib.service.detection.model_cache import Warm
from SpatialARAnomalyLib.service.encoders import loading
from SpatialARAnomalyLib.service.worker.detection import MODELS
from SpatialARAnomalyLib.service.worker.jobs import release_models

CPU, OTHER = torch.device("cpu"), torch.device("meta")


@pytest.fixture
def loads(monkeypatch):
    """What is loaded, in order."""
    loaded = []

    def counted(name, function):
        def load(*arguments, **options):
            loaded.append(name)
            return function(*arguments, **options)

        return load

    monkeypatch.setattr(model_cache, "load_model", counted("model", model_file.load_model))
    load_encoder = counted("encoder", encoder_module.load_encoder)
    monkeypatch.setattr(encoder_module, "load_encoder", load_encoder)
    return loaded


def test_the_second_time_nothing_is_loaded_or_even_opened(site, loads, monkeypatch):
    kept = Warm()
    card, model, was_warm = kept.model(site.model, CPU)
    encoder, encoder_was_warm = kept.encoder(card, None, CPU, False)
    assert (was_warm, encoder_was_warm) == (False, False)
    assert loads == ["model", "encoder"]

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("pathlib.Path.open", opened)
    monkeypatch.setattr(loading.encoder_registry, "recall", opened)
    assert kept.model(site.model, CPU) == (card, model, True)
    assert kept.encoder(card, None, CPU, False) == (encoder, True)
    assert loads == ["model", "encoder"]


def test_a_model_trained_again_is_loaded_again(site, loads, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(site.model, path)
    kept = Warm()
    _, first, _ = kept.model(path, CPU)
    for _ in range(2):
        stat = path.stat()
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        _, again, was_warm = kept.model(path, CPU)
        assert again is not first
        assert not was_warm
    assert kept.model(path, CPU)[1:] == (again, True)
    assert loads == ["model"] * 3


def test_a_model_that_is_gone_or_damaged_is_not_kept(site, loads, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(site.model, path)
    kept = Warm()
    kept.model(path, CPU)
    change_byte(path)
    for _ in range(2):
        with pytest.raises(ModelError, match="not as it was written"):
            kept.model(path, CPU)
    path.unlink()
    for _ in range(2):
        with pytest.raises(ModelError):
            kept.model(path, CPU)
    assert loads == ["model"] * 5


def test_another_device_or_model_releases_the_old_one(site, loads, tmp_path):
    other = tmp_path / "other.safetensors"
    shutil.copy(site.model, other)
    kept = Warm()
    card, *_ = kept.model(site.model, CPU)
    kept.encoder(card, None, CPU, False)
    assert kept.model(other, CPU)[2] is False
    # Both need the same encoder: it stays.
    assert kept.encoder(card, None, CPU, False)[1] is True
    assert kept.model(site.model, CPU)[2] is False
    _, on_other, was_warm = kept.model(site.model, OTHER)
    assert not was_warm
    assert on_other.device == OTHER
    assert kept.model(site.model, CPU)[2] is False
    assert loads == ["model", "encoder", *["model"] * 4]


def test_an_encoder_asked_for_by_name_is_looked_at(site, loads, tmp_path):
    kept = Warm()
    card = read_card(site.model)
    _, was_warm = kept.encoder(card, "demonstration", CPU, False)
    assert not was_warm
    assert kept.encoder(card, "demonstration", CPU, False)[1] is True
    assert kept.encoder(card, None, CPU, False)[1] is True
    with pytest.raises(EncoderError) as caught:
        kept.encoder(card, str(tmp_path / "missing"), CPU, False)
    assert caught.value.code == "encoder-missing"
    assert kept.encoder(card, None, CPU, False)[1] is False


def test_after_a_release_nothing_is_warm(site, loads):
    kept = Warm()
    card, *_ = kept.model(site.model, CPU)
    kept.encoder(card, None, CPU, False)
    kept.release()
    assert kept.model(site.model, CPU)[2] is False
    assert kept.encoder(card, None, CPU, False)[1] is False


def test_the_command_line_still_verifies_what_it_uses(site, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(site.model, path)
    change_byte(path)
    result = run("detect", site.normals[0], "--model", path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "not as it was written" in result.stderr


def test_the_models_of_a_detection_can_be_released(monkeypatch):
    monkeypatch.setattr(MODELS, "_model", object())
    monkeypatch.setattr(MODELS, "_encoder", object())
    release_models()
    assert (MODELS._model, MODELS._encoder) == (None, None)
