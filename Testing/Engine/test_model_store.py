"""A model on disk is complete, unchanged and readable everywhere, or refused in words."""

import copy
import dataclasses
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from Engine.model_examples import CARD, CHANNELS, small_model
from SpatialARAnomalyLib.engine import model_store
from SpatialARAnomalyLib.engine.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.errors import ModelError, OutputError
from SpatialARAnomalyLib.engine.model_store import (
    check_free,
    load_model,
    read_card,
    save_model,
    tensor_shapes,
    verify_model,
)
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset

READERS = (read_card, verify_model, load_model)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model."""
    folder = tmp_path / "brain"
    save_model(folder, CARD, small_model())
    return folder


def content(folder: Path) -> dict:
    return json.loads((folder / "model.json").read_text(encoding="utf-8"))


def write_signed(folder: Path, card: dict) -> None:
    """Write a card as a program that knows the digest would."""
    card = {key: value for key, value in card.items() if key != "digest"}
    text = json.dumps(card, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "model.json").write_text(json.dumps(card | {"digest": digest}))


def write_weights(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """Replace the weights, and their hash in the card with them."""
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    write_signed(folder, content(folder) | {"weights_sha256": sha256})


def refusal(folder: Path, readers=READERS) -> ModelError:
    """The one error that all readers raise."""
    errors = []
    for reader in readers:
        with pytest.raises(ModelError) as caught:
            reader(folder)
        errors.append(caught.value)
    assert len({(error.code, error.message, error.hint) for error in errors}) == 1
    assert str(folder.parent) not in str(errors[0])
    return errors[0]


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# What is saved


def test_a_model_comes_back_to_the_bit(folder):
    model = small_model()
    card, again = load_model(folder)
    assert card == dataclasses.replace(CARD, weights_sha256=card.weights_sha256)
    assert card == read_card(folder) == verify_model(folder)
    assert not again.training
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    tokens = torch.randn(2, CHANNELS, 4, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again.nll(tokens), model.nll(tokens))
    assert again.nll(tokens).std() > 0


@pytest.mark.parametrize("preset", list(Preset))
def test_a_model_of_every_preset_comes_back_to_the_bit(tmp_path, preset):
    spec = AutoregressiveSpec.from_preset(preset)
    card = dataclasses.replace(CARD, autoregressive=spec)
    torch.manual_seed(0)
    model = AutoregressiveModel(spec, CHANNELS)
    random = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        noise = 0.3 * torch.rand(value.shape, generator=random)
        if not name.startswith(("net", "position")):
            value += noise.tril() if "whitener" in name else noise
    save_model(tmp_path / "model", card, model)
    _, again = load_model(tmp_path / "model")
    tokens = torch.randn(3, CHANNELS, 5, 6, generator=random)
    places = 2 * torch.rand(3, 4, 5, 6, generator=random) - 1
    assert torch.equal(again.nll(tokens, places), model.nll(tokens, places))
    assert again.lowest_nll == model.lowest_nll
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert tensor_shapes(card) == shapes


def test_a_model_made_before_there_were_switches_is_the_paper_s(tmp_path, folder):
    card = content(folder)
    for name in ("whitened", "position", "position_variance", "directions"):
        del card["autoregressive"][name]
    write_signed(folder, card)
    _, model = load_model(folder)
    assert model.spec == CARD.autoregressive
    assert not model.spec.uses_places
    tokens = torch.randn(2, CHANNELS, 4, 5)
    assert torch.equal(model.nll(tokens), small_model().nll(tokens))


def test_saving_returns_the_card_that_is_on_disk(folder):
    card = save_model(folder, CARD, small_model(1))
    assert card == read_card(folder)
    weights = (folder / "model.safetensors").read_bytes()
    assert card.weights_sha256 == hashlib.sha256(weights).hexdigest()


def test_two_saves_give_the_same_bytes(folder, tmp_path):
    save_model(tmp_path / "again", CARD, small_model())
    assert listing(tmp_path / "again") == listing(folder)
    save_model(tmp_path / "other", CARD, small_model(1))
    assert listing(tmp_path / "other") != listing(folder)


def test_a_model_is_two_files_without_pickle_or_path(folder, tmp_path):
    files = listing(tmp_path)
    assert sorted(files) == ["brain/model.json", "brain/model.safetensors"]
    assert set(safetensors.torch.load_file(folder / "model.safetensors")) == set(
        small_model().state_dict()
    )
    for one in files.values():
        assert str(tmp_path).encode() not in one
        assert b"__reduce__" not in one
        assert not one.startswith((b"PK", b"\x80"))


def test_the_card_is_readable_by_people_and_by_any_json_reader(folder):
    card = content(folder)
    assert card["schema"] == 1
    assert card["name"] == "brain-t1 Größe 脳"
    assert card["autoregressive"] == {
        "hidden_channels": 6,
        "dilations": [1, 2],
        "variance": "channel",
        "whitened": False,
        "position": False,
        "position_variance": False,
        "directions": 1,
    }
    text = (folder / "model.json").read_text(encoding="utf-8")
    assert text.isascii()
    assert text.count("\n") > 50


@pytest.mark.parametrize(
    "name", ["Gehirn Größe", "脳モデル", "مخ", "a" * 250, "undecodable \udce4"]
)
def test_any_name_is_kept(tmp_path, name):
    card = save_model(tmp_path / name, dataclasses.replace(CARD, name=name), small_model())
    assert card.name == name
    assert load_model(tmp_path / name)[0] == card


def test_parents_are_made(tmp_path):
    save_model(tmp_path / "a" / "b" / "model", CARD, small_model())
    assert verify_model(tmp_path / "a" / "b" / "model").name == CARD.name


# What is read


def leaves(value, path=()):
    """Path and value of every figure and word in a JSON document."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in pairs:
        if isinstance(one, dict | list):
            yield from leaves(one, (*path, key))
        else:
            yield (*path, key), one


def other(value):
    """A value of the same type that is not that one."""
    if value is None:
        return "main"
    return value + "x" if isinstance(value, str) else value + 1


def test_every_changed_figure_is_found(folder):
    original = content(folder)
    fields = [(path, value) for path, value in leaves(original) if path != ("schema",)]
    names = {path[0] for path, _ in fields}
    assert names == set(original) - {"schema"}
    for path, value in fields:
        tampered = copy.deepcopy(original)
        place = tampered
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = other(value)
        (folder / "model.json").write_text(json.dumps(tampered))
        with pytest.raises(ModelError) as caught:
            read_card(folder)
        assert caught.value.code == "model-tampered", path
        assert "does not match its digest" in caught.value.message


@pytest.mark.parametrize("key", ["digest", "calibration", "notice"])
def test_a_key_that_is_gone_is_found(folder, key):
    card = content(folder)
    del card[key]
    (folder / "model.json").write_text(json.dumps(card))
    assert refusal(folder).code == "model-tampered"


def test_another_layout_of_the_same_json_is_the_same_card(folder):
    card = read_card(folder)
    turned = dict(reversed(content(folder).items()))
    (folder / "model.json").write_text(json.dumps(turned, ensure_ascii=False), encoding="utf-8")
    assert read_card(folder) == card


@pytest.mark.parametrize("where", [20, 0.5, -1])
def test_a_flipped_bit_of_the_weights_is_found(folder, where):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[where if isinstance(where, int) else int(where * len(weights))] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    error = refusal(folder)
    assert error.code == "model-tampered"
    assert error.message.startswith("model.safetensors is not the trained one")


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_weights_are_found(folder, kept):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:kept])
    assert refusal(folder).code == "model-tampered"
    # Even if somebody signed them.
    sha256 = hashlib.sha256(weights[:kept]).hexdigest()
    write_signed(folder, content(folder) | {"weights_sha256": sha256})
    error = refusal(folder, (verify_model, load_model))
    assert error.code == "model-damaged"
    assert "do not fit the network" in error.message


def test_a_missing_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    error = refusal(folder)
    assert error.code == "model-damaged"
    assert error.message.startswith("The model lacks a readable model.safetensors (No such file")
    (folder / "model.json").unlink()
    error = refusal(folder)
    assert error.code == "model-missing"
    assert error.message == "Expected a model folder with model.json; found none."


def test_a_folder_that_is_not_there_is_told(tmp_path):
    error = refusal(tmp_path / "nowhere")
    assert error.code == "model-missing"
    assert "found none (no such folder)" in error.message
    assert error.hint == "Give the folder that `train --out` wrote."


def test_a_file_in_place_of_a_folder_is_no_model(folder):
    assert refusal(folder / "model.json").code == "model-missing"


def test_a_folder_in_place_of_the_card_cannot_be_read(folder):
    (folder / "model.json").unlink()
    (folder / "model.json").mkdir()
    error = refusal(folder)
    assert error.code == "model-unreadable"
    assert error.message == "model.json cannot be read (Is a directory)."


def test_a_newer_schema_asks_for_an_update(folder):
    card = content(folder) | {"schema": 2, "new_key": "new"}
    (folder / "model.json").write_text(json.dumps(card))
    error = refusal(folder)
    assert error.code == "model-newer"
    assert error.message == "This program reads models up to schema 1; this one has schema 2."
    assert error.hint == "Update SpatialARAnomaly."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "model.json is not valid: schema must be 1; found"),
        ({"colour": "red"}, "model.json is not valid: ModelCard does not know colour."),
        ({"modality": "PET"}, "ModelCard.modality must be one of MR, CT; found 'PET'."),
        ({"best_epoch": 1.5}, "ModelCard.best_epoch must be int; found 1.5."),
        ({"best_epoch": 9}, "best_epoch must be one of the curve"),
    ],
)
def test_a_signed_card_must_be_valid_all_the_same(folder, change, message):
    write_signed(folder, content(folder) | change)
    error = refusal(folder)
    assert error.code == "model-damaged"
    assert message in error.message


def test_a_signed_card_that_lacks_something_is_refused(folder):
    card = content(folder)
    del card["calibration"], card["notice"]
    write_signed(folder, card)
    assert refusal(folder).message.endswith("ModelCard lacks calibration, notice.")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        '"schema"',
        "5",
        "null",
        "{}",
        '{"schema": "1"}',
        '{"schema": true}',
        '{"schema": 1.0}',
        "[" * 100_000,
        '{"schema": 1} trailing',
    ],
)
def test_what_is_no_card_is_refused(folder, text):
    (folder / "model.json").write_text(text)
    error = refusal(folder)
    assert error.code == "model-damaged"
    assert error.message == "model.json is not the JSON object of a model."


def test_a_card_that_is_no_text_is_refused(folder):
    (folder / "model.json").write_bytes(b"\x80\x04\xfe\xff" * 9)
    assert refusal(folder).code == "model-damaged"


@pytest.mark.parametrize("change", ["wider", "more", "fewer", "renamed"])
def test_signed_weights_must_fit_the_card(folder, change):
    weights = small_model().state_dict()
    if change == "wider":
        weights["variance"] = torch.ones(CHANNELS + 1)
    elif change == "more":
        weights["net.9.bias"] = torch.ones(3)
    else:
        tensor = weights.pop("net.0.bias")
        if change == "renamed":
            weights["net.0.offset"] = tensor
    write_weights(folder, weights)
    assert read_card(folder).name == CARD.name
    error = refusal(folder, (verify_model, load_model))
    assert error.code == "model-damaged"
    assert error.message == (
        "The tensors of model.safetensors do not fit the network of model.json."
    )


def test_a_card_of_an_absurd_network_is_refused_before_it_is_built(folder):
    card = content(folder)
    card["autoregressive"]["hidden_channels"] = 10**12
    write_signed(folder, card)
    assert refusal(folder, (verify_model, load_model)).code == "model-damaged"


# Where it is saved


def test_a_free_name_is_free(tmp_path, folder):
    check_free(tmp_path / "new", overwrite=False)
    check_free(tmp_path / "a" / "b", overwrite=False)
    check_free(folder, overwrite=True)
    (tmp_path / "empty").mkdir()
    check_free(tmp_path / "empty", overwrite=True)


def test_a_taken_name_is_told(folder):
    with pytest.raises(OutputError) as caught:
        check_free(folder, overwrite=False)
    assert caught.value.code == "output-exists"
    assert caught.value.message == "The model folder 'brain' must not exist yet; it does."
    assert "--overwrite" in caught.value.hint


def test_a_folder_that_may_not_be_read_is_told(folder, monkeypatch):
    def forbidden(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(OutputError) as caught:
        check_free(folder, overwrite=True)
    assert caught.value.code == "output-unwritable"
    assert caught.value.message == (
        "The model folder 'brain' cannot be looked into (Permission denied)."
    )
    assert "Choose another name" in caught.value.hint


def test_what_a_killed_save_left_is_removed_by_a_later_one(folder, tmp_path):
    left = tmp_path / ".partial-killed"
    (left / "new").mkdir(parents=True)
    (left / "new" / "model.safetensors").write_bytes(b"half")
    for one in (left / "new", left):
        os.utime(one, (0, 0))
    save_model(folder, CARD, small_model())
    assert sorted(os.listdir(tmp_path)) == ["brain"]


@pytest.mark.parametrize("kind", ["file", "folder", "model with more", "dangling link"])
def test_what_is_no_model_is_never_replaced(tmp_path, kind):
    folder = tmp_path / "thesis"
    if kind == "file":
        folder.write_text("years of work")
    elif kind == "dangling link":
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        if kind == "model with more":
            save_model(folder, CARD, small_model())
        (folder / "chapter").mkdir(parents=True)
        (folder / "chapter" / "one.txt").write_text("years of work")
    before = listing(tmp_path)
    for attempt in (
        lambda: check_free(folder, overwrite=True),
        lambda: save_model(folder, CARD, small_model()),
    ):
        with pytest.raises(OutputError) as caught:
            attempt()
        assert caught.value.code == "output-not-a-model"
        assert "'thesis' exists and is not a model folder" in caught.value.message
    assert listing(tmp_path) == before
    assert sorted(os.listdir(tmp_path)) == ["thesis"]


def test_a_model_replaces_a_model(folder, tmp_path):
    model = small_model(5)
    save_model(folder, dataclasses.replace(CARD, name="second"), model)
    card, again = load_model(folder)
    assert card.name == "second"
    assert torch.equal(again.variance, model.variance)
    assert sorted(os.listdir(tmp_path)) == ["brain"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["weights", "card", "flush", "old away", "new in"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_save_changes_nothing(folder, tmp_path, monkeypatch, error, moment, exists):
    target = folder if exists else tmp_path / "other"
    before = listing(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise error

    if moment == "weights":
        monkeypatch.setattr(safetensors.torch, "save", fail)
    elif moment == "card":
        monkeypatch.setattr(Path, "write_text", fail)
    elif moment == "flush":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        replace, calls = os.replace, []

        def fails_at(source: Path, goal: Path) -> None:
            calls.append(goal)
            if len(calls) == (1 if moment == "old away" or not exists else 2):
                raise error
            replace(source, goal)

        monkeypatch.setattr(model_store.os, "replace", fails_at)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        save_model(target, dataclasses.replace(CARD, name="second"), small_model(5))
    monkeypatch.undo()
    assert listing(tmp_path) == before
    assert os.listdir(tmp_path) == ["brain"]
    assert read_card(folder).name == CARD.name
    if isinstance(caught.value, OutputError):
        assert caught.value.code == "output-unwritable"
        assert caught.value.message == "The model cannot be written (No space left)."
        assert "Free disk space" in caught.value.hint


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="The model cannot be written") as caught:
        save_model(tmp_path / "file" / "model", CARD, small_model())
    assert str(tmp_path) not in str(caught.value)
    assert listing(tmp_path) == {"file": b"in the way"}
