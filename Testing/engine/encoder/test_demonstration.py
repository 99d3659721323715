"""The demonstration encoder is the same everywhere, and sees what matters in a patch."""

import hashlib
import math

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.encoder import encoder as demonstration
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder

FILE_SHA256 = "5ca75822ce04dbe27bd3290b529ecf8d52c681883ba6ecab10ccd8a8ed8db3aa"
WEIGHTS_SHA256 = "ced1c052c28f039b2084ccc9203b71eff3baeaf40cb9498f804c6aacf73f3a89"


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


def random_patches(count=12, seed=0):
    """Images whose patches have random means, slopes and noise."""
    random = np.random.RandomState(seed)
    means = random.uniform(0.1, 0.8, (count, 10, 10))
    slopes = random.uniform(-0.15, 0.15, (count, 10, 10))
    ramp = np.linspace(-1, 1, 16)
    patches = means[..., None, None] + slopes[..., None, None] * ramp
    pixels = patches.transpose(0, 1, 3, 2, 4)
    pixels = np.broadcast_to(pixels, (count, 10, 16, 10, 16)).reshape(count, 1, 160, 160)
    pixels = pixels + random.normal(0, 0.02, pixels.shape)
    return torch.from_numpy(pixels.astype(np.float32)), np.stack([means, slopes], axis=-1)


def test_card_says_what_it_is(encoder):
    card = encoder.card
    assert card.name == "demonstration"
    assert (card.architecture, card.channels, card.patch_px) == ("DINOv3ViT", 128, 16)
    assert card.notice == (
        "Demonstration encoder: a small DINOv3 architecture that this project trained itself, on "
        "drawn images, photographs and an average brain; for demos and tests, not for clinical or "
        "research results."
    )
    assert 500_000 < card.parameters < 1_000_000


def test_golden(encoder):
    """Models trained on it need the very same weights: a change here breaks them."""
    content = demonstration.FILE.read_bytes()
    assert len(content) < 2_000_000
    assert hashlib.sha256(content).hexdigest() == FILE_SHA256
    assert encoder.card.weights_sha256 == WEIGHTS_SHA256
    y, x = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    pattern = ((3 * x + 5 * y + x * y // 7) % 101).float() / 100
    tokens = encoder.embed(pattern[None, None])[0]
    assert tokens.shape == (128, 3, 4)
    found = torch.stack([tokens[0, 0, 0], tokens[17, 1, 2], tokens[95, 2, 3], tokens.std()])
    expected = torch.tensor([-1.238365, 0.418803, -0.572467, 0.993465])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_linear_map_of_tokens_tells_mean_and_slope_of_their_patches(encoder):
    """Learned on some images, right on others."""
    images, truth = random_patches()
    tokens = encoder.embed(images).permute(0, 2, 3, 1).double().numpy()
    tokens = np.concatenate([tokens, np.ones_like(tokens[..., :1])], axis=-1)
    learned, unseen = slice(0, 8), slice(8, None)
    flat = tokens[learned].reshape(-1, tokens.shape[-1])
    weights, *_ = np.linalg.lstsq(flat, truth[learned].reshape(len(flat), 2), rcond=None)
    told = (tokens[unseen] @ weights).reshape(-1, 2)
    found = [np.corrcoef(told[:, n], truth[unseen].reshape(-1, 2)[:, n])[0, 1] for n in range(2)]
    assert found[0] > 0.99
    assert found[1] > 0.9


def test_a_token_knows_its_surroundings(encoder):
    """The same patch in other surroundings is another token, but less so than another patch."""
    plain, bright, spot = (image(value).clone() for value in (0.3, 0.6, 0.3))
    bright[..., 80:96, 80:96] = 0.3
    spot[..., 80:96, 80:96] = 0.6
    alone, within, other = (encoder.embed(one)[0, :, 5, 5] for one in (plain, bright, spot))
    assert 0.5 < (alone - within).norm() < (alone - other).norm()


def test_noise_is_seen_less_than_the_patch(encoder):
    images, _ = random_patches(4)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    tokens, noisy = encoder.embed(images), encoder.embed(images + 0.03 * noise)
    spread = (tokens - tokens.mean(dim=(0, 2, 3), keepdim=True)).square().mean()
    assert (noisy - tokens).square().mean() < 0.02 * spread


def test_intensity_is_seen(encoder):
    distances = [distance(encoder, 0.3, 0.3 + step) for step in (0.02, 0.05, 0.1, 0.2, 0.4)]
    assert distances == sorted(distances)
    assert distances[2] > 1
    assert distance(encoder, 0.1, 0.3) > 2


def test_orientation_is_seen(encoder):
    waves = [wave(16, degrees) for degrees in (0, 45, 90, 135)]
    for i, one in enumerate(waves):
        assert distance(encoder, one, 0.5) > 1
        for other in waves[:i]:
            assert distance(encoder, one, other) > 1


def test_texture_is_seen(encoder):
    waves = [wave(period, 90) for period in (5, 8, 16, 32)]
    for i, one in enumerate(waves):
        assert distance(encoder, one, 0.5) > 1
        for other in waves[:i]:
            assert distance(encoder, one, other) > 1


def test_token_is_mostly_its_own_patch(encoder):
    plain = image(0.5)
    lesion = plain.clone()
    lesion[..., 80:96, 80:96] = 0.7
    change = (encoder.embed(lesion) - encoder.embed(plain))[0].norm(dim=0)
    own = change[5, 5].item()
    near = change[4:7, 4:7].clone()
    near[1, 1] = 0
    far = change.clone()
    far[3:8, 3:8] = 0
    assert own > 3
    assert near.max() < 0.5 * own
    assert far.max() < 0.2 * own
