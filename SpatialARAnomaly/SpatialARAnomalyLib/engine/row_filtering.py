"""A 2×3 convolution with half its multiplications: Winograd's minimal filtering along rows.

Four neighboring outputs of a three-tap filter need 12 products taken one by one, but
only six where inputs and taps are first turned into the values of their polynomials at
six points (F(4, 3) of Lavin & Gray, CVPR 2016, arXiv 1509.09308). Between the points
there is nothing but matrix products. Through rounding a token may change the last bits
of what stands before it in its own row, never the values.
"""

import torch
from jaxtyping import Float
from torch import Tensor

OUTPUTS = 4

NEAR, FAR = 0.75, 1.5
"""The points are 0, ±`NEAR`, ±`FAR` and ∞: rounding is a third of that with the
published ±1 and ±2, and these and their squares are exact in float32."""

POINTS = 6
_NEAR_2, _FAR_2 = NEAR**2, FAR**2


def _taps_to_points() -> list[list[float]]:
    """A filter's values at the points, each over the product of its distances to the others."""

    def at(point: float, distances: float) -> list[float]:
        return [point**power / distances for power in range(3)]

    near, far = 2 * _NEAR_2 * (_NEAR_2 - _FAR_2), 2 * _FAR_2 * (_FAR_2 - _NEAR_2)
    return [
        at(0.0, _NEAR_2 * _FAR_2),
        at(NEAR, near),
        at(-NEAR, near),
        at(FAR, far),
        at(-FAR, far),
        [0.0, 0.0, 1.0],
    ]


def kernel_points(rows: Float[Tensor, "o i 2 3"]) -> Float[Tensor, "2 6 i o"]:
    """Both rows of a kernel at the points: matrices from input to output channels."""
    out, into = rows.shape[:2]
    to_points = rows.new_zeros(2, POINTS, 2, 3)
    to_points[0, :, 0] = to_points[1, :, 1] = rows.new_tensor(_taps_to_points())
    at_points = to_points.view(2 * POINTS, 6) @ rows.reshape(out * into, 6).T
    return at_points.view(2, POINTS, out, into).transpose(2, 3)


def filter_rows(
    tokens: Float[Tensor, "b i h w"],
    kernel: Float[Tensor, "2 6 i o"],
    bias: Float[Tensor, " o"],
    reach: int,
) -> Float[Tensor, "b o h w"]:
    """The convolution with the row `reach` above and the own row, three taps each, `reach` apart.

    Zeros lie outside. The channels of what it gives lie together in memory.
    """
    batch, _, height, width = tokens.shape
    points = _input_points(tokens, reach)
    above, own = points[:, :height], points[:, reach:]
    found = torch.bmm(above.flatten(1, 4), kernel[0])
    found.baddbmm_(own.flatten(1, 4), kernel[1])
    outputs = _outputs(found.view(POINTS, *own.shape[1:5], -1), bias)
    filtered = outputs.view(height, batch, -1, outputs.shape[-1])[:, :, :width]
    return filtered.permute(1, 3, 0, 2)


def _input_points(tokens: Float[Tensor, "b i h w"], reach: int) -> Float[Tensor, "6 H b t d i"]:
    """Every window of six tokens at the points; `reach` rows of zeros above the first.

    Windows begin four tokens apart, each of tokens `reach` apart: t windows for each
    of d = `reach` interleaved rows. Rows come before images, so that the rows above and
    the own ones are each one piece of memory.
    """
    batch, channels, height, width = tokens.shape
    windows = -(-width // (OUTPUTS * reach))
    length = windows * OUTPUTS + 2
    padded = tokens.new_zeros(height + reach, batch, length * reach, channels)
    padded[reach:, :, reach : reach + width] = tokens.permute(2, 0, 3, 1)
    interleaved = padded.view(height + reach, batch, length, reach, channels)
    x0, x1, x2, x3, x4, x5 = (
        interleaved[:, :, first : first + OUTPUTS * windows - 3 : OUTPUTS] for first in range(6)
    )
    points = tokens.new_empty(POINTS, *x0.shape)
    # Per point, the input's polynomial over that point's own factor.
    even, odd = torch.sub(x4, x2, alpha=_FAR_2), torch.sub(x3, x1, alpha=_FAR_2)
    torch.sub(even, x2, alpha=_NEAR_2, out=points[0]).add_(x0, alpha=_NEAR_2 * _FAR_2)
    torch.add(even, odd, alpha=NEAR, out=points[1])
    torch.sub(even, odd, alpha=NEAR, out=points[2])
    torch.sub(x5, odd, alpha=_NEAR_2, out=points[5]).sub_(x3, alpha=_FAR_2)
    torch.sub(x4, x2, alpha=_NEAR_2, out=even)
    torch.sub(x3, x1, alpha=_NEAR_2, out=odd)
    torch.add(even, odd, alpha=FAR, out=points[3])
    torch.sub(even, odd, alpha=FAR, out=points[4])
    return points


def _outputs(
    points: Float[Tensor, "6 h b t d o"], bias: Float[Tensor, " o"]
) -> Float[Tensor, "h b t 4 d o"]:
    """From the products at the points to the outputs; overwrites `points`."""
    p0, p1, p2, p3, p4, p5 = points
    height, batch, windows, reach, channels = p0.shape
    outputs = points.new_empty(height, batch, windows, OUTPUTS, reach, channels)
    near_sum, far_sum = p1 + p2, p3 + p4
    near, far = p1.sub_(p2), p3.sub_(p4)
    torch.add(p0.add_(near_sum).add_(bias), far_sum, out=outputs[:, :, :, 0])
    torch.add(p5.add_(near, alpha=NEAR**3).add_(bias), far, alpha=FAR**3, out=outputs[:, :, :, 3])
    torch.add(near.mul_(NEAR).add_(bias), far, alpha=FAR, out=outputs[:, :, :, 1])
    torch.add(near_sum.mul_(_NEAR_2).add_(bias), far_sum, alpha=_FAR_2, out=outputs[:, :, :, 2])
    return outputs
