import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from SpatialARAnomalyLib.engine.model.autoregressive import (
    CORNERS,
    AutoregressiveModel,
    CausalConv2d,
    flip_to_corner,
    position_features,
)
from SpatialARAnomalyLib.engine.model.gaussian import nll_of_squares, variance_at
from SpatialARAnomalyLib.engine.slices.slice_stack import IN_BODY, PLACES
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset, Variance
from torch.nn import functional as F

PRESETS = [Preset.STANDARD, Preset.DILATED]


EVERYTHING = AutoregressiveSpec(
    hidden_channels=7,
    dilations=(1, 2, 1),
    variance=Variance.FULL,
    whitened=True,
    position=True,
    position_variance=True,
    directions=4,
)


def filled(spec: AutoregressiveSpec, channels: int = 5, seed: int = 0) -> AutoregressiveModel:
    """A network whose statistics, too, are unlike those of a new one."""
    torch.manual_seed(seed)
    model = AutoregressiveModel(spec, channels)
    for name, value in model.named_buffers():
        if "whitener" in name:
            value += 0.3 * torch.randn_like(value).tril(-1)
            value *= 1.0 + torch.rand(channels, 1)
        elif name != "mask" and not name.endswith(".mask"):
            value += 0.5 * torch.rand_like(value)
    return model


def random_places(images: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = 2 * torch.rand(images, PLACES, height, width, generator=generator) - 1
    places[:, IN_BODY] = (places[:, IN_BODY] > -0.5).float()
    return places


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


@pytest.mark.parametrize("spec", [EVERYTHING, *map(AutoregressiveSpec.from_preset, Preset)])
def test_no_scan_from_any_corner_sees_a_later_token(spec):
    """How unlikely a token is may depend on itself and those before it, and nothing else."""
    height, width = 5, 6
    model = filled(dataclasses.replace(spec, hidden_channels=8))
    tokens = torch.randn(1, 5, height, width, requires_grad=True)
    places = random_places(1, height, width)
    order = torch.arange(1.0 * height * width).reshape(1, 1, height, width)
    for corner in model.corners:
        scaled = model.scaled(tokens)
        prediction = model.predict(scaled, places, corner)
        squares = model.squares(scaled - prediction)
        when = flip_to_corner(order, corner)[0, 0]  # a token's turn in the scan from that corner
        sees_earlier = 0
        for row in range(height):
            for column in range(width):
                turn = when[row, column]
                for value, first_unseen in (
                    (prediction[0, :, row, column].sum(), turn),
                    (squares[0, row, column], turn + 1),
                ):
                    (gradient,) = torch.autograd.grad(value, tokens, retain_graph=True)
                    seen = gradient[0].abs().sum(dim=0)
                    assert torch.count_nonzero(seen[when >= first_unseen]) == 0
                    sees_earlier += int(torch.count_nonzero(seen[when < turn]) > 0)
                assert seen[row, column] > 0
        assert sees_earlier >= 8


@pytest.mark.parametrize("corner", CORNERS)
def test_a_scan_from_a_corner_is_the_first_one_of_the_turned_grid(corner):
    """But for what the network is told of its direction."""
    model = filled(EVERYTHING)
    scaled, places = torch.randn(2, 5, 6, 4), random_places(2, 6, 4)
    hidden = model.net[0](flip_to_corner(scaled, corner))
    hidden = hidden + model.position(position_features(flip_to_corner(places, corner), corner))
    expected = flip_to_corner(model.net[1:](hidden), corner)
    torch.testing.assert_close(model.predict(scaled, places, corner), expected)
    told = model.predict(scaled, places, corner)
    moved = model.predict(scaled, places + 0.3, corner)
    assert (told - moved).abs().max() > 1e-3


@pytest.mark.parametrize("directions", [1, 2, 4])
def test_of_several_directions_the_mean_is_taken(directions):
    model = filled(dataclasses.replace(EVERYTHING, directions=directions))
    tokens, places = torch.randn(2, 5, 6, 4), random_places(2, 6, 4)
    factor = variance_at(model.variance_map, places)
    scaled = torch.einsum(
        "dc,bchw->bdhw", model.token_whitener, tokens - model.token_mean[:, None, None]
    )
    by_direction = []
    for corner in CORNERS[:directions]:
        residuals = scaled - model.predict(scaled, places, corner)
        own = torch.einsum("dc,bchw->bdhw", model.residual_whitener, residuals)
        log_variance = -2 * (
            model.residual_whitener.diagonal().log() + model.token_whitener.diagonal().log()
        )
        by_direction.append(
            0.5
            * (
                math.log(2 * math.pi)
                + factor.log()
                + log_variance.mean()
                + own.square().mean(dim=1) / factor
            )
        )
    expected = torch.stack(by_direction).mean(dim=0)
    torch.testing.assert_close(model.nll(tokens, places), expected, rtol=1e-5, atol=1e-5)
    assert (model.nll(tokens, places) > model.lowest_nll).all()


def test_two_opposite_directions_turn_with_the_image():
    """Without its place and direction, a network from both ends knows no up or down."""
    model = filled(dataclasses.replace(EVERYTHING, directions=2, position_variance=False))
    for parameter in model.position.parameters():
        torch.nn.init.zeros_(parameter)
    tokens = torch.randn(1, 5, 6, 4)
    torch.testing.assert_close(model.nll(tokens.flip(2, 3)), model.nll(tokens).flip(1, 2))
    assert not torch.allclose(model.nll(tokens.flip(3)), model.nll(tokens).flip(2))


def test_only_whitened_models_leave_out_what_is_no_body():
    places = random_places(2, 4, 5)
    assert torch.equal(filled(EVERYTHING).weights(places), places[:, IN_BODY])
    plain = filled(AutoregressiveSpec(hidden_channels=3))
    assert torch.equal(plain.weights(places), torch.ones(2, 4, 5))


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
    assert model.spec.variance is Variance.FIXED
    with torch.no_grad():
        for mine, theirs in zip(model.net[::2], reference.layers, strict=True):
            mine.weight.copy_(theirs.weight)
            mine.bias.copy_(theirs.bias)
    model.variance.fill_(0.37)
    tokens = torch.randn(1, 384, 28, 28)
    with torch.inference_mode():
        expected = reference(tokens)
        torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-5)
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
