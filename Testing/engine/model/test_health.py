"""A network that has not learned, or that is dead, is told; one that works is not."""

import math

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.model.health import dead_share, find_problems, trivial_nll
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec

SPEC = AutoregressiveSpec(layers=3, hidden_channels=8, dilations=(1, 2))
CHANNELS = 5


def volumes(seed: int, *sizes: int) -> list[np.ndarray]:
    random = np.random.RandomState(seed)
    return [random.normal(3.0, 2.0, (size, CHANNELS, 4, 4)).astype(np.float16) for size in sizes]


def model() -> AutoregressiveModel:
    torch.manual_seed(0)
    return AutoregressiveModel(SPEC, CHANNELS).eval()


def test_the_trivial_nll_is_that_of_the_mean_token():
    training, held_out = volumes(0, 3, 5), volumes(1, 2, 6)
    center = np.mean([one.astype(float).mean(axis=(0, 2, 3)) for one in training], axis=0)
    squares = [((one.astype(float) - center[:, None, None]) ** 2).mean() for one in held_out]
    expected = 0.5 * (math.log(2 * math.pi * np.mean(squares)) + 1)
    assert trivial_nll(training, held_out) == pytest.approx(expected, abs=1e-12)
    assert trivial_nll(training, held_out) == pytest.approx(
        0.5 * (math.log(2 * math.pi * 4) + 1), abs=0.05
    )


def test_tokens_that_never_vary_have_a_finite_nll():
    same = [np.full((2, CHANNELS, 3, 3), 7, np.float16)]
    assert math.isfinite(trivial_nll(same, same))


def test_channels_that_never_respond_are_dead():
    network = model()
    held_out = volumes(1, 4, 3)
    assert dead_share(network, held_out) < 0.2
    with torch.no_grad():  # all of the first layer of one branch: 8 of 32 channels, and no more
        network.branches[0][0].bias.fill_(-1e6)
        network.branches[0][2].bias.fill_(1.0)
    before = dead_share(model(), held_out)
    assert dead_share(network, held_out) >= 8 / 32
    assert dead_share(model(), held_out) == before  # nothing is left behind
    with torch.no_grad():
        for branch in network.branches:
            for layer in (0, 2):
                branch[layer].bias.fill_(-1e6)
    assert dead_share(network, held_out) == 1.0


@pytest.mark.parametrize(("above", "codes"), [(-0.01, []), (0.0, ["model-not-learned"])])
def test_an_nll_not_below_the_trivial_one_is_told(above, codes):
    training, held_out = volumes(0, 3), volumes(1, 2)
    trivial = trivial_nll(training, held_out)
    found = dict(find_problems(model(), trivial + above, training, held_out))
    assert list(found) == codes
    assert not codes or f"{trivial:.3f}" in found["model-not-learned"]


def test_a_dead_network_is_told():
    network = model()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    found = dict(find_problems(network, -9.0, volumes(0, 3), volumes(1, 2)))
    assert list(found) == ["channels-dead"]
    assert found["channels-dead"].startswith("100% of")
