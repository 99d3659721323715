"""The demonstration encoder is the same everywhere, and sees what matters in a patch."""

import math

import pytest
import torch
from SpatialARAnomalyLib.engine.encoder import load_encoder


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("demonstration")


def image(values):
    return torch.as_tensor(values, dtype=torch.float32).expand(1, 1, 160, 160)


def wave(period_px, degrees, amplitude=0.2):
    y, x = torch.meshgrid(torch.arange(160.0), torch.arange(160.0), indexing="ij")
    across = x * math.cos(math.radians(degrees)) + y * math.sin(math.radians(degrees))
    return 0.5 + amplitude * torch.sin(2 * math.pi * across / period_px)


def token(encoder, values):
    """The token in the middle of the image."""
    return encoder.embed(image(values))[0, :, 5, 5]


def distance(encoder, one, other):
    return float((token(encoder, one) - token(encoder, other)).norm())


def test_card_says_what_it_is(encoder):
    card = encoder.card
    assert card.name == "demonstration"
    assert (card.architecture, card.channels, card.patch_px) == ("DINOv3ViT", 96, 16)
    assert card.notice == (
        "Demonstration encoder: DINOv3 architecture with seeded random weights made by this "
        "project; for demos and tests, not for clinical or research results."
    )
    assert card.parameters * 4 < 1_000_000


def test_golden(encoder):
    """Models trained on it need the very same weights: a change here breaks them."""
    assert (
        encoder.card.weights_sha256
        == "1f079d71b3a1680484bb184f2f4fe50f7aaf9d7d2bdfea0a0d30b93618aea755"
    )
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    pattern = ((3 * x + 5 * y + x * y // 7) % 101).float() / 100
    tokens = encoder.embed(pattern[None, None])[0]
    assert tokens.shape == (96, 3, 4)
    found = torch.stack([tokens[0, 0, 0], tokens[17, 1, 2], tokens[95, 2, 3], tokens.std()])
    expected = torch.tensor([-0.531509, -1.113774, -1.426267, 1.000432])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_intensity_is_seen(encoder):
    distances = [distance(encoder, 0.5, 0.5 + step) for step in (0.02, 0.05, 0.1, 0.2, 0.4)]
    assert distances == sorted(distances)
    assert distances[2] > 2
    assert distance(encoder, 0.1, 0.3) > 2


def test_orientation_is_seen(encoder):
    waves = [wave(16, degrees) for degrees in (0, 45, 90, 135)]
    for i, one in enumerate(waves):
        assert distance(encoder, one, 0.5) > 2
        for other in waves[:i]:
            assert distance(encoder, one, other) > 2


def test_texture_is_seen(encoder):
    waves = [wave(period, 90) for period in (5, 8, 16, 32)]
    for i, one in enumerate(waves):
        assert distance(encoder, one, 0.5) > 2
        for other in waves[:i]:
            assert distance(encoder, one, other) > 2


def test_identical_patches_have_similar_tokens(encoder):
    tokens = encoder.embed(image(wave(16, 0)))[0]
    between = (tokens[:, :, 1:] - tokens[:, :, :-1]).norm(dim=0)
    assert between.max() < 0.05 * tokens.norm(dim=0).mean()


def test_token_is_mostly_its_own_patch(encoder):
    plain = image(0.5)
    lesion = plain.clone()
    lesion[..., 80:96, 80:96] = 0.7
    change = (encoder.embed(lesion) - encoder.embed(plain))[0].norm(dim=0)
    own = change[5, 5].item()
    change[5, 5] = 0
    assert own > 3
    assert 0 < change.max() < 0.05 * own
