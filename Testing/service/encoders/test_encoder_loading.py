"""What an encoder's source may be: a path, or a hub id in the cache of this machine.

Downloads are in `test_encoder_hub.py`.
"""

import errno
import socket
import sys

import pytest
import torch
from engine import dinov3_examples as examples
from service.loopback_hub import COMMIT
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder as load_engine_encoder
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.service.encoders import loading


def load_encoder(source, allow_download=False):
    return loading.load_encoder(source, device="cpu", allow_download=allow_download)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return examples.save_transformers(examples.vit(), tmp_path_factory.mktemp("saved") / "vit")


@pytest.fixture(scope="module")
def tokens(folder):
    return load_engine_encoder(str(folder)).embed(examples.images())


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever connects or asks for an address fails, and is counted."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError(errno.ENETUNREACH, "no network in tests")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty cache folder of the hub."""
    cache = tmp_path / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    return cache


def put_into_cache(cache, hub_id, files):
    """Files laid out as huggingface_hub does: blobs, links in a snapshot, a reference."""
    repository = cache / ("models--" + hub_id.replace("/", "--"))
    snapshot = repository / "snapshots" / COMMIT
    for path in (snapshot, repository / "blobs", repository / "refs"):
        path.mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for number, (name, content) in enumerate(files.items()):
        blob = repository / "blobs" / f"{number:040}"
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def failure(source, **options):
    with pytest.raises(EncoderError) as caught:
        load_encoder(source, **options)
    return caught.value


def test_relative_path_wins_over_the_hub(folder, tokens, tmp_path, monkeypatch):
    examples.write(examples.file_tensors(folder), tmp_path / "owner" / "name" / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder("owner/name")
    assert encoder.card.name == "name"
    assert torch.equal(encoder.embed(examples.images()), tokens)
    monkeypatch.chdir(tmp_path / "owner" / "name")
    assert load_encoder(".").card.name == "name"


@pytest.mark.parametrize(
    "source",
    [
        "{tmp}/private place/vits16",
        "./vits16",
        "../vits16",
        "~/no-such-folder-here/vits16",
        "some/deep/vits16",
        "C:\\private place\\vits16",
        "weights\\vits16",
    ],
)
def test_path_that_does_not_exist(source, tmp_path, no_network):
    error = failure(source.format(tmp=tmp_path), allow_download=True)
    assert error.code == "encoder-missing"
    assert error.message == (
        "There is no 'vits16' on this machine, and it is not a hub id 'owner/name'."
    )
    assert not no_network


@pytest.mark.parametrize("source", ["vits16.safetensors", "owner/vits16.pth"])
def test_file_name_is_no_hub_id(source, no_network):
    assert failure(source, allow_download=True).code == "encoder-missing"
    assert not no_network


@pytest.mark.parametrize("source", ["dinov3_vits16", "two words/name"])
def test_name_that_is_nothing(source, no_network):
    error = failure(source, allow_download=True)
    assert error.code == "encoder-missing"
    assert "it is not a hub id 'owner/name'" in error.message
    assert not no_network


def test_huggingface_hub_is_not_needed(folder, hub_cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    put_into_cache(hub_cache, "owner/name", contents(folder))
    assert load_encoder("owner/name").card.name == "owner/name"


def test_hub_cache_needs_no_network(folder, tokens, hub_cache, no_network):
    put_into_cache(hub_cache, "facebook/dinov3-tiny", contents(folder))
    encoder = load_encoder("facebook/dinov3-tiny")
    assert torch.equal(encoder.embed(examples.images()), tokens)
    assert (encoder.card.name, encoder.card.revision) == ("facebook/dinov3-tiny", COMMIT)
    assert not no_network


def test_hub_cache_with_shards(folder, tokens, hub_cache, no_network, tmp_path):
    put_into_cache(hub_cache, "a/b", contents(examples.shard(folder, tmp_path / "sharded")))
    assert torch.equal(load_encoder("a/b").embed(examples.images()), tokens)
    assert not no_network


def test_hub_cache_with_timm_names(folder, tokens, hub_cache, no_network, tmp_path):
    file = examples.write(
        examples.as_timm_vit(examples.file_tensors(folder)), tmp_path / "model.safetensors"
    )
    configuration = b'{"architecture": "vit_small_patch16_dinov3"}'
    put_into_cache(
        hub_cache, "timm/x", {"model.safetensors": file.read_bytes(), "config.json": configuration}
    )
    encoder = load_encoder("timm/x")
    assert torch.equal(encoder.embed(examples.images()), tokens)
    assert encoder.card.weights_sha256 == load_encoder(str(folder)).card.weights_sha256
    assert not no_network


@pytest.mark.parametrize(
    "there", [[], ["config.json"], ["config.json", "model.safetensors.index.json"]]
)
def test_hub_id_that_is_not_local(there, folder, hub_cache, no_network, tmp_path):
    files = contents(examples.shard(folder, tmp_path / "sharded"))
    put_into_cache(hub_cache, "owner/name", {name: files[name] for name in there})
    error = failure("owner/name")
    assert error.code == "encoder-not-local"
    assert error.message == (
        "The weights of 'owner/name' are not on this machine, and nothing is downloaded without "
        "permission."
    )
    assert not no_network
