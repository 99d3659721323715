"""The script that trained the demonstration encoder still does, and from its seeds alone."""

import numpy as np
import pytest
import torch
from Data import train_demonstration_encoder as training
from Data.encoder_images import (
    FIRST_SEED,
    PHOTOGRAPHS,
    HeadPool,
    degrade,
    make_images,
    photograph,
    recolor,
)
from Data.encoder_objective import (
    LARGEST,
    LEVELS,
    PATCH_PX,
    SHARES,
    SPREAD,
    Description,
    cosine_filters,
    not_air,
)
from SpatialARAnomalyLib.engine.encoder.encoder import load_encoder
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.demo.phantom_anatomy import Tissue

pytestmark = pytest.mark.slow

SIZE_PX = 96


@pytest.fixture(scope="module")
def pool():
    """Two coarse heads, quickly made."""
    heads = [
        normal_head(FIRST_SEED + n, shape_kji=(26, 34, 28), spacing_mm=(6.0, 6.0, 6.0), noise=0)
        for n in range(2)
    ]
    assert not any(np.any(head.tissues == Tissue.LESION) for head in heads)
    return HeadPool([head.signal / np.median(head.white_signal) for head in heads])


def trained(pool, seed=0):
    return training.train(steps=40, batch=2, size_px=SIZE_PX, seed=seed, pool=pool, report_every=10)


@pytest.fixture(scope="module")
def run(pool):
    return trained(pool)


def test_the_loss_falls(run):
    _, curve = run
    assert [one["step"] for one in curve] == [10, 20, 30, 40]
    assert curve[-1]["loss"] < 0.9 * curve[0]["loss"]
    for one in curve:
        explained = sum(share * one[part] for part, share in SHARES.items())
        # The rest is the error across the description.
        assert explained < one["loss"]


def test_the_same_seed_gives_the_same_bytes_and_another_others(run, pool):
    file = training.weights_file(run[0])
    assert training.weights_file(trained(pool)[0]) == file
    assert training.weights_file(trained(pool, seed=1)[0]) != file


def test_the_file_loads_and_gives_the_network_s_tokens(run, tmp_path):
    network, _ = run
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(training.weights_file(network))
    encoder = load_encoder(str(file))
    assert encoder.card.channels == training.CHANNELS
    images = torch.rand(2, 1, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = training.patch_tokens(network, images).transpose(1, 2)
    found = encoder.embed(images)
    torch.testing.assert_close(found, expected.reshape(found.shape), rtol=0, atol=0.02)


def test_the_command_writes_a_file(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(training.HeadPool, "render", lambda *_: pool)
    monkeypatch.setattr(training, "BATCH", 1)
    out, log = tmp_path / "encoder.safetensors", tmp_path / "curve.jsonl"
    training.main([str(out), "--steps", "1", "--log", str(log)])
    assert load_encoder(str(out)).card.patch_px == PATCH_PX
    assert log.read_text().count("\n") == 1


def test_images_are_of_heads_and_shapes_in_range(pool):
    rng = np.random.default_rng(0)
    images = make_images(pool, rng, 24, SIZE_PX)
    assert images.shape == (24, 1, SIZE_PX, SIZE_PX)
    assert 0 <= images.min() < images.max() <= 1
    assert (images.flatten(1).std(dim=1) > 0.02).sum() > 18
    seen = degrade(images, rng)
    assert 0 <= seen.min() < seen.max() <= 1
    assert 0 < (seen - images).square().mean().sqrt() < 0.08


def test_recoloring_keeps_shapes():
    """Pixels of one value keep one value, under whatever curve."""
    steps = np.repeat(np.linspace(0, 1, 8), 8).reshape(8, 8)
    for seed in range(20):
        colored = recolor(steps, np.random.default_rng(seed))
        assert np.all(colored == colored[:, :1])
        assert 0 <= colored.min() < colored.max() <= 1


@pytest.mark.parametrize(("side", "frequencies"), [(16, 8), (48, 4)])
def test_cosine_filters_are_orthogonal_and_the_first_is_the_mean(side, frequencies):
    filters, orders = cosine_filters(side, frequencies)
    assert len(filters) == len(orders) == frequencies * (frequencies + 1) // 2
    flat = filters.flatten(1).double()
    torch.testing.assert_close(
        flat @ flat.T * side**2, torch.eye(len(flat), dtype=torch.float64), rtol=0, atol=1e-5
    )
    patch = torch.rand(side, side, generator=torch.Generator().manual_seed(0))
    assert float((filters[0, 0] * patch).sum()) == pytest.approx(float(patch.mean()), abs=1e-5)


@pytest.fixture
def description(pool):
    torch.manual_seed(0)
    images = make_images(pool, np.random.default_rng(0), 24, SIZE_PX)
    return Description(training.CHANNELS, images), images


def test_described_tokens_are_outputs_of_layernorm(description):
    describe, images = description
    tokens = describe(images)
    torch.testing.assert_close(
        torch.nn.functional.layer_norm(tokens, tokens.shape[-1:]), tokens, rtol=0, atol=1e-4
    )


def test_parts_have_their_shares_of_the_variance(description):
    """Distances of tokens are those of the standardized parts: the rotation changes none."""
    describe, images = description
    tokens = describe(images)[not_air(images)]
    along = (tokens @ describe.rotation.T)[:, 1:].split(list(describe.sizes.values()), -1)
    largest = torch.cat(along, dim=-1).square().sum(dim=-1).max()
    assert largest <= LARGEST * training.CHANNELS * 1.0001
    spread = SPREAD * training.CHANNELS
    for part, share in zip(along, SHARES.values(), strict=True):
        assert float(part.square().sum(dim=-1).mean()) == pytest.approx(share * spread, rel=0.1)


def test_dark_and_bright_are_equally_far_from_gray(description):
    describe, _ = description
    levels = torch.linspace(0, 1, LEVELS)[[2, 5, 8]]
    dark, gray, bright = (
        describe.parts(torch.full((1, 1, 48, 48), float(level)))["levels"][0, :, 1, 1]
        for level in levels
    )
    assert float((dark - gray).norm()) == pytest.approx(float((bright - gray).norm()), rel=1e-4)
    assert float((dark - bright).norm()) == pytest.approx(float((dark - gray).norm()), rel=0.1)


def test_a_plain_image_has_neither_texture_nor_layout(description):
    describe, _ = description
    parts = describe.parts(torch.full((1, 1, 80, 80), 0.4))
    assert parts["layout"].abs().max() < 1e-5
    torch.testing.assert_close(parts["around"], parts["levels"])
    torch.testing.assert_close(parts["wide"], parts["levels"])
    wave = torch.sin(torch.arange(80.0) * 2 * torch.pi / 5).expand(1, 1, 80, 80)
    across, _, along, _ = describe.parts(0.4 + 0.2 * wave)["texture"][0, :4, 2, 2].tolist()
    assert along == pytest.approx(float(parts["texture"].min()), abs=0.02)
    assert across > 3 * along


def test_a_described_token_has_no_error_and_a_constant_one_all_of_it(description):
    describe, images = description
    tokens = describe(images)
    assert all(float(error) < 1e-6 for error in describe.errors(tokens, images).values())
    seen = not_air(images)
    constant = describe.rotation[0] * tokens.shape[-1] ** 0.5
    errors = describe.errors(constant.expand_as(tokens), images)
    for part in SHARES:
        assert float(errors[part]) == pytest.approx(1, abs=0.25), (part, seen.float().mean())


def test_an_image_of_air_has_finite_errors(description):
    describe, _ = description
    air = torch.zeros(1, 1, 64, 64)
    errors = describe.errors(describe(air) + 1, air)
    assert all(torch.isfinite(error) for error in errors.values())


def test_photographs_are_there_and_free():
    """Their docstrings in scikit-image state CC0 or the public domain."""
    import skimage.data

    for name in PHOTOGRAPHS:
        pixels = photograph(name)
        assert pixels.ndim == 2
        assert 0 <= pixels.min() < pixels.max() == 1
        text = getattr(skimage.data, name).__doc__
        assert "CC0" in text or "public domain" in text.lower(), name
