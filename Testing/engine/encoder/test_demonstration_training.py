"""The script that trained the demonstration encoder still does, and from its seeds alone."""

import numpy as np
import pytest
import torch
from Data import train_demonstration_encoder as training
from Data.encoder_images import FIRST_SEED, HeadPool, degrade, make_images, recolor
from Data.encoder_objective import PATCH_PX, Objective, Shares, cosine_filters
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
        terms = ("content", "context", "invariance", "variance", "covariance")
        assert one["loss"] == pytest.approx(sum(one[term] for term in terms), rel=1e-4)


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
        expected = training.patch_tokens(network, images, None).transpose(1, 2)
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


def test_a_share_of_every_image_is_hidden():
    hidden = training.hidden_patches(np.random.default_rng(0), 50, 14).float().mean(dim=1)
    low, high = training.HIDDEN_SHARE
    assert low <= hidden.min() < hidden.max() < high + 0.1
    assert hidden.std() > 0.05


@pytest.fixture
def objective(pool):
    torch.manual_seed(0)
    images = make_images(pool, np.random.default_rng(0), 8, SIZE_PX)
    return Objective(training.CHANNELS, images, Shares())


def test_targets_of_a_plain_image_tell_its_intensity_only(objective):
    for level in (0.1, 0.9):
        targets, seen = objective.targets(torch.full((1, 1, 80, 80), level))
        own = targets[0, 12, : len(objective.own)] * objective.scale[: len(objective.own)]
        assert float(own[0]) == pytest.approx(level, abs=1e-4)
        assert own[1:].abs().max() < 1e-4
        assert bool(seen.all())
    assert not objective.targets(torch.zeros(1, 1, 80, 80))[1].any()


def test_views_that_agree_pay_nothing_and_collapsed_ones_pay(objective):
    images = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(2, 16, dtype=torch.bool)
    hidden[:, :4] = True
    tokens = torch.randn(2, 16, training.CHANNELS, generator=torch.Generator().manual_seed(1))
    terms = objective(images, (tokens, tokens), hidden)
    assert terms["invariance"] == 0
    other = tokens.clone()
    other[:, :4] += 1  # what was hidden tells nothing of agreement
    assert objective(images, (other, tokens), hidden)["invariance"] == 0
    other[:, 4:] += 1
    assert float(objective(images, (other, tokens), hidden)["invariance"]) == pytest.approx(1.0)
    same = torch.ones_like(tokens)
    collapsed = objective(images, (same, same), hidden)
    assert float(collapsed["variance"]) > 0.95
    assert float(terms["variance"]) < 0.5
    alike = tokens[..., :1].expand_as(tokens)
    crossed = objective(images, (alike, alike), hidden)["covariance"]
    assert float(crossed) > 10 * float(terms["covariance"])


def test_an_image_of_air_or_hidden_whole_gives_finite_terms(objective):
    tokens = torch.randn(1, 16, training.CHANNELS, generator=torch.Generator().manual_seed(1))
    for images, hidden in (
        (torch.zeros(1, 1, 64, 64), torch.zeros(1, 16, dtype=torch.bool)),
        (torch.rand(1, 1, 64, 64), torch.ones(1, 16, dtype=torch.bool)),
    ):
        terms = objective(images, (tokens, tokens), hidden)
        assert all(torch.isfinite(term) for term in terms.values())
