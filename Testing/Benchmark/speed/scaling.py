"""Growth of the time from slices to NLL volume with slices, resolution and encoder."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from Benchmark.speed.autoregressive import random_model
from Benchmark.speed.encoder import encoder_flop
from Benchmark.speed.encoders import QUICK_SIZE, SIZES, Size, random_encoder
from Benchmark.speed.growth import draw_growth, exponent
from Benchmark.speed.tables import Cell, Options, Table
from Benchmark.speed.timing import Key, in_turn, spread
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import nll_volume
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import (
    IntensitySpec,
    Modality,
    Plane,
    Preset,
    SliceSpec,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel

SLICES, SLICES_PX = (8, 20, 50, 155), 224
"""Numbers of slices, and their side in pixels: a quarter of the usual pixels, to take seconds."""
SIDES_PX, SIDES_SLICES = (224, 320, 448, 640, 896), 2
SIZES_PX, SIZES_SLICES = 448, 2
MOST_REPEATS = 2

QUICK_SLICES, QUICK_PX, QUICK_SIDES_PX = (2, 4, 8), 32, (32, 48, 64)
QUICK_SIZES = {"S": QUICK_SIZE, "B": Size(192, 3, 3)}

GRID, FOV_MM = 240, 240.0


def cylinder(slices: int) -> Volume:
    """Make noise in a round body of 100 mm radius on every slice, [k, 240, 240], 1 mm."""
    rows, columns = np.ogrid[:GRID, :GRID]
    middle = (GRID - 1) / 2
    inside = (rows - middle) ** 2 + (columns - middle) ** 2 < 100**2
    noise = np.random.RandomState(0).uniform(400, 600, (slices, GRID, GRID))
    return Volume(np.where(inside, noise, 0).astype(np.float32), np.eye(4))


def stack_of(slices: int, side_px: int, patch_px: int) -> SliceStack:
    """Cut the cylinder into slice images."""
    stack = SliceStack(
        PlaneVolume(cylinder(slices), Plane.AXIAL, Modality.MR),
        SliceSpec(fov_mm=FOV_MM, size_px=side_px),
        IntensitySpec.for_modality(Modality.MR),
        patch_px,
    )
    assert len(stack.indices) == slices
    return stack


def run(options: Options) -> list[Table]:
    """Measure a table and a picture for each; few repeats suffice for the exponents."""
    sizes = QUICK_SIZES if options.quick else SIZES
    encoder = random_encoder(options.work, sizes["S"], options.device)
    model = random_model(Preset.STANDARD, encoder.card.channels, options.device)
    return [
        _by_slices(options, encoder, model),
        _by_resolution(options, sizes["S"], encoder, model),
        _by_size(options, sizes),
    ]


def _by_slices(options: Options, encoder: "Encoder", model: "AutoregressiveModel") -> Table:
    counts, side_px = (QUICK_SLICES, QUICK_PX) if options.quick else (SLICES, SLICES_PX)
    patch = encoder.card.patch_px
    cases = {count: (stack_of(count, side_px, patch), encoder, model) for count in counts}
    seconds = _seconds(options, cases)
    medians = [spread(seconds[count]).median for count in counts]
    fit = exponent(counts, medians)
    _draw(options, "slices", "slices", counts, medians)
    rows = [(count, spread(seconds[count]), spread(seconds[count]).per(count)) for count in counts]
    return Table(
        "scaling_slices",
        f"Slices to NLL volume by slices, {side_px}² pixels",
        ("slices", "s", "s a slice"),
        (*rows, ("exponent", fit, None)),
    )


def _by_resolution(
    options: Options, size: Size, encoder: "Encoder", model: "AutoregressiveModel"
) -> Table:
    sides, slices = (QUICK_SIDES_PX, 2) if options.quick else (SIDES_PX, SIDES_SLICES)
    patch = encoder.card.patch_px
    cases = {side: (stack_of(slices, side, patch), encoder, model) for side in sides}
    seconds = _seconds(options, cases)
    medians = [spread(seconds[side]).median / slices for side in sides]
    tokens = [(side // patch) ** 2 for side in sides]
    gflop = [encoder_flop(size, side) / 1e9 for side in sides]
    _draw(options, "resolution", "pixels of a side", sides, medians)
    rows: list[tuple[Cell, ...]] = [
        (f"{side}²", count, work, spread(seconds[side]).per(slices))
        for side, count, work in zip(sides, tokens, gflop, strict=True)
    ]
    return Table(
        "scaling_resolution",
        f"Slices to NLL volume by resolution, {slices} slices",
        ("pixels", "tokens", "encoder's GFLOP a slice", "s a slice"),
        (*rows, *_exponents({"tokens": tokens, "GFLOP": gflop}, medians, columns=4)),
    )


def _by_size(options: Options, sizes: Mapping[str, Size]) -> Table:
    side_px, slices = (QUICK_PX, 2) if options.quick else (SIZES_PX, SIZES_SLICES)
    cases, parameters = {}, []
    for name, size in sizes.items():
        encoder = random_encoder(options.work, size, options.device)
        parameters.append(encoder.card.parameters / 1e6)
        model = random_model(Preset.STANDARD, size.channels, options.device)
        cases[name] = (stack_of(slices, side_px, encoder.card.patch_px), encoder, model)
    seconds = _seconds(options, cases)
    medians = [spread(seconds[name]).median / slices for name in sizes]
    gflop = [encoder_flop(size, side_px) / 1e9 for size in sizes.values()]
    _draw(options, "encoder", "GFLOP of the encoder a slice", gflop, medians)
    rows: list[tuple[Cell, ...]] = [
        (f"ViT-{name}", millions, work, spread(seconds[name]).per(slices))
        for name, millions, work in zip(sizes, parameters, gflop, strict=True)
    ]
    return Table(
        "scaling_encoder",
        f"Slices to NLL volume by encoder, {side_px}² pixels, {slices} slices",
        ("encoder", "million weights", "GFLOP a slice", "s a slice"),
        (*rows, *_exponents({"weights": parameters, "GFLOP": gflop}, medians, columns=4)),
    )


def _seconds(
    options: Options, cases: "Mapping[Key, tuple[SliceStack, Encoder, AutoregressiveModel]]"
) -> dict[Key, list[float]]:
    report = SilentReporter()
    calls = {
        key: partial(nll_volume, stack, encoder, model, report)
        for key, (stack, encoder, model) in cases.items()
    }
    return in_turn(calls, min(options.repeats, MOST_REPEATS), options.device)


def _exponents(
    works: Mapping[str, Sequence[float]], seconds: Sequence[float], columns: int
) -> list[tuple[Cell, ...]]:
    """Make the rows with the power of each kind of work."""
    empty = (None,) * (columns - 2)
    return [
        (f"exponent against {name}", *empty, exponent(work, seconds))
        for name, work in works.items()
    ]


def _draw(
    options: Options, name: str, label: str, work: Sequence[float], seconds: Sequence[float]
) -> None:
    if options.pictures is not None:
        unit = "seconds" if name == "slices" else "seconds a slice"
        path = options.pictures / f"speed_{name}.png"
        draw_growth(path, label, unit, {"slices to NLL volume": (work, seconds)})
