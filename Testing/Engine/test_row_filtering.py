"""Minimal filtering: the convolution with both rows of its kernel, by fewer products."""

import pytest
import torch
from SpatialARAnomalyLib.engine.causal_convolution import CausalConv2d
from SpatialARAnomalyLib.engine.row_filtering import filter_rows, kernel_points
from torch.nn import functional as F


def direct(tokens, rows, bias, reach):
    return F.conv2d(F.pad(tokens, (reach, reach, reach, 0)), rows, bias, dilation=reach)


@pytest.mark.parametrize("reach", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("size", [(8, 8), (5, 13), (1, 6), (9, 1), (3, 28)])
def test_equals_the_direct_convolution_in_double_precision(reach, size):
    generator = torch.Generator().manual_seed(reach)
    tokens, rows, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in [(3, 5, *size), (4, 5, 2, 3), (4,)]
    )
    filtered = filter_rows(tokens, kernel_points(rows), bias, reach)
    torch.testing.assert_close(filtered, direct(tokens, rows, bias, reach), rtol=1e-12, atol=1e-12)


def test_rounding_is_that_of_the_direct_convolution():
    """At the paper's width in float32, against float64: no worse than twice the direct one."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, 384, 28, 28, generator=generator)
    rows = torch.randn(64, 384, 2, 3, generator=generator) / (6 * 384) ** 0.5
    bias = torch.randn(64, generator=generator)
    exact = direct(tokens.double(), rows.double(), bias.double(), 1)
    ours = (filter_rows(tokens, kernel_points(rows), bias, 1) - exact).abs().max()
    theirs = (direct(tokens, rows, bias, 1) - exact).abs().max()
    assert ours < 2 * theirs
    assert ours < 1e-5


def test_weights_that_change_are_followed():
    layer = CausalConv2d(3, 3, dilation=1, include_center=True)
    tokens = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = layer(tokens)
        layer.weight.data *= 2.0
        layer.bias.data *= 2.0
        torch.testing.assert_close(layer(tokens), 2.0 * before)


@pytest.mark.parametrize("include_center", [False, True])
@pytest.mark.parametrize("dilation", [1, 4])
def test_a_later_token_moves_no_earlier_output(dilation, include_center):
    """Rounding aside; the gradient is held to zero exactly in test_autoregressive."""
    layer = CausalConv2d(16, 16, dilation=dilation, include_center=include_center)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(1, 16, 10, 12, generator=generator)
    changed = tokens.clone()
    row, column = 5, 6
    changed[..., row, column:] = torch.randn(1, 16, 6, generator=generator)
    changed[..., row + 1 :, :] = torch.randn(1, 16, 4, 12, generator=generator)
    with torch.inference_mode():
        difference = (layer(changed) - layer(tokens)).abs().amax(dim=1)[0]
    earlier = difference.flatten()[: row * 12 + column + (not include_center)]
    assert earlier.max() < 1e-6
    assert (difference[:row] == 0).all()
    assert difference[row, column + include_center - 1 + dilation :].max() > 0.1


def test_nothing_follows_where_gradients_are_asked_for():
    layer = CausalConv2d(4, 4, dilation=2, include_center=True)
    tokens = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scored = layer(tokens)
    learned = layer(tokens)
    assert learned.requires_grad
    torch.testing.assert_close(learned.detach(), scored, atol=1e-6, rtol=1e-5)
