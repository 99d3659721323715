"""Whether a model's encoder is on this machine, told from the disk alone."""

import dataclasses
import json
from pathlib import Path

import pytest
from engine.model_examples import CARD
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.encoders.catalog import (
    EncoderPresence,
    EncoderState,
    encoder_presence,
)
from SpatialARAnomalyLib.service.encoders.library import list_encoders
from SpatialARAnomalyLib.service.encoders.loading import load_encoder

HUB_ID = "timm/vit_small_patch16_dinov3.lvd1689m"
COMMIT, NEWER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The hub's cache and this user's settings, empty."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(tmp_path / "settings"))
    return tmp_path / "hub"


def card(name: str, **values):
    return dataclasses.replace(CARD.encoder, name=name, **values)


def fetched(cache: Path, commit: str = COMMIT, newest: bool = True, shards: int = 0) -> Path:
    """A snapshot as the hub's package leaves it."""
    folder = cache / "models--timm--vit_small_patch16_dinov3.lvd1689m"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir(exist_ok=True)
    names = ["config.json", "model.safetensors"]
    if shards:
        parts = [f"model-{number}.safetensors" for number in range(shards)]
        names = ["config.json", "model.safetensors.index.json", *parts]
    for name in names:
        text = "{}"
        if name.endswith("index.json"):
            text = json.dumps({"weight_map": {str(i): one for i, one in enumerate(parts)}})
        (folder / "blobs" / name).write_text(text)
        (snapshot / name).symlink_to(folder / "blobs" / name)
    if newest:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)
    return snapshot


def test_the_embedded_encoder_is_always_here():
    found = encoder_presence(card("demonstration"))
    assert (found.state, found.here) == (EncoderState.EMBEDDED, True)


@pytest.mark.parametrize("shards", [0, 3])
def test_what_was_fetched_is_present(cache, shards):
    assert encoder_presence(card(HUB_ID)).state is EncoderState.OBTAINABLE
    fetched(cache, shards=shards)
    assert encoder_presence(card(HUB_ID)) == EncoderPresence(EncoderState.PRESENT, HUB_ID)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["name", "content"])
def test_half_of_a_download_is_not_present(cache, lost, how):
    snapshot = fetched(cache)
    (snapshot / lost if how == "name" else (snapshot / lost).resolve()).unlink()
    found = encoder_presence(card(HUB_ID))
    assert (found.state, found.here, found.hub_id) == (EncoderState.OBTAINABLE, False, HUB_ID)


@pytest.mark.parametrize(
    "index", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": "../config.json"}}']
)
def test_an_index_that_is_none_or_leads_away_makes_nothing_present(cache, index):
    snapshot = fetched(cache, shards=2)
    (snapshot / "model.safetensors.index.json").write_text(index)
    assert encoder_presence(card(HUB_ID)).state is EncoderState.OBTAINABLE


def test_a_shard_that_is_missing_is_missed(cache):
    (fetched(cache, shards=2) / "model-1.safetensors").unlink()
    assert encoder_presence(card(HUB_ID)).state is EncoderState.OBTAINABLE


def test_the_newest_that_was_fetched_counts_as_for_a_detection(cache):
    fetched(cache, COMMIT, newest=False)
    assert encoder_presence(card(HUB_ID, revision=COMMIT)).state is EncoderState.OBTAINABLE
    fetched(cache, NEWER)
    assert encoder_presence(card(HUB_ID)).state is EncoderState.PRESENT


def test_what_was_used_before_is_present_as_long_as_it_is_there(tmp_path):
    weights = tmp_path / "weights of ours.safetensors"
    weights.touch()
    local = card(weights.name)
    assert encoder_presence(local).state is EncoderState.MISSING
    registry.remember(local.weights_sha256, str(weights))
    assert encoder_presence(local).state is EncoderState.PRESENT
    assert encoder_presence(card(HUB_ID)) == EncoderPresence(EncoderState.PRESENT, HUB_ID)
    weights.unlink()
    assert encoder_presence(local).state is EncoderState.MISSING
    assert encoder_presence(card(HUB_ID)).state is EncoderState.OBTAINABLE


def test_a_hub_id_that_was_used_before_tells_where_it_can_be_had(cache):
    local = card("copied")
    registry.remember(local.weights_sha256, HUB_ID)
    assert encoder_presence(local) == EncoderPresence(EncoderState.OBTAINABLE, HUB_ID)
    fetched(cache)
    assert encoder_presence(local) == EncoderPresence(EncoderState.PRESENT, HUB_ID)


@pytest.mark.parametrize(
    "name", ["a", "a/b/c", "../x", "/etc/passwd", "a/b\n", "", "C:/x", "a/ b", "a\\b", "~/x"]
)
def test_names_that_are_no_ids_lead_nowhere(name):
    assert encoder_presence(card(name)).state is EncoderState.MISSING


@pytest.mark.parametrize("place", ["/" + "n" * 300, "/a\0b"])
def test_a_place_that_the_system_refuses_to_look_at_is_none(place):
    """As of a network drive whose folders may not be searched any more."""
    sha256 = CARD.encoder.weights_sha256
    registry._change(lambda _: {sha256: place})
    assert registry.recall(sha256) is None
    assert encoder_presence(card("vits16")).state is EncoderState.MISSING
    assert all(entry.source != place for entry in list_encoders())
    with pytest.raises(EncoderError) as caught:
        load_encoder(place, device="cpu", allow_download=False)
    assert caught.value.code == "encoder-missing"
