"""Reading weights from folders and files, and the errors where that cannot be done.

Hub ids are in `test_encoder_loading.py`.
"""

import json
import sys

import pytest
import torch
from engine import dinov3_examples as examples
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.errors import EncoderError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return examples.save_transformers(examples.vit(), tmp_path_factory.mktemp("saved") / "vit")


@pytest.fixture(scope="module")
def tokens(folder):
    return load_encoder(str(folder)).embed(examples.images())


def failure(source, **options):
    with pytest.raises(EncoderError) as caught:
        load_encoder(str(source), **options)
    return caught.value


# Files and folders


def test_shards(folder, tokens, tmp_path):
    encoder = load_encoder(str(examples.shard(folder, tmp_path / "sharded")))
    assert torch.equal(encoder.embed(examples.images()), tokens)
    assert encoder.card.weights_sha256 == load_encoder(str(folder)).card.weights_sha256


@pytest.mark.parametrize("name", ["weights.pth", "weights.pt", "pytorch_model.bin", "W.PTH"])
def test_pickles_are_not_read(name, tmp_path):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    for source in (tmp_path / name, tmp_path):
        if source == tmp_path and name == "W.PTH":
            continue
        error = failure(source)
        assert error.code == "encoder-format"
        assert error.message == (
            f"Weights must be in a .safetensors file; '{name}' is not read: it is a Python "
            "pickle, which can run any code when it is read."
        )


def test_other_formats_are_not_read(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    error = failure(tmp_path / "model.onnx")
    assert error.code == "encoder-format"
    assert "'model.onnx' is not read: its format is not known." in error.message


def test_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    error = failure(tmp_path)
    assert error.code == "encoder-missing"
    assert error.message == (
        f"The folder '{tmp_path.name}' holds neither model.safetensors nor "
        "model.safetensors.index.json."
    )


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_truncated_file(length, folder, tmp_path):
    file = tmp_path / "cut.safetensors"
    file.write_bytes((folder / "model.safetensors").read_bytes()[:length])
    error = failure(file)
    assert error.code == "encoder-damaged"
    assert error.message == "'cut.safetensors' is not a complete .safetensors file."
    assert str(tmp_path) not in str(error)


def test_git_lfs_pointer(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 86363992\n")
    error = failure(tmp_path)
    assert error.code == "encoder-lfs-pointer"
    assert "it is a Git LFS pointer to one." in error.message


def test_missing_shard(folder, tmp_path):
    sharded = examples.shard(folder, tmp_path / "sharded")
    (sharded / "model-00002-of-00002.safetensors").unlink()
    error = failure(sharded)
    assert error.code == "encoder-damaged"
    assert error.message == (
        "model.safetensors.index.json names 2 files; model-00002-of-00002.safetensors is missing."
    )


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": {}},
        {"weight_map": ["a"]},
        {"weight_map": {"a": 1}},
        {"weight_map": {"a": "../other/model.safetensors"}},
    ],
)
def test_index_that_is_none(index, tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    error = failure(tmp_path)
    assert error.code == "encoder-damaged"
    assert "must map tensors to files beside it, under 'weight_map'." in error.message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "'config.json' must hold a JSON object."),
        ("[" * 100_000, "'config.json' must hold a JSON object."),
        ("[]", "'config.json' must hold a JSON object."),
    ],
)
def test_damaged_configuration(text, said, folder, tmp_path):
    file = examples.write(examples.file_tensors(folder), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    error = failure(file.parent)
    assert (error.code, error.message) == ("encoder-damaged", said)


def with_configuration(folder, target, **changes):
    values = json.loads((folder / "config.json").read_text()) | changes
    file = examples.write(examples.file_tensors(folder), target / "model.safetensors")
    (target / "config.json").write_text(json.dumps(values))
    return file.parent


@pytest.mark.parametrize("model_type", ["dinov2", ["dinov3_vit"]])
def test_configuration_of_another_network(model_type, folder, tmp_path):
    error = failure(with_configuration(folder, tmp_path / "x", model_type=model_type))
    assert error.code == "encoder-architecture"
    assert error.message == (
        "Expected a DINOv3 (dinov3_vit or dinov3_convnext); the config.json of 'x' describes "
        f"model_type {model_type!r}."
    )


def test_configuration_of_the_other_dinov3(folder, tmp_path):
    error = failure(with_configuration(folder, tmp_path / "x", model_type="dinov3_convnext"))
    assert error.code == "encoder-architecture"
    assert "Expected the weights of a DINOv3ConvNext in 'x'" in error.message


def test_configuration_that_makes_no_network(folder, tmp_path):
    error = failure(with_configuration(folder, tmp_path / "x", hidden_size="wide"))
    assert error.code == "encoder-architecture"
    assert "The settings of 'x' do not make a DINOv3ViT (" in error.message


def test_heads_that_do_not_part_the_channels(folder, tmp_path):
    error = failure(with_configuration(folder, tmp_path / "x", num_attention_heads=3))
    assert error.code == "encoder-architecture"


def test_configuration_of_another_size(folder, tmp_path):
    error = failure(with_configuration(folder, tmp_path / "x", intermediate_size=193))
    assert error.code == "encoder-shape"
    assert "layer.0.mlp.down_proj.weight (expected (128, 193), found (128, 192))" in error.message


def test_whole_numbers_in_the_configuration(folder, tmp_path):
    encoder = load_encoder(str(with_configuration(folder, tmp_path / "x", rope_theta=100)))
    assert encoder.card.weights_sha256 == load_encoder(str(folder)).card.weights_sha256


def test_patch_size_as_a_pair(folder, tokens, tmp_path):
    encoder = load_encoder(str(with_configuration(folder, tmp_path / "x", patch_size=[16, 16])))
    assert torch.equal(encoder.embed(examples.images()), tokens)


def test_configuration_decides_the_heads(folder, tokens, tmp_path):
    encoder = load_encoder(str(with_configuration(folder, tmp_path / "x", num_attention_heads=4)))
    assert (encoder.embed(examples.images()) - tokens).abs().max() > 0.01


def test_transformers_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    error = failure("demonstration")
    assert error.code == "encoder-software"
    assert error.message == (
        "Encoders need the package transformers, 4.56 or newer; it cannot be imported "
        "(ModuleNotFoundError)."
    )
