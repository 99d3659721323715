"""A model on disk is complete, unchanged and readable everywhere, or refused in words."""

import copy
import dataclasses
import errno
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from engine.model_examples import CARD, CHANNELS, small_model
from SpatialARAnomalyLib.engine.errors import (
    ModelError,
    OutputError,
)
from SpatialARAnomalyLib.engine.model import model_file
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.model.model_file import (
    ModelCard,
    check_free,
    copy_model,
    load_model,
    model_path,
    read_card,
    save_model,
    tensor_shapes,
    verify_model,
)
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    Preset,
)

READERS = (read_card, verify_model, load_model)
START = b'{"__metadata__":{"digest":"'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A saved model."""
    path = tmp_path / "brain.safetensors"
    save_model(path, CARD, small_model())
    return path


def parts(file: Path) -> tuple[dict, dict, bytes]:
    """Card, header without metadata, and tensor bytes of a model file."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    card = json.loads(header.pop("__metadata__")["card"])
    return card, header, content[end:]


def write_signed(file: Path, card: object, header: dict, tensors: bytes) -> None:
    """Write a model file as another program that knows the format would."""
    text = card if isinstance(card, str) else json.dumps(card)
    metadata = {"__metadata__": {"digest": "0" * 64, "card": text}}
    content = json.dumps(metadata | header, separators=(",", ":")).encode()
    zeros = len(content).to_bytes(8, "little") + content
    digest = hashlib.sha256(zeros).hexdigest().encode()
    file.write_bytes(zeros.replace(b"0" * 64, digest, 1) + tensors)


def change(file: Path, **values: object) -> None:
    """Change values of the card, and its digest with them."""
    card, header, tensors = parts(file)
    write_signed(file, card | values, header, tensors)


def write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the tensors, and their hash on the card with them."""
    plain = safetensors.torch.save(dict(sorted(tensors.items())))
    end = 8 + int.from_bytes(plain[:8], "little")
    card = parts(file)[0] | {"weights_sha256": hashlib.sha256(plain[end:]).hexdigest()}
    write_signed(file, card, json.loads(plain[8:end]), plain[end:])


def refusal(file: Path, readers=READERS) -> ModelError:
    """The one error that all readers raise."""
    errors = []
    for reader in readers:
        with pytest.raises(ModelError) as caught:
            reader(file)
        errors.append(caught.value)
    assert len({(error.code, error.message) for error in errors}) == 1
    assert str(file.parent) not in str(errors[0])
    return errors[0]


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# What is saved


def test_a_model_comes_back_to_the_bit(file):
    model = small_model()
    card, again = load_model(file)
    assert card == dataclasses.replace(CARD, weights_sha256=card.weights_sha256)
    assert card == read_card(file) == verify_model(file)
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
    random_numbers = torch.Generator().manual_seed(0)
    model.variance.copy_(torch.rand(len(model.variance), generator=random_numbers) + 0.1)
    save_model(tmp_path / "model", card, model)
    _, again = load_model(tmp_path / "model")
    tokens = torch.randn(3, CHANNELS, 5, 6, generator=random_numbers)
    assert torch.equal(again.nll(tokens), model.nll(tokens))
    assert again.lowest_nll == model.lowest_nll
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert tensor_shapes(card) == shapes
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_the_safetensors_package_reads_it(file):
    assert safetensors.torch.load_file(file).keys() == small_model().state_dict().keys()
    for name, tensor in small_model().state_dict().items():
        assert torch.equal(safetensors.torch.load_file(file)[name], tensor), name
    with safetensors.safe_open(file, framework="numpy") as opened:
        assert json.loads(opened.metadata()["card"]) == read_card(file).to_dict()


def test_the_format_is_as_documented(file):
    """Written again from its parts by `write_signed`, a program of its own, it is accepted."""
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    assert content[8:].startswith(START)
    assert content[8 : 8 + length].isascii()
    card, header, tensors = parts(file)
    assert list(header) == sorted(header)
    assert card["weights_sha256"] == hashlib.sha256(tensors).hexdigest()
    assert card["schema"] == 2
    assert card["autoregressive"]["dilations"] == [1, 2]
    write_signed(file, dict(reversed(card.items())), header, tensors)
    assert verify_model(file) == ModelCard.from_dict(card)


def test_saving_returns_the_card_that_is_on_disk(file):
    card = save_model(file, CARD, small_model(1))
    assert card == read_card(file)
    assert card.weights_sha256 == hashlib.sha256(parts(file)[2]).hexdigest()


def test_the_same_model_is_the_same_bytes(file, tmp_path):
    again, other = tmp_path / "again.safetensors", tmp_path / "other.safetensors"
    save_model(again, CARD, small_model())
    assert again.read_bytes() == file.read_bytes()
    save_model(other, CARD, small_model(1))
    assert other.read_bytes() != file.read_bytes()


def test_a_model_is_one_file_without_pickle_or_path(file, tmp_path):
    assert os.listdir(tmp_path) == ["brain.safetensors"]
    content = file.read_bytes()
    assert str(tmp_path).encode() not in content
    assert b"__reduce__" not in content


@pytest.mark.parametrize("name", ["Gehirn Größe", "脳モデル", "مخ", "a" * 243])
def test_any_name_that_every_system_can_hold_is_kept(tmp_path, name):
    card = save_model(tmp_path / name, dataclasses.replace(CARD, name=name), small_model())
    assert card.name == name
    assert load_model(tmp_path / name)[0] == card


def test_the_suffix_may_be_left_out(file, tmp_path):
    assert read_card(tmp_path / "brain") == read_card(file)
    (tmp_path / "brain").mkdir()
    assert load_model(tmp_path / "brain")[0] == read_card(file)
    assert model_path(Path("v1.2")) == Path("v1.2.safetensors")
    assert model_path(model_path(Path("a") / "v1.2")) == Path("a") / "v1.2.safetensors"


def test_parents_are_made(tmp_path):
    save_model(tmp_path / "a" / "b" / "model", CARD, small_model())
    assert verify_model(tmp_path / "a" / "b" / "model.safetensors").name == CARD.name


# What is read


def test_every_changed_byte_of_a_header_is_found_by_the_card_alone(file):
    """In white space, in the 17th digit of a figure, in the digest, in the length: anywhere."""
    for name in ("a", "ab"):  # one of them is padded
        save_model(file, dataclasses.replace(CARD, name=name), small_model())
        content = file.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        spaces = len(content[:end]) - len(content[:end].rstrip())
        if spaces:
            break
    assert spaces > 0
    dice = random.Random(0)
    places = {*range(120), *range(end - 100, end), *dice.sample(range(end), 200)}
    codes = set()
    for place in sorted(places):
        changed = bytearray(content)
        changed[place] ^= 1 << dice.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(ModelError) as caught:
            read_card(file)
        codes.add(caught.value.code)
    assert codes == {"model-file", "model-damaged", "model-tampered"}


def test_a_changed_digit_that_is_read_as_the_same_figure_is_found(file):
    content = file.read_bytes()
    figures = (found[0] for found in re.finditer(rb"\d\.\d{16}(?!\d)", content))
    pairs = ((one, one[:-1] + digit) for one in figures for digit in (b"0", b"1", b"8", b"9"))
    one, other = next(pair for pair in pairs if len({*pair}) == 2 and len({*map(float, pair)}) == 1)
    file.write_bytes(content.replace(one, other))
    assert refusal(file).code == "model-tampered"


def test_every_changed_byte_of_the_tensors_is_found(file):
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    dice = random.Random(0)
    for place in (start, *dice.sample(range(start, len(content)), 20), len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1 << dice.randrange(8)
        file.write_bytes(changed)
        error = refusal(file, (verify_model, load_model))
        assert error.code == "model-tampered"
        assert "SHA-256 of its tensors" in error.message
    assert read_card(file).name == CARD.name  # which does not read them


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(CARD)])
def test_every_field_of_the_card_is_covered(file, field):
    card = parts(file)[0]
    text = json.dumps(card, separators=(",", ":"))
    other = copy.deepcopy(card)
    other[field] = {"changed": True}
    content = file.read_bytes()
    changed = content.replace(
        json.dumps(text).encode(), json.dumps(json.dumps(other, separators=(",", ":"))).encode()
    )
    assert changed != content
    length = int.from_bytes(content[:8], "little") + len(changed) - len(content)
    file.write_bytes(length.to_bytes(8, "little") + changed[8:])
    assert refusal(file).code == ("model-damaged" if field == "schema" else "model-tampered")


@pytest.mark.parametrize("kept", [0, 7, 8, 30, 120, 3000, -5000, -1])
def test_a_file_cut_anywhere_is_refused(file, kept):
    content = file.read_bytes()
    file.write_bytes(content[:kept])
    error = refusal(file)
    assert error.code == ("model-file" if 0 <= kept < 35 else "model-damaged")


def test_a_file_that_goes_on_is_refused(file):
    file.write_bytes(file.read_bytes() + b"more")
    error = refusal(file)
    assert error.code == "model-damaged"
    assert "bytes; it has" in error.message


@pytest.mark.parametrize("length", [0, 90, 1 << 32, (1 << 63) + 8, (1 << 64) - 1])
def test_a_length_that_is_wrong_takes_no_memory(file, length, monkeypatch):
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    read, asked = model_file._read, []
    monkeypatch.setattr(
        model_file, "_read", lambda opened, size: asked.append(size) or read(opened, size)
    )
    error = refusal(file)
    assert error.code == "model-damaged"
    assert "length" in error.message
    assert max(asked) < 100


def test_a_header_of_endless_length_is_not_read(file, monkeypatch):
    monkeypatch.setattr(model_file, "MAX_HEADER_BYTES", 2000)
    assert "its length is wrong" in refusal(file).message


def test_what_is_not_there_is_told(tmp_path):
    error = refusal(tmp_path / "nowhere")
    assert error.code == "model-missing"
    assert error.message == "There is no model file 'nowhere.safetensors'."


def test_a_folder_is_no_model(tmp_path):
    (tmp_path / "brain.safetensors").mkdir()
    error = refusal(tmp_path / "brain")
    assert (error.code, error.message) == (
        "model-unreadable",
        "The model file cannot be read (not a file).",
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert refusal(tmp_path / "pipe").code == "model-unreadable"


def test_a_disk_that_fails_is_told(file, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", str(file))

    monkeypatch.setattr(model_file.json, "loads", fail)
    monkeypatch.setattr(Path, "open", fail)
    assert "Input/output error" in refusal(file).message


@pytest.mark.parametrize(
    "content", [b"", b"PK\3\4" * 9, b"\x80\x04\xfe\xff" * 9, b"years of work" * 99, b"\0" * 4096]
)
def test_another_file_is_no_model(file, content):
    file.write_bytes(content)
    assert refusal(file).code == "model-file"


def test_weights_of_something_else_are_no_model(file):
    safetensors.torch.save_file({"a": torch.ones(3)}, file, metadata={"format": "pt"})
    error = refusal(file)
    assert error.code == "model-file"
    assert error.message.startswith("The file is not a model of SpatialARAnomaly")


def test_a_newer_schema_asks_for_an_update(file):
    change(file, schema=3, new_key="new")
    error = refusal(file)
    assert error.code == "model-newer"
    assert error.message == "This program reads models up to schema 2; this one has schema 3."


@pytest.mark.parametrize("schema", [1, 0])
def test_a_model_of_an_earlier_version_must_be_trained_again(file, schema):
    """Its network was another one."""
    change(file, schema=schema, autoregressive={"whitened": True})
    error = refusal(file)
    assert error.code == "model-older"
    assert error.message == (
        f"This program reads models of schema 2; this one has schema {schema}, of an earlier "
        "version with other networks."
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"colour": "red"}, "its card is not valid: ModelCard has no key colour;"),
        ({"modality": "PET"}, "ModelCard.modality must be one of MR, CT; found 'PET'."),
        ({"best_epoch": 1.5}, "ModelCard.best_epoch must be int; found 1.5."),
        ({"best_epoch": 9}, "best_epoch must be one of the curve"),
    ],
)
def test_a_signed_card_must_be_valid_all_the_same(file, values, message):
    change(file, **values)
    error = refusal(file)
    assert error.code == "model-damaged"
    assert message in error.message


def test_a_signed_card_that_lacks_something_is_refused(file):
    card, header, tensors = parts(file)
    del card["calibration"], card["notice"]
    write_signed(file, card, header, tensors)
    assert refusal(file).message.endswith("ModelCard lacks calibration, notice.")


@pytest.mark.parametrize(
    "card",
    [
        "", "{", "[1, 2]", '"schema"', "5", "null", "{}", '{"schema": "1"}', '{"schema": true}',
        '{"schema": 1.0}', "[" * 100_000, '{"schema": 1} trailing',
    ],
)  # fmt: skip
def test_what_is_no_card_is_refused(file, card):
    _, header, tensors = parts(file)
    write_signed(file, card, header, tensors)
    error = refusal(file)
    assert error.code == "model-damaged"
    assert "not the JSON of a model" in error.message


@pytest.mark.parametrize("what", ["wider", "more", "fewer", "renamed", "half precision", "moved"])
def test_signed_tensors_must_fit_the_card(file, what):
    tensors = small_model().state_dict()
    if what == "wider":
        tensors["variance"] = torch.ones(3)
    elif what == "more":
        tensors["branches.0.9.bias"] = torch.ones(3)
    elif what == "half precision":
        tensors = {name: value.half() for name, value in tensors.items()}
    elif what != "moved":
        tensor = tensors.pop("branches.0.0.bias")
        if what == "renamed":
            tensors["branches.0.0.offset"] = tensor
    write_tensors(file, tensors)
    if what == "moved":
        card, header, content = parts(file)
        header["variance"]["data_offsets"] = [0, 4 * 2]
        write_signed(file, card, header, content)
    error = refusal(file)
    assert error.code == "model-damaged"
    assert "its tensors do not fit the network" in error.message


def test_a_card_of_an_absurd_network_is_refused_before_it_is_built(file):
    change(file, autoregressive=parts(file)[0]["autoregressive"] | {"hidden_channels": 10**12})
    assert refusal(file).code == "model-damaged"


# Copies and other names


def test_a_copy_is_the_same_bytes(file, tmp_path):
    card = copy_model(file, tmp_path / "copy.safetensors")
    assert card == read_card(file)
    assert (tmp_path / "copy.safetensors").read_bytes() == file.read_bytes()


def test_another_name_changes_the_header_only(file, tmp_path):
    before, tensors = read_card(file), parts(file)[2]
    card = copy_model(file, tmp_path / "x.safetensors", name="x")
    assert card == dataclasses.replace(before, name="x") == verify_model(tmp_path / "x")
    assert card.weights_sha256 == before.weights_sha256
    assert parts(tmp_path / "x.safetensors")[2] == tensors
    content = file.read_bytes()
    copy_model(file, file, name="y")
    copy_model(file, file, name=CARD.name)
    assert file.read_bytes() == content


def test_a_source_is_closed_before_it_is_replaced(file, monkeypatch):
    """Windows would refuse it."""
    path_open, replace, opened, closed = Path.open, os.replace, [], []

    def opening(path: Path, mode: str):
        file = path_open(path, mode)
        if "lock" not in path.name:  # no other program opens that one
            opened.append(file)
        return file

    def replacing(*paths: Path) -> None:
        closed.extend(one.closed for one in opened)
        replace(*paths)

    monkeypatch.setattr(Path, "open", opening)
    monkeypatch.setattr(os, "replace", replacing)
    copy_model(file, file, name="x")
    assert len(closed) == 2
    assert all(closed)


def test_a_damaged_model_is_not_copied(file, tmp_path):
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    before = listing(tmp_path)
    for target in (file, tmp_path / "copy.safetensors"):
        with pytest.raises(ModelError) as caught:
            copy_model(file, target, name="x")
        assert caught.value.code == "model-tampered"
        assert listing(tmp_path) == before
    assert os.listdir(tmp_path) == ["brain.safetensors"]


# Where it is saved


def test_a_free_name_is_free(tmp_path, file):
    check_free(tmp_path / "new", overwrite=False)
    check_free(tmp_path / "a" / "b", overwrite=False)
    check_free(file, overwrite=True)
    (tmp_path / "folder").mkdir()
    check_free(tmp_path / "folder", overwrite=False)


def test_a_taken_name_is_told(tmp_path, file):
    for path in (file, tmp_path / "brain"):
        with pytest.raises(OutputError) as caught:
            check_free(path, overwrite=False)
        assert caught.value.code == "output-exists"
        assert caught.value.message == "'brain.safetensors' exists already."


def test_what_a_killed_save_left_is_removed_by_a_later_one(file, tmp_path):
    left = tmp_path / ".partial-killed"
    left.mkdir()
    (left / "new").write_bytes(b"half")
    for one in (left / "new", left):
        os.utime(one, (0, 0))
    save_model(file, CARD, small_model())
    assert os.listdir(tmp_path) == ["brain.safetensors"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_killed_change_leaves_the_model_as_it_was(file, tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from SpatialARAnomalyLib.engine.model import model_file
model_file.sync = lambda path: os.kill(os.getpid(), signal.SIGKILL)
model_file.copy_model(Path(sys.argv[1]), Path(sys.argv[1]), name="x")
"""
    before, library = file.read_bytes(), Path(model_file.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)],
        env=os.environ | {"PYTHONPATH": str(library)},
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert file.read_bytes() == before
    (left,) = (one for one in tmp_path.iterdir() if one != file)
    assert left.name.startswith(".partial-")


@pytest.mark.parametrize("kind", ["file", "folder", "weights", "dangling link"])
def test_what_is_no_model_is_never_replaced(tmp_path, kind):
    path = tmp_path / "thesis.safetensors"
    if kind == "file":
        path.write_text("years of work")
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "weights":
        safetensors.torch.save_file({"a": torch.ones(3)}, path)
    else:
        path.mkdir()
    before = listing(tmp_path)
    for attempt in (
        lambda: check_free(path, overwrite=True),
        lambda: save_model(path, CARD, small_model()),
    ):
        with pytest.raises(OutputError) as caught:
            attempt()
        assert caught.value.code == "output-not-a-model"
        assert "'thesis.safetensors' exists and is not a model" in caught.value.message
    assert listing(tmp_path) == before
    assert os.listdir(tmp_path) == ["thesis.safetensors"]


@pytest.mark.parametrize("damaged", [False, True])
def test_a_model_replaces_a_model(file, tmp_path, damaged):
    if damaged:
        file.write_bytes(file.read_bytes()[:300])
    model = small_model(5)
    save_model(file, dataclasses.replace(CARD, name="second"), model)
    card, again = load_model(file)
    assert card.name == "second"
    assert torch.equal(again.variance, model.variance)
    assert os.listdir(tmp_path) == ["brain.safetensors"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
@pytest.mark.parametrize("moment", ["folder", "file", "flush", "new in"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failed_save_changes_nothing(file, tmp_path, monkeypatch, error, moment, exists):
    target = file if exists else tmp_path / "other"
    before = listing(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise error

    where, what = {
        "folder": (tempfile, "TemporaryDirectory"),
        "file": (model_file, "remove_stale_partials"),
        "flush": (os, "fsync"),
        "new in": (os, "replace"),
    }[moment]
    if moment == "file":
        path_open = Path.open
        monkeypatch.setattr(
            Path, "open", lambda path, mode: fail() if "x" in mode else path_open(path, mode)
        )
    else:
        monkeypatch.setattr(where, what, fail)
    expected = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        save_model(target, dataclasses.replace(CARD, name="second"), small_model(5))
    monkeypatch.undo()
    assert listing(tmp_path) == before
    assert os.listdir(tmp_path) == ["brain.safetensors"]
    assert read_card(file).name == CARD.name
    if isinstance(caught.value, OutputError):
        assert caught.value.code == "output-unwritable"
        assert caught.value.message == "The model cannot be written (No space left)."


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="The model cannot be written") as caught:
        save_model(tmp_path / "file" / "model", CARD, small_model())
    assert str(tmp_path) not in str(caught.value)
    assert listing(tmp_path) == {"file": b"in the way"}
