"""A Gaussian with the covariance of normal residuals, held against torch's own."""

import math

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.model import gaussian
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.model.gaussian import (
    RIDGE,
    mean_log_variance,
    nll_of_squares,
    second_moment,
    whitener,
)
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    Variance,
)

CHANNELS = 6


def random_matrix(seed: int, size: int = CHANNELS) -> torch.Tensor:
    """Invertible, and far from any rotation."""
    random = np.random.RandomState(seed)
    return torch.from_numpy(random.normal(size=(size, size)) + 2 * np.diag(random.rand(size)))


def random_covariance(seed: int, size: int = CHANNELS) -> torch.Tensor:
    root = random_matrix(seed, size)
    return root @ root.T + 0.1 * torch.eye(size)


def eased(covariance: torch.Tensor) -> torch.Tensor:
    return covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(covariance))


@pytest.mark.parametrize("seed", range(4))
def test_a_whitener_gives_unit_covariance(seed):
    covariance = random_covariance(seed)
    found = whitener(covariance)
    torch.testing.assert_close(
        found @ eased(covariance) @ found.T, torch.eye(CHANNELS, dtype=torch.float64)
    )
    torch.testing.assert_close(found.T @ found, torch.linalg.inv(eased(covariance)))
    assert torch.count_nonzero(found.triu(1)) == 0
    assert (found.diagonal() > 0).all()


def test_a_covariance_of_fewer_tokens_than_channels_has_a_whitener():
    few = torch.from_numpy(np.random.RandomState(0).normal(size=(3, 20)))
    found = whitener(few.T @ few / 3)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_log_of_the_variance_is_the_determinant_s_by_channel(seed):
    covariance = random_covariance(seed)
    expected = float(torch.linalg.slogdet(eased(covariance))[1]) / CHANNELS
    assert mean_log_variance(whitener(covariance)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("variance", list(Variance))
def test_a_second_moment_is_that_of_loops(variance):
    residuals = torch.from_numpy(np.random.RandomState(1).normal(size=(11, 4)).astype(np.float32))
    by_hand = np.zeros((4, 4))
    for one in residuals.double().numpy():
        by_hand += np.outer(one, one)
    expected = by_hand if variance is Variance.FULL else np.diag(by_hand)
    found = second_moment(residuals, variance)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)


def full_model(seed: int = 0, channels: int = CHANNELS, **switches) -> AutoregressiveModel:
    """A network with weights at random, without hidden biases of its own making."""
    spec = AutoregressiveSpec(
        hidden_channels=7, dilations=(1, 2, 1), variance=Variance.FULL, **switches
    )
    torch.manual_seed(seed)
    return AutoregressiveModel(spec, channels)


@pytest.mark.parametrize("seed", range(3))
def test_full_nll_is_that_of_torch_s_multivariate_normal(seed):
    model = full_model(seed)
    covariance = random_covariance(seed)
    model.residual_whitener.copy_(whitener(covariance))
    tokens = torch.randn(2, CHANNELS, 5, 4)
    normal = torch.distributions.MultivariateNormal(
        model(tokens).movedim(1, -1).double(), covariance_matrix=eased(covariance)
    )
    expected = -normal.log_prob(tokens.movedim(1, -1).double()) / CHANNELS
    torch.testing.assert_close(model.nll(tokens).double(), expected, rtol=1e-4, atol=1e-4)


def test_a_diagonal_covariance_is_one_variance_per_channel():
    variance = torch.rand(CHANNELS) + 0.1
    full = full_model()
    full.residual_whitener.copy_(torch.diag(variance.rsqrt()))
    own = AutoregressiveModel(
        AutoregressiveSpec(hidden_channels=7, dilations=(1, 2, 1), variance=Variance.CHANNEL),
        CHANNELS,
    )
    own.net.load_state_dict(full.net.state_dict())
    own.variance.copy_(variance)
    tokens = torch.randn(1, CHANNELS, 4, 4)
    torch.testing.assert_close(full.nll(tokens), own.nll(tokens))


def set_whitening(model: AutoregressiveModel, tokens: torch.Tensor) -> None:
    """Mean and whitener of the tokens."""
    rows = tokens.movedim(1, -1).reshape(-1, model.channels)
    model.token_mean.copy_(rows.mean(dim=0))
    model.token_whitener.copy_(whitener(torch.cov(rows.T, correction=0)))


@pytest.mark.parametrize("seed", range(3))
def test_another_basis_of_the_tokens_changes_the_nll_by_its_volume_only(seed, monkeypatch):
    """Whitened tokens of any basis are the same but for a rotation, which the weights undo."""
    monkeypatch.setattr(gaussian, "RIDGE", 0.0)
    model = full_model(seed, whitened=True).double()
    tokens = torch.randn(3, CHANNELS, 6, 5, dtype=torch.float64) + 1.0
    set_whitening(model, tokens)
    residual_covariance = random_covariance(seed + 7)
    model.residual_whitener.copy_(whitener(residual_covariance))

    basis, shift = random_matrix(seed + 20), torch.randn(CHANNELS, dtype=torch.float64)
    other_tokens = torch.einsum("dc,bchw->bdhw", basis, tokens) + shift[:, None, None]
    other = full_model(seed, whitened=True).double()
    set_whitening(other, other_tokens)
    turn = other.token_whitener @ basis @ torch.linalg.inv(model.token_whitener)
    torch.testing.assert_close(turn @ turn.T, torch.eye(CHANNELS, dtype=torch.float64))
    with torch.no_grad():
        first, last = other.net[0], other.net[-1]
        first.weight.copy_(torch.einsum("oiab,ji->ojab", first.weight, turn))
        last.weight.copy_(torch.einsum("po,oiab->piab", turn, last.weight))
        last.bias.copy_(turn @ last.bias)
    other.residual_whitener.copy_(whitener(turn @ residual_covariance @ turn.T))

    volume = float(torch.linalg.slogdet(basis)[1]) / CHANNELS
    assert abs(volume) > 0.01
    torch.testing.assert_close(other.nll(other_tokens), model.nll(tokens) + volume)
    assert model.nll(tokens).std() > 0.1


def test_nll_of_squares_by_hand():
    squares = torch.tensor([[[0.0, 1.0], [4.0, 9.0]]])
    found = nll_of_squares(squares, math.log(3.0))
    expected = 0.5 * (math.log(2 * math.pi * 3.0) + squares)
    torch.testing.assert_close(found, expected)
