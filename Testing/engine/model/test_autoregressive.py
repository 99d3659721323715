import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel, CausalConv2d
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset
from torch.nn import functional as F


def small(preset: Preset, channels: int = 5, hidden: int = 7) -> AutoregressiveModel:
    torch.manual_seed(0)
    spec = dataclasses.replace(AutoregressiveSpec.from_preset(preset), hidden_channels=hidden)
    model = AutoregressiveModel(spec, channels)
    covariance(model, torch.linspace(0.37, 0.8, len(model.variance)))
    return model


def covariance(model: AutoregressiveModel, variance: torch.Tensor) -> torch.Tensor:
    """Fit covariances of these mean variances to a model; return Σ of each branch, [n, c, c]."""
    size = model.channels
    generator = torch.Generator().manual_seed(1)
    wide = torch.randn(len(variance), size, 3 * size, generator=generator, dtype=torch.float64)
    found = wide @ wide.mT
    equal = found.diagonal(dim1=1, dim2=2).mean(dim=1)
    found = found * (variance / equal)[:, None, None]
    model.fit_covariance(found)
    return found + model.spec.shrinkage * (variance[:, None, None] * torch.eye(size) - found)


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


@pytest.mark.parametrize("dilation", [1, 4])
@pytest.mark.parametrize("include_center", [False, True])
def test_a_later_token_moves_no_bit_of_an_earlier_output(dilation, include_center):
    layer = CausalConv2d(16, 16, dilation=dilation, include_center=include_center)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 16, 10, 12, generator=generator)
    changed = tokens.clone()
    row, column = 5, 6
    changed[..., row, column:] = torch.randn(1, 16, 6, generator=generator)
    changed[..., row + 1 :, :] = torch.randn(1, 16, 4, 12, generator=generator)
    with torch.inference_mode():
        difference = (layer(changed) - layer(tokens)).abs().amax(dim=1)[0].flatten()
    first = row * 12 + column
    assert (difference[: first + (not include_center)] == 0).all()
    assert difference[first + 12 * dilation :].max() > 0.1


@pytest.mark.parametrize("preset", list(Preset))
def test_every_branch_equals_the_naive_network(preset):
    model = small(preset)
    x = torch.randn(5, 12, 10)
    predictions = model(x[None])
    assert len(predictions) == len(model.spec.dilations)
    for dilation, branch, found in zip(
        model.spec.dilations, model.branches, predictions, strict=True
    ):
        expected = x.double().numpy()
        layers = [layer for layer in branch if isinstance(layer, CausalConv2d)]
        for index, layer in enumerate(layers):
            expected = naive_causal_convolution(
                expected,
                layer.weight.detach().double().numpy(),
                layer.bias.detach().double().numpy(),
                dilation,
                include_center=index > 0,
            )
            if index < len(layers) - 1:
                expected = np.maximum(expected, 0.0)
        np.testing.assert_allclose(found[0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("preset", list(Preset))
def test_no_branch_sees_a_token_or_a_later_one(preset):
    """The gradient of every prediction is exactly zero at its token and after."""
    height, width = 9, 10
    model = small(preset)
    x = torch.randn(1, 5, height, width, requires_grad=True)
    for out in model(x):
        sees_earlier = 0
        for token in range(height * width):
            row, column = divmod(token, width)
            (gradient,) = torch.autograd.grad(out[0, :, row, column].sum(), x, retain_graph=True)
            seen = gradient[0].abs().sum(dim=0).flatten()
            assert torch.count_nonzero(seen[token:]) == 0
            sees_earlier += bool(torch.count_nonzero(seen[:token]))
        assert sees_earlier > 40


@pytest.mark.parametrize("preset", list(Preset))
def test_how_unlikely_a_token_is_depends_on_none_after_it(preset):
    height, width = 5, 6
    model = small(preset)
    x = torch.randn(1, 5, height, width, requires_grad=True)
    nll = model.nll(x).flatten()
    for token in range(height * width):
        (gradient,) = torch.autograd.grad(nll[token], x, retain_graph=True)
        seen = gradient[0].abs().sum(dim=0).flatten()
        assert torch.count_nonzero(seen[token + 1 :]) == 0
        assert seen[token] > 0


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
    out = model(x).flatten()
    contexts = []
    for token in range(784):
        (gradient,) = torch.autograd.grad(out[token], x, retain_graph=True)
        contexts.append(gradient[0, 0] != 0)
    assert sum(int(context.sum()) == 0 for context in contexts) == blind
    center = contexts[14 * 28 + 14]
    assert int(center.sum()) == seen_at_center
    rows, columns = np.nonzero(center.numpy())
    assert np.maximum(np.abs(rows - 14), np.abs(columns - 14)).min() == nearest


@pytest.mark.parametrize("preset", [Preset.STANDARD, Preset.DILATED])
def test_the_paper_s_size_and_layer_shapes(preset):
    model = AutoregressiveModel(AutoregressiveSpec.from_preset(preset), 384)
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_540_352
    (branch,) = model.branches
    shapes = [tuple(layer.weight.shape) for layer in branch if isinstance(layer, CausalConv2d)]
    assert shapes == [(256, 384, 3, 3), *[(256, 256, 3, 3)] * 3, (384, 256, 3, 3)]
    assert [type(layer).__name__ for layer in branch] == ["CausalConv2d", "ReLU"] * 4 + [
        "CausalConv2d"
    ]
    assert sorted(set(model.state_dict()) - {"variance"}) == sorted(
        f"branches.0.{index}.{kind}" for index in range(0, 9, 2) for kind in ("weight", "bias")
    )


def constant(values: list[float], variance: list[float], channels: int) -> AutoregressiveModel:
    """A network that predicts one value in each branch."""
    spec = AutoregressiveSpec(hidden_channels=2, dilations=(1,) * len(values))
    model = AutoregressiveModel(spec, channels)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    for branch, value in zip(model.branches, values, strict=True):
        torch.nn.init.constant_(branch[-1].bias, value)
    model.variance.copy_(torch.tensor(variance))
    return model


def test_nll_of_a_standard_normal():
    """½·(x² + ln 2π), by hand."""
    x = torch.tensor([0.0, 1.0, -2.0, 0.5]).reshape(1, 1, 2, 2)
    expected = 0.5 * (x[:, 0].square() + math.log(2 * math.pi))
    torch.testing.assert_close(constant([0.0], [1.0], 1).nll(x), expected)


@pytest.mark.parametrize("preset", list(Preset))
def test_nll_is_the_mean_of_the_branches_gaussian_nll(preset):
    model = small(preset)
    tokens = torch.randn(2, 5, 8, 6)
    shapes = covariance(model, torch.tensor([0.37, 0.8])[: len(model.branches)])
    by_branch = [
        -torch.distributions.MultivariateNormal(prediction.movedim(1, -1).double(), sigma)
        .log_prob(tokens.movedim(1, -1).double())
        .float()
        for prediction, sigma in zip(model(tokens), shapes, strict=True)
    ]
    torch.testing.assert_close(model.nll(tokens), torch.stack(by_branch).mean(dim=0) / 5)


def test_one_preset_has_a_covariance():
    whitened = [one for one in Preset if hasattr(small(one), "whitener")]
    assert whitened == [Preset.COMPOSITE]
    determinants = torch.linalg.det(small(Preset.COMPOSITE).whitener)
    torch.testing.assert_close(determinants, torch.ones(2))


def test_one_branch_ranks_as_the_paper_s_squared_error():
    model = small(Preset.STANDARD)
    tokens = torch.randn(2, 5, 8, 8)
    (prediction,) = model(tokens)
    squared_error = (prediction - tokens).square().mean(dim=1)
    nll = model.nll(tokens)
    torch.testing.assert_close(nll, 0.5 * (squared_error / 0.37 + math.log(2 * math.pi * 0.37)))
    assert torch.equal(nll.flatten().argsort(), squared_error.flatten().argsort())


def test_lowest_nll_is_that_of_a_perfect_prediction():
    model = constant([0.7, 0.7], [0.1, 4.0], 5)
    perfect = model.nll(torch.full((1, 5, 3, 3), 0.7))
    torch.testing.assert_close(perfect, torch.full((1, 3, 3), model.lowest_nll))
    assert (model.nll(torch.randn(1, 5, 3, 3)) > model.lowest_nll).all()


def test_slices_are_independent():
    model = small(Preset.COMPOSITE)
    tokens = torch.randn(4, 5, 7, 9)
    together = model.nll(tokens)
    torch.testing.assert_close(model.nll(tokens.flip(0)), together.flip(0))
    alone = torch.cat([model.nll(one[None]) for one in tokens])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5)


class PaperNetwork(torch.nn.Module):
    """As the paper describes it: full 3×3 convolutions, masked by type A, then B.

    Zero padding that keeps the size, ReLU between layers, five of one dilation.
    """

    def __init__(self, channels: int, hidden: int, dilation: int) -> None:
        super().__init__()
        widths = [channels, hidden, hidden, hidden, hidden, channels]
        self.layers = torch.nn.ModuleList(
            torch.nn.Conv2d(before, after, 3, padding="same", dilation=dilation)
            for before, after in pairwise(widths)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for index, layer in enumerate(self.layers):
            mask = torch.ones(3, 3)
            mask[1, 1] = 0.0 if index == 0 else 1.0  # type A hides the center, B shows it
            mask[1, 2] = mask[2, :] = 0.0
            x = F.conv2d(
                x, layer.weight * mask, layer.bias, padding="same", dilation=layer.dilation
            )
            x = F.relu(x) if index < len(self.layers) - 1 else x
        return x


@pytest.mark.parametrize(("preset", "dilation"), [(Preset.STANDARD, 1), (Preset.DILATED, 4)])
def test_presets_are_the_paper_s_network_at_its_own_size(preset, dilation):
    """ViT-S tokens of 448 px: its weights copied in, predictions and ranking are the same."""
    torch.manual_seed(0)
    reference = PaperNetwork(384, 256, dilation)
    model = AutoregressiveModel(AutoregressiveSpec.from_preset(preset), 384)
    (branch,) = model.branches
    with torch.no_grad():
        for mine, theirs in zip(branch[::2], reference.layers, strict=True):
            mine.weight.copy_(theirs.weight)
            mine.bias.copy_(theirs.bias)
    model.variance.fill_(0.37)
    tokens = torch.randn(1, 384, 28, 28)
    with torch.inference_mode():
        expected = reference(tokens)
        torch.testing.assert_close(model(tokens)[0], expected, rtol=0, atol=1e-5)
        assert expected.std() > 0.01
        squared_error = (expected - tokens).square().mean(dim=1).flatten()
        nll = model.nll(tokens).flatten()
        # In single precision but for what rounding makes equal, in double precision exactly.
        assert torch.diff(nll[squared_error.argsort()]).min() > -1e-5
        reference.double(), model.double()
        tokens = tokens.double()
        squared_error = (reference(tokens) - tokens).square().mean(dim=1).flatten()
        nll = model.nll(tokens).flatten()
    assert torch.equal(nll.argsort(), squared_error.argsort())
    assert len(squared_error.unique()) == 784
