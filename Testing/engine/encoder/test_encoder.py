"""Tokens are those of transformers' own networks; the card says what made them."""

import pytest
import torch
from engine import dinov3_examples as examples
from SpatialARAnomalyLib.engine.cards.encoder_card import EncoderCard
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.engine.errors import (
    EncoderError,
    SpecError,
)


@pytest.fixture(params=["vit", "vit without registers", "vit gated", "convnext"])
def model(request):
    return {
        "vit": examples.vit,
        "vit without registers": lambda: examples.vit(registers=0),
        "vit gated": lambda: examples.vit(gated=True),
        "convnext": examples.convnext,
    }[request.param]()


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_tokens_are_those_of_transformers(model, size, tmp_path):
    encoder = load_encoder(str(examples.save_transformers(model, tmp_path / "weights")))
    gray = examples.images(*size)
    expected = examples.reference_tokens(model, gray)
    tokens = encoder.embed(gray)
    assert tokens.dtype == torch.float32
    assert tokens.is_contiguous()
    assert expected.std() > 0.5
    torch.testing.assert_close(tokens, expected, rtol=0, atol=2e-5)


def test_batch_does_not_matter(model, tmp_path):
    encoder = load_encoder(str(examples.save_transformers(model, tmp_path / "weights")))
    gray = examples.images(count=3)
    one_by_one = torch.cat([encoder.embed(image[None]) for image in gray])
    torch.testing.assert_close(encoder.embed(gray), one_by_one, rtol=0, atol=2e-5)
    assert not torch.allclose(one_by_one[0], one_by_one[1], atol=0.1)


def test_card_of_a_vit(tmp_path):
    model = examples.vit()
    encoder = load_encoder(str(examples.save_transformers(model, tmp_path / "site weights")))
    card = encoder.card
    everything = sum(parameter.numel() for parameter in model.parameters())
    assert card.to_dict() == {
        "name": "site weights",
        "architecture": "DINOv3ViT",
        "channels": 128,
        "patch_px": 16,
        "parameters": everything - model.embeddings.mask_token.numel(),
        "weights_sha256": card.weights_sha256,
        "revision": None,
        "notice": card.notice,
        "precision": "float32",
    }
    assert len(card.weights_sha256) == 64
    assert "DINOv3 License" in card.notice
    assert EncoderCard.from_dict(card.to_dict()) == card
    assert encoder.device == torch.device("cpu")


def test_card_of_a_convnext(tmp_path):
    model = examples.convnext()
    card = load_encoder(str(examples.save_transformers(model, tmp_path / "convnext"))).card
    assert (card.architecture, card.channels, card.patch_px) == ("DINOv3ConvNext", 32, 32)
    assert card.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_patch_size_is_read_from_the_weights(tmp_path):
    model = examples.vit(patch_size=8)
    encoder = load_encoder(str(examples.save_transformers(model, tmp_path / "weights")))
    gray = examples.images(24, 40)
    assert encoder.card.patch_px == 8
    expected = examples.reference_tokens(model, gray)
    torch.testing.assert_close(encoder.embed(gray), expected, rtol=0, atol=2e-5)


def test_satellite_weights_get_their_own_statistics(tmp_path):
    model = examples.vit()
    name = "vit_large_patch16_dinov3.sat493m"
    folder = examples.save_transformers(model, tmp_path / name)
    gray = examples.images()
    expected = examples.reference_tokens(
        model,
        gray,
        mean=torch.tensor([0.430, 0.411, 0.296])[:, None, None],
        std=torch.tensor([0.213, 0.156, 0.143])[:, None, None],
    )
    satellite = load_encoder(str(folder))
    torch.testing.assert_close(satellite.embed(gray), expected, rtol=0, atol=2e-5)
    web = load_encoder(str(folder.rename(tmp_path / "renamed")))
    assert not torch.allclose(web.embed(gray), expected, atol=0.1)
    assert web.card.weights_sha256 != satellite.card.weights_sha256


def test_tokens_can_take_part_in_training():
    tokens = load_encoder("demonstration").embed(examples.images(16, 16))
    scale = torch.ones((), requires_grad=True)
    (tokens * scale).square().sum().backward()
    torch.testing.assert_close(scale.grad, 2 * tokens.square().sum())


def test_encoder_is_frozen():
    encoder = load_encoder("demonstration")
    gray = examples.images().requires_grad_()
    assert not encoder.embed(gray).requires_grad


def test_weights_hash_changes_with_any_weight_and_setting(tmp_path):
    hashes = set()
    for number, settings in enumerate([{}, {"rope_theta": 90.0}, {"layer_norm_eps": 1e-6}]):
        folder = examples.save_transformers(examples.vit(**settings), tmp_path / str(number))
        hashes.add(load_encoder(str(folder)).card.weights_sha256)
    model = examples.vit()
    with torch.no_grad():
        model.norm.bias[5] += 1e-6
    folder = examples.save_transformers(model, tmp_path / "one number")
    hashes.add(load_encoder(str(folder)).card.weights_sha256)
    assert len(hashes) == 4


@pytest.mark.parametrize("shape", [(1, 1, 60, 64), (1, 1, 64, 60), (1, 1, 0, 64)])
def test_image_that_does_not_fit(shape):
    with pytest.raises(EncoderError) as caught:
        load_encoder("demonstration").embed(torch.zeros(shape))
    assert caught.value.code == "encoder-image-size"
    assert caught.value.message == (
        "Encoder 'demonstration' expects gray images (1 channel) whose sides are multiples of "
        f"16 pixels; found {shape[1]} channel(s) of {shape[2]} by {shape[3]} pixels."
    )
    assert caught.value.facts == {"patch_px": 16}


@pytest.mark.parametrize("field", ["channels", "patch_px"])
def test_card_that_makes_no_sense(field):
    values = load_encoder("demonstration").card.to_dict() | {field: 0}
    with pytest.raises(SpecError, match=f"{field} must be positive"):
        EncoderCard.from_dict(values)
