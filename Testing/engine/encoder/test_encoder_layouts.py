"""The same weights give the same tokens under whichever names they come."""

import pytest
import torch
from engine import dinov3_examples as examples
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.errors import EncoderError


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "gated"])
def saved_vit(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    return examples.save_transformers(examples.vit(gated=request.param), folder)


@pytest.fixture(scope="module")
def saved_convnext(tmp_path_factory):
    return examples.save_transformers(examples.convnext(), tmp_path_factory.mktemp("convnext"))


def same_encoder(folder, file):
    """Load both; assert that they are one."""
    expected, found = load_encoder(str(folder)), load_encoder(str(file))
    gray = examples.images()
    assert torch.equal(found.embed(gray), expected.embed(gray))
    assert found.card.weights_sha256 == expected.card.weights_sha256
    assert found.card.parameters == expected.card.parameters
    assert found.card.architecture == expected.card.architecture
    return found


@pytest.mark.parametrize("rename", [examples.as_timm_vit, examples.as_meta_vit])
def test_vit(rename, saved_vit, tmp_path):
    tensors = rename(examples.file_tensors(saved_vit))
    found = same_encoder(saved_vit, examples.write(tensors, tmp_path / "vits.lvd.safetensors"))
    assert found.card.name == "vits.lvd"


@pytest.mark.parametrize("rename", [examples.as_timm_convnext, examples.as_meta_convnext])
def test_convnext(rename, saved_convnext, tmp_path):
    tensors = rename(examples.file_tensors(saved_convnext))
    same_encoder(saved_convnext, examples.write(tensors, tmp_path / "convnext.safetensors"))


@pytest.mark.parametrize("kept", ["norm", "norms.3"])
def test_meta_convnext_with_its_final_norm_once(kept, saved_convnext, tmp_path):
    tensors = examples.as_meta_convnext(examples.file_tensors(saved_convnext))
    dropped = {"norm": "norms.3", "norms.3": "norm"}[kept]
    for kind in ("weight", "bias"):
        del tensors[f"{dropped}.{kind}"]
    same_encoder(saved_convnext, examples.write(tensors, tmp_path / "convnext.safetensors"))


def test_timm_folder_with_its_own_configuration(saved_vit, tmp_path):
    tensors = examples.as_timm_vit(examples.file_tensors(saved_vit))
    file = examples.write(tensors, tmp_path / "timm" / "model.safetensors")
    (file.parent / "config.json").write_text('{"architecture": "vit_small_patch16_dinov3"}')
    assert same_encoder(saved_vit, file.parent).card.name == "timm"


@pytest.mark.parametrize("rename", [examples.as_timm_vit, examples.as_meta_vit])
def test_biases_left_out_are_zeros(rename, tmp_path):
    """As timm's files of S to H+, and Meta's file of 7 billion parameters, leave them out."""
    model = examples.vit()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.bias", "v_proj.bias")):
                parameter.zero_()
    folder = examples.save_transformers(model, tmp_path / "with zeros")
    tensors = rename(examples.file_tensors(folder), biases=False)
    same_encoder(folder, examples.write(tensors, tmp_path / "without.safetensors"))
    without = examples.vit(query_bias=False, value_bias=False)
    without.load_state_dict(model.state_dict(), strict=False)
    same_encoder(folder, examples.save_transformers(without, tmp_path / "transformers without"))


def test_meta_periods_tell_the_heads(tmp_path):
    folder = examples.save_transformers(examples.vit(num_attention_heads=1), tmp_path / "one head")
    tensors = examples.as_meta_vit(examples.file_tensors(folder), head_channels=128)
    same_encoder(folder, examples.write(tensors, tmp_path / "one.safetensors"))


def test_meta_key_bias_without_mask_is_used(tmp_path):
    folder = examples.save_transformers(examples.vit(key_bias=True), tmp_path / "key bias")
    named = examples.file_tensors(folder)
    tensors = examples.as_meta_vit(named)
    for block in range(2):
        del tensors[f"blocks.{block}.attn.qkv.bias_mask"]
        key = named[f"layer.{block}.attention.k_proj.bias"]
        tensors[f"blocks.{block}.attn.qkv.bias"][128:256] = key
    same_encoder(folder, examples.write(tensors, tmp_path / "key.safetensors"))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_transformers_file_without_configuration(prefix, saved_vit, tmp_path):
    tensors = {
        prefix + name if name.startswith("layer.") else name: tensor
        for name, tensor in examples.file_tensors(saved_vit).items()
    }
    same_encoder(saved_vit, examples.write(tensors, tmp_path / "alone.safetensors"))


def test_half_precision_becomes_float32(saved_vit, tmp_path):
    tensors = {name: t.bfloat16() for name, t in examples.file_tensors(saved_vit).items()}
    rounded = {name: tensor.float() for name, tensor in tensors.items()}
    half = load_encoder(str(examples.write(tensors, tmp_path / "half.safetensors")))
    full = load_encoder(str(examples.write(rounded, tmp_path / "full.safetensors")))
    gray = examples.images()
    assert half.embed(gray).dtype == torch.float32
    assert torch.equal(half.embed(gray), full.embed(gray))
    assert half.card.weights_sha256 == full.card.weights_sha256


def fails(tensors, tmp_path):
    file = examples.write(tensors, tmp_path / "broken.safetensors")
    with pytest.raises(EncoderError) as caught:
        load_encoder(str(file))
    assert str(tmp_path) not in str(caught.value)
    return caught.value


@pytest.fixture
def timm_vit(tmp_path):
    return examples.as_timm_vit(
        examples.file_tensors(examples.save_transformers(examples.vit(), tmp_path / "vit"))
    )


def test_other_network(tmp_path):
    error = fails({"conv1.weight": torch.ones(3), "fc.weight": torch.ones(2)}, tmp_path)
    assert error.code == "encoder-architecture"
    assert error.message == (
        "Expected the weights of a DINOv3 (ViT or ConvNeXt) in 'broken'; found tensors of another "
        "network, such as conv1.weight, fc.weight."
    )


def test_vit_with_learned_positions(timm_vit, tmp_path):
    error = fails(timm_vit | {"pos_embed": torch.ones(1, 5, 128)}, tmp_path)
    assert error.code == "encoder-architecture"


def test_missing_and_unexpected_tensors(timm_vit, tmp_path):
    del timm_vit["blocks.1.attn.proj.bias"], timm_vit["norm.weight"]
    error = fails(timm_vit | {"head.weight": torch.ones(4, 128)}, tmp_path)
    assert error.code == "encoder-layout"
    assert error.message == (
        "'broken' does not hold the tensors of a DINOv3 of its size: it lacks "
        "layer.1.attention.o_proj.bias, norm.weight; it has, not expected, head.weight."
    )


def test_many_missing_tensors_are_counted(timm_vit, tmp_path):
    kept = {name: t for name, t in timm_vit.items() if "norm" not in name}
    message = fails(kept, tmp_path).message
    assert (
        "it lacks layer.0.norm1.bias, layer.0.norm1.weight, layer.0.norm2.bias and 7 more."
        in message
    )


def test_missing_bias_of_one_block_is_not_taken_for_zeros(timm_vit, tmp_path):
    del timm_vit["blocks.1.attn.q_bias"]
    error = fails(timm_vit, tmp_path)
    assert error.code == "encoder-layout"
    assert "lacks layer.1.attention.q_proj.bias." in error.message


def test_tensor_of_another_shape(timm_vit, tmp_path):
    timm_vit["blocks.0.mlp.fc2.weight"] = torch.ones(128, 191)
    error = fails(timm_vit, tmp_path)
    assert error.code == "encoder-shape"
    assert error.message == (
        "'broken' holds tensors of another shape than a DINOv3 of its size: "
        "layer.0.mlp.down_proj.weight (expected (128, 192), found (128, 191))."
    )


@pytest.mark.parametrize("shape", [(383, 128), ()])
def test_joined_projection_that_does_not_split(shape, timm_vit, tmp_path):
    timm_vit["blocks.1.attn.qkv.weight"] = torch.ones(shape)
    error = fails(timm_vit, tmp_path)
    assert error.code == "encoder-shape"
    assert f"blocks.1.attn.qkv.weight has the shape {shape}" in error.message


def test_embedding_that_tells_no_size(timm_vit, tmp_path):
    del timm_vit["patch_embed.proj.weight"]
    error = fails(timm_vit, tmp_path)
    assert error.code == "encoder-shape"
    assert "an embedding or a first block is missing" in error.message


def test_channels_that_make_no_heads(tmp_path):
    folder = examples.save_transformers(
        examples.vit(hidden_size=96, num_attention_heads=3), tmp_path / "96"
    )
    tensors = examples.as_timm_vit(examples.file_tensors(folder))
    assert fails(tensors, tmp_path).code == "encoder-shape"


def test_other_rotary_periods(tmp_path):
    folder = examples.save_transformers(examples.vit(), tmp_path / "vit")
    tensors = examples.as_meta_vit(examples.file_tensors(folder))
    tensors["rope_embed.periods"] *= 1.05
    error = fails(tensors, tmp_path)
    assert error.code == "encoder-architecture"
    assert "other rotary periods than DINOv3's" in error.message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value, timm_vit, tmp_path):
    timm_vit["norm.bias"][3] = value
    error = fails(timm_vit, tmp_path)
    assert error.code == "encoder-damaged"
    assert "'broken' holds values that are not finite numbers, in norm.bias." in error.message
