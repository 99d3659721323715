import math

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.autoregressive import (
    AutoregressiveModel,
    CausalConv2d,
)
from SpatialARAnomalyLib.engine.gaussian import nll_of_squares
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset

PRESETS = [Preset.STANDARD, Preset.DILATED]


def small(preset: Preset, channels: int = 5, hidden: int = 7) -> AutoregressiveModel:
    dilations = AutoregressiveSpec.from_preset(preset).dilations
    torch.manual_seed(0)
    return AutoregressiveModel(
        AutoregressiveSpec(hidden_channels=hidden, dilations=dilations), channels
    )


def naive_causal_convolution(x, weight, bias, dilation, include_center):
    """Four loops: row, column, and the nine taps of the paper's 3×3 kernel under its mask."""
    out_channels = weight.shape[0]
    _, height, width = x.shape
    out = np.zeros((out_channels, height, width))
    for row in range(height):
        for column in range(width):
            out[:, row, column] = bias
            for a in range(3):
                for b in range(3):
                    earlier = a < 1 or (a == 1 and b < 1)
                    if not (earlier or (include_center and a == b == 1)):
                        continue
                    r, c = row + (a - 1) * dilation, column + (b - 1) * dilation
                    if 0 <= r < height and 0 <= c < width:
                        out[:, row, column] += weight[:, :, a, b] @ x[:, r, c]
    return out


@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("include_center", [False, True])
@pytest.mark.parametrize("size", [(9, 9), (6, 11), (1, 7), (5, 1)])
def test_layer_equals_the_naive_masked_convolution(dilation, include_center, size):
    torch.manual_seed(1)
    layer = CausalConv2d(3, 4, dilation=dilation, include_center=include_center)
    torch.nn.init.normal_(layer.weight)  # behind the mask too: it must not matter
    x = torch.randn(2, 3, *size)
    expected = [
        naive_causal_convolution(
            one.double().numpy(),
            layer.weight.detach().double().numpy(),
            layer.bias.detach().double().numpy(),
            dilation,
            include_center,
        )
        for one in x
    ]
    np.testing.assert_allclose(layer(x).detach().numpy(), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_equals_the_naive_network(preset):
    model = small(preset)
    x = torch.randn(5, 12, 10)
    expected = x.double().numpy()
    layers = [layer for layer in model.net if isinstance(layer, CausalConv2d)]
    for index, layer in enumerate(layers):
        expected = naive_causal_convolution(
            expected,
            layer.weight.detach().double().numpy(),
            layer.bias.detach().double().numpy(),
            layer.dilation[0],
            include_center=index > 0,
        )
        if index < len(layers) - 1:
            expected = np.maximum(expected, 0.0)
    np.testing.assert_allclose(model(x[None])[0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_token_sees_itself_or_a_later_one(preset):
    """The gradient of every output token is exactly zero at itself and after."""
    height, width = 9, 10
    model = small(preset)
    x = torch.randn(1, 5, height, width, requires_grad=True)
    out = model(x)
    for token in range(height * width):
        row, column = divmod(token, width)
        (gradient,) = torch.autograd.grad(out[0, :, row, column].sum(), x, retain_graph=True)
        seen = gradient[0].abs().sum(dim=0).flatten()
        assert torch.count_nonzero(seen[token:]) == 0
        if preset is Preset.STANDARD and token > 0:
            assert seen[:token].max() > 0


@pytest.mark.parametrize(
    ("preset", "blind", "seen_at_center", "nearest"),
    [(Preset.STANDARD, 1, 50, 1), (Preset.DILATED, 16, 21, 4)],
)
def test_context_of_the_published_networks(preset, blind, seen_at_center, nearest):
    """Context counts on the paper's 28 × 28 grid, by positive weights and an impulse."""
    model = small(preset, channels=1, hidden=2)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    x = torch.ones(1, 1, 28, 28, requires_grad=True)
    out = model(x)
    contexts = []
    for token in range(784):
        (gradient,) = torch.autograd.grad(out[0, 0].flatten()[token], x, retain_graph=True)
        contexts.append(gradient[0, 0] != 0)
    assert sum(int(context.sum()) == 0 for context in contexts) == blind
    center = contexts[14 * 28 + 14]
    assert int(center.sum()) == seen_at_center
    rows, columns = np.nonzero(center.numpy())
    assert np.maximum(np.abs(rows - 14), np.abs(columns - 14)).min() == nearest


@pytest.mark.parametrize("preset", PRESETS)
def test_the_paper_s_size_and_layer_shapes(preset):
    model = AutoregressiveModel(AutoregressiveSpec.from_preset(preset), 384)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_540_352
    shapes = [tuple(layer.weight.shape) for layer in model.net if isinstance(layer, CausalConv2d)]
    assert shapes == [(256, 384, 3, 3), *[(256, 256, 3, 3)] * 3, (384, 256, 3, 3)]
    assert [type(layer).__name__ for layer in model.net] == ["CausalConv2d", "ReLU"] * 4 + [
        "CausalConv2d"
    ]
    assert sorted(set(model.state_dict()) - {"variance"}) == sorted(
        f"net.{index}.{kind}" for index in range(0, 9, 2) for kind in ("weight", "bias")
    )


def gaussian_nll(prediction, target, variance):
    """The formula of the documentation, with the model's own pieces."""
    model = AutoregressiveModel(AutoregressiveSpec(hidden_channels=2), len(variance))
    model.variance.copy_(variance)
    return nll_of_squares(model.squares(target - prediction), model.log_variance)


def test_nll_of_a_standard_normal():
    """½·(x² + ln 2π), by hand."""
    x = torch.tensor([0.0, 1.0, -2.0, 0.5]).reshape(1, 1, 2, 2)
    nll = gaussian_nll(torch.zeros_like(x), x, torch.ones(1))
    expected = 0.5 * (x[:, 0].square() + math.log(2 * math.pi))
    torch.testing.assert_close(nll, expected)


def test_nll_equals_torch_s_normal_distribution():
    torch.manual_seed(2)
    prediction, target = torch.randn(2, 3, 6, 4, 5).unbind(0)
    variance = torch.rand(6) + 0.1
    scale = variance.sqrt()[None, :, None, None].expand_as(prediction)
    expected = -torch.distributions.Normal(prediction, scale).log_prob(target).mean(dim=1)
    torch.testing.assert_close(gaussian_nll(prediction, target, variance), expected)


def test_fixed_variance_ranks_as_the_paper_s_squared_error():
    model = small(Preset.STANDARD)
    model.variance.fill_(0.37)
    tokens = torch.randn(2, 5, 8, 8)
    squared_error = (model(tokens) - tokens).square().mean(dim=1)
    nll = model.nll(tokens)
    torch.testing.assert_close(nll, 0.5 * (squared_error / 0.37 + math.log(2 * math.pi * 0.37)))
    assert torch.equal(nll.flatten().argsort(), squared_error.flatten().argsort())


def test_lowest_nll_is_that_of_a_perfect_prediction():
    model = small(Preset.STANDARD)
    model.variance.copy_(torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0]))
    x = torch.randn(1, 5, 3, 3)
    perfect = gaussian_nll(x, x, model.variance)
    assert model.lowest_nll == pytest.approx(float(perfect[0, 0, 0]), abs=1e-6)
    assert (model.nll(x) > model.lowest_nll).all()


def test_slices_are_independent():
    model = small(Preset.DILATED)
    tokens = torch.randn(4, 5, 7, 9)
    together = model.nll(tokens)
    torch.testing.assert_close(model.nll(tokens.flip(0)), together.flip(0))
    alone = torch.cat([model.nll(one[None]) for one in tokens])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5)
