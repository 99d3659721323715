"""Time of scoring, beside the same network with full 3×3 kernels and beside the encoder."""

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch
from Benchmark.speed.encoders import QUICK_SIZE, SIZES, random_encoder, random_images
from Benchmark.speed.tables import Options, Table, Target
from Benchmark.speed.timing import MS, in_turn, ratio, spread
from SpatialARAnomalyLib.engine.device import exact_float32
from SpatialARAnomalyLib.engine.encoder.batching import images_at_once
from SpatialARAnomalyLib.engine.model.autoregressive import (
    AutoregressiveModel,
    CausalConv2d,
)
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    Preset,
)
from torch.nn import functional as F

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from torch import Tensor

BATCHES = (1, 8)
HELD_TO_TARGET = (Preset.STANDARD, Preset.DILATED)
"""Presets with a target: the paper's networks."""
MOST_OF_ENCODER = 0.07
"""Largest share of the encoder's time that scoring may take on a CPU."""
EQUAL = 1e-5
"""Largest accepted difference of both networks in float32 (`largest_difference`)."""

FULL_TAPS = 9


class FullConv2d(torch.nn.Module):
    """The masked convolution with its whole 3×3 kernel, as in the paper's code."""

    def __init__(self, causal: CausalConv2d) -> None:
        super().__init__()
        mask = torch.tensor([[1, 1, 1], [1, float(causal.include_center), 0], [0, 0, 0]])
        weight = causal.weight.detach()
        self.weight = torch.nn.Parameter((weight * mask.to(weight)).contiguous())
        self.bias = causal.bias
        self.reach = causal.dilation[0]

    def forward(self, tokens: "Tensor") -> "Tensor":
        """Convolve; height and width stay."""
        return F.conv2d(tokens, self.weight, self.bias, padding=self.reach, dilation=self.reach)


def with_full_kernels(model: AutoregressiveModel) -> AutoregressiveModel:
    """Copy a model into one that computes the same with full kernels."""
    full = copy.deepcopy(model)
    for name, module in model.named_modules():
        if isinstance(module, CausalConv2d):
            full.set_submodule(name, FullConv2d(module))
    return full


def scoring_flop(
    spec: AutoregressiveSpec, channels: int, tokens: int, taps: int | None = None
) -> int:
    """Count the floating-point operations of the products in one image's NLL.

    `taps` is the number per kernel; by default those that the mask keeps: 4 in the first
    layer and 5 in all others.
    """
    widths = [channels, *[spec.hidden_channels] * (spec.layers - 1), channels]
    branch = sum(
        (taps or (5 if layer else 4)) * widths[layer] * widths[layer + 1]
        for layer in range(spec.layers)
    )
    if spec.shrinkage < 1:
        branch += channels**2  # errors times W
    return 2 * tokens * len(spec.dilations) * branch


def random_model(preset: Preset, channels: int, device: "torch.device") -> AutoregressiveModel:
    """Make the preset's network with its initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoregressiveModel(AutoregressiveSpec.from_preset(preset), channels)
    return model.to(device).eval()


def random_tokens(batch: int, channels: int, side: int, device: "torch.device") -> "Tensor":
    """Draw tokens [b, c, h, w] of zero mean and unit variance."""
    generator = torch.Generator().manual_seed(11)
    return torch.randn(batch, channels, side, side, generator=generator).to(device)


def score(model: AutoregressiveModel, tokens: "Tensor") -> "Tensor":
    """Compute the NLL as a detection does."""
    with torch.inference_mode(), exact_float32():
        return model.nll(tokens)


def largest_difference(
    one: AutoregressiveModel, other: AutoregressiveModel, tokens: "Tensor"
) -> float:
    """Return the largest relative difference of predictions, or of NLLs in nats if larger."""
    with torch.inference_mode(), exact_float32():
        predicted = one(tokens)
        means = (other(tokens) - predicted).abs().max() / predicted.abs().max()
    nlls = (score(one, tokens) - score(other, tokens)).abs().max()
    return float(max(means, nlls))


def run(options: Options) -> list[Table]:
    """Measure every preset with batches of 1 and 8 slices."""
    size, side = (QUICK_SIZE, 4) if options.quick else (SIZES["S"], 28)
    encoder = random_encoder(options.work, size, options.device)
    return [_presets(options, encoder, side, batch) for batch in BATCHES]


def _presets(options: Options, encoder: "Encoder", side: int, batch: int) -> Table:
    channels, side_px = encoder.card.channels, side * encoder.card.patch_px
    embedded = images_at_once(encoder, side_px)
    device = options.device
    tokens = random_tokens(batch, channels, side, device)
    calls: dict[str, Callable[[], object]] = {
        "encoder": partial(encoder.embed, random_images(embedded, side_px))
    }
    apart = {}
    for preset in Preset:
        causal = random_model(preset, channels, device)
        full = with_full_kernels(causal)
        calls[preset] = partial(score, causal, tokens)
        calls[f"full {preset}"] = partial(score, full, tokens)
        apart[preset] = largest_difference(causal, full, tokens)
        assert apart[preset] <= EQUAL, (preset, apart[preset])
    seconds = in_turn(calls, options.repeats, device)
    embedding = [one / embedded for one in seconds["encoder"]]
    rows, targets = [], []
    for preset in Preset:
        ours, full_kernels = seconds[preset], seconds[f"full {preset}"]
        faster = ratio(full_kernels, ours)
        share = ratio([one / batch for one in ours], embedding)
        spec = AutoregressiveSpec.from_preset(preset)
        gflop = scoring_flop(spec, channels, side**2) / 1e9
        rate = spread([batch * gflop / one for one in ours])
        rows.append(
            (str(preset), gflop, spread(ours).per(batch * MS), rate, faster, share, apart[preset])
        )
        if preset in HELD_TO_TARGET:
            what = f"{preset}, share of the encoder's time,"
            targets.append(Target(what=what, reached=share, at_most=MOST_OF_ENCODER))
    return Table(
        f"scoring_batch_{batch}",
        f"Scoring {batch} slice(s) of {side}×{side} tokens of {channels} channels at once",
        (
            "preset",
            "GFLOP a slice",
            "ms a slice",
            "GFLOP/s",
            "full 3×3 kernels by ours",
            "share of the encoder's time",
            "largest difference",
        ),
        tuple(rows),
        (f"The encoder runs in the same turns, {embedded} slice(s) of {side_px}² pixels at once.",),
        tuple(targets),
    )
