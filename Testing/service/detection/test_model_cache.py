"""The cache keeps what the next detection needs, and nothing else."""

import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from service.model_folders import change_byte
from service.small_site import run
from SpatialARAnomalyLib.engine.encoder import encoder as encoder_module
from SpatialARAnomalyLib.engine.errors import EncoderError, ModelError
from SpatialARAnomalyLib.engine.model import model_file
from SpatialARAnomalyLib.service.detection import model_cache
from SpatialARAnomalyLib.service.detection.model_cache import MODELS, ModelCache
from SpatialARAnomalyLib.service.encoders import loading
from SpatialARAnomalyLib.service.jobs import release_models

BOTH, NEITHER = {"model": True, "encoder": True}, {"model": False, "encoder": False}


@pytest.fixture
def loads(monkeypatch):
    """What is loaded from files, in order."""
    loaded = []

    def counted(name, function):
        def load(*arguments, **options):
            loaded.append(name)
            return function(*arguments, **options)

        return load

    monkeypatch.setattr(model_file, "load_model", counted("model", model_file.load_model))
    load_encoder = counted("encoder", encoder_module.load_encoder)
    monkeypatch.setattr(encoder_module, "load_encoder", load_encoder)
    return loaded


@pytest.fixture
def copied(site, tmp_path):
    path = tmp_path / "model.safetensors"
    shutil.copy(site.model, path)
    return path


def test_the_second_time_nothing_is_loaded_or_even_opened(site, loads, monkeypatch):
    cache = ModelCache()
    first = cache.load(site.model, "cpu")
    assert cache.reused == NEITHER
    assert loads == ["model", "encoder"]

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a file was opened")

    monkeypatch.setattr("builtins.open", opened)
    monkeypatch.setattr("pathlib.Path.open", opened)
    monkeypatch.setattr(loading.registry, "recall", opened)
    again = cache.load(site.model, "cpu")
    assert (again.network, again.encoder) == (first.network, first.encoder)
    assert cache.reused == BOTH
    assert loads == ["model", "encoder"]


def test_a_model_file_that_was_written_again_is_loaded_again(copied, loads):
    cache = ModelCache()
    first = cache.load(copied, "cpu")
    for _ in range(2):
        stat = copied.stat()
        os.utime(copied, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        assert cache.load(copied, "cpu").network is not first.network
        assert cache.reused == {"model": False, "encoder": True}
    cache.load(copied, "cpu")
    assert cache.reused == BOTH
    assert loads == ["model", "encoder", "model", "model"]


def test_a_model_that_is_gone_or_damaged_is_not_kept(copied, loads):
    cache = ModelCache()
    cache.load(copied, "cpu")
    change_byte(copied)
    for _ in range(2):
        with pytest.raises(ModelError, match="not as it was written"):
            cache.load(copied, "cpu")
    copied.unlink()
    for _ in range(2):
        with pytest.raises(ModelError):
            cache.load(copied, "cpu")
    assert loads.count("model") == 5


def test_another_model_releases_the_old_one_and_keeps_their_common_encoder(site, copied):
    cache = ModelCache()
    for path in (site.model, copied, site.model):
        cache.load(path, "cpu")
        assert cache.reused["model"] is False
    assert cache.reused["encoder"] is True


def test_another_device_releases_both(site, monkeypatch):
    def load_model_encoder(card, source, device, allow_download):
        return SimpleNamespace(card=card.encoder, device=device)

    devices = {"cpu": torch.device("cpu"), "mps": torch.device("meta")}
    monkeypatch.setattr(model_cache, "resolve_device", lambda device: devices[device.value])
    monkeypatch.setattr(model_cache, "load_model_encoder", load_model_encoder)
    monkeypatch.setattr(model_cache.Model, "__init__", no_check)
    cache = ModelCache()
    for name in ("cpu", "mps", "cpu"):
        model = cache.load(site.model, name)
        assert (model.network.device, model.encoder.device) == (devices[name], devices[name])
        assert cache.reused == NEITHER


def no_check(self, card, network, encoder):
    """Set the fields of a `Model` without the tests' check of their types."""
    for name, value in {"card": card, "network": network, "encoder": encoder}.items():
        object.__setattr__(self, name, value)


def test_an_encoder_that_is_named_is_the_one_that_is_used(site, tmp_path):
    cache = ModelCache()
    for expected in (NEITHER, BOTH):
        cache.load(site.model, "cpu", encoder="demonstration")
        assert cache.reused == expected
    cache.load(site.model, "cpu")
    assert cache.reused == BOTH
    with pytest.raises(EncoderError) as caught:
        cache.load(site.model, "cpu", encoder=str(tmp_path / "missing"))
    assert caught.value.code == "encoder-missing"
    cache.load(site.model, "cpu")
    assert cache.reused == {"model": True, "encoder": False}


def test_after_a_release_nothing_is_kept(site):
    cache = ModelCache()
    cache.load(site.model, "cpu")
    cache.release()
    cache.load(site.model, "cpu")
    assert cache.reused == NEITHER


def test_the_command_line_verifies_what_it_uses(site, copied, tmp_path):
    change_byte(copied)
    result = run("detect", site.normals[0], "--model", copied, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "not as it was written" in result.stderr


def test_the_models_of_the_worker_can_be_released(site):
    MODELS.load(site.model, "cpu")
    release_models()
    MODELS.load(site.model, "cpu")
    assert MODELS.reused == NEITHER
    release_models()
