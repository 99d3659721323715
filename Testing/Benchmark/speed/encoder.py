"""The encoder's rate as a share of the machine's best float32 matrix product.

Both are counted in floating-point operations: an addition and a multiplication each count as
one, so a product of n×k and k×m is 2·n·k·m. Norms, GELU, softmax and rotations count nothing
but take time, so the share cannot reach 1.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from Benchmark.speed.encoders import (
    PATCH_PX,
    QUICK_SIZE,
    REGISTERS,
    SIZES,
    Size,
    random_encoder,
    random_images,
)
from Benchmark.speed.tables import Options, Table, Target, number
from Benchmark.speed.timing import in_turn, ratio, spread
from SpatialARAnomalyLib.engine.encoder.batching import images_at_once

if TYPE_CHECKING:
    import torch
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder

SIDE_PX = 448
BATCHES = {"cpu": (1, 2, 4, 8), "cuda": (1, 4, 16), "mps": (1, 2, 4, 8)}
SQUARES = {"cpu": (1024, 2048), "cuda": (2048, 4096, 8192), "mps": (1024, 2048)}
LEAST_SHARE = 0.75
THREAD_BATCHES, THREAD_REPEATS = (1, 4), 3
LEAST_GFLOP = 15.0
"""Least work of one measurement in GFLOP; smaller products are repeated (clock resolution)."""


def encoder_flop(size: Size, side_px: int, registers: int = REGISTERS) -> int:
    """Count the floating-point operations of the products in one image's forward pass.

    With n patches of p×p×3 values, N = n + 1 + registers tokens and C channels:

        patch embedding         2·n·3p²·C
        per layer: q, k, v, o   4 · 2·N·C²
                   the MLP      2 · 2·N·C·4C
                   QKᵀ and AV   2 · 2·N²·C      (all heads together)
    """
    patches = (side_px // PATCH_PX) ** 2
    tokens, channels = patches + 1 + registers, size.channels
    embedding = 2 * patches * 3 * PATCH_PX**2 * channels
    projections = 4 * 2 * tokens * channels**2
    mlp = 2 * 2 * tokens * channels * 4 * channels
    attention = 2 * 2 * tokens**2 * channels
    return embedding + size.layers * (projections + mlp + attention)


Shape = tuple[int, int, int]
"""Shape of a product: rows of the left factor, its columns, columns of the right one."""


def product_shapes(size: Size, device: str, side_px: int) -> list[Shape]:
    """List squares, and the products of the encoder's own layers."""
    tokens = (side_px // PATCH_PX) ** 2 + 1 + REGISTERS
    own = [
        (batch * tokens, *widths)
        for batch in BATCHES[device][:2]
        for widths in (
            (size.channels, size.channels),
            (size.channels, 4 * size.channels),
            (4 * size.channels, size.channels),
        )
    ]
    return [*((side,) * 3 for side in SQUARES[device]), *own]


class Product:
    """A float32 matrix product, repeated until one measurement has enough work."""

    def __init__(
        self, shape: Shape, device: "torch.device", least_gflop: float = LEAST_GFLOP
    ) -> None:
        import torch

        rows, inner, columns = shape
        flop = 2 * rows * inner * columns
        self.calls = max(1, math.ceil(least_gflop * 1e9 / flop))
        self.gflop = self.calls * flop / 1e9
        self._left = torch.rand(rows, inner, device=device)
        # The layout of a layer's weights: [out, in].
        self._right = torch.rand(columns, inner, device=device)
        self._out = torch.empty(rows, columns, device=device)

    def __call__(self) -> None:
        """Multiply."""
        import torch

        for _ in range(self.calls):
            torch.mm(self._left, self._right.T, out=self._out)


def run(options: Options) -> list[Table]:
    """Measure the share of the best rate by batch; on a CPU also threads against batches."""
    size, side_px = (QUICK_SIZE, 64) if options.quick else (SIZES["S"], SIDE_PX)
    encoder = random_encoder(options.work, size, options.device)
    product, products = best_product(options, size, side_px)
    tables = [products, share(options, encoder, size, side_px, product)]
    if options.device.type == "cpu":
        tables.append(threads(options, encoder, side_px))
    return tables


def best_product(options: Options, size: Size, side_px: int) -> tuple[Product, Table]:
    """Return the fastest product, and the table of all."""
    least = 0.01 if options.quick else LEAST_GFLOP
    shapes = product_shapes(size, options.device.type, side_px)
    if options.quick:
        shapes = [shape for shape in shapes if max(shape) < 1024]
    products = {_times(shape): Product(shape, options.device, least) for shape in shapes}
    seconds = in_turn(products, options.repeats, options.device)
    rates = {
        name: spread([product.gflop / one for one in seconds[name]])
        for name, product in products.items()
    }
    best = max(rates, key=lambda name: rates[name].median)
    table = Table(
        "product_rates",
        "Float32 matrix products",
        ("shape", "GFLOP/s"),
        tuple(rates.items()),
        (f"The encoder is compared with the best, {best}.",),
    )
    return products[best], table


def share(
    options: Options, encoder: "Encoder", size: Size, side_px: int, product: Product
) -> Table:
    """Measure the encoder's rate as a share of the product's, which runs before every batch."""
    gflop = encoder_flop(size, side_px) / 1e9
    batches = sorted({*BATCHES[options.device.type], images_at_once(encoder, side_px)})
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    for batch in batches:
        calls["product", batch] = product
        calls["encoder", batch] = _embed(encoder, batch, side_px)
    seconds = in_turn(calls, options.repeats, options.device)
    rows, reached = [], {}
    for batch in batches:
        taken = seconds["encoder", batch]
        rate = [batch * gflop / one for one in taken]
        best = [product.gflop / one for one in seconds["product", batch]]
        reached[batch] = ratio(rate, best)
        rows.append((batch, spread(taken).per(batch), spread(rate), spread(best), reached[batch]))
    chosen = images_at_once(encoder, side_px)
    return Table(
        "encoder_rate",
        f"Encoder: {size.channels} channels, {size.layers} layers, {side_px}² pixels, "
        f"{number(gflop)} GFLOP a slice",
        ("batch", "s a slice", "GFLOP/s", "product before it, GFLOP/s", "share of the best rate"),
        tuple(rows),
        (f"The program takes batches of {chosen} here.",),
        (
            Target(
                what=f"share of the best rate with batch {chosen}",
                reached=reached[chosen],
                at_least=LEAST_SHARE,
            ),
        ),
    )


def threads(options: Options, encoder: "Encoder", side_px: int) -> Table:
    """Measure seconds per slice by CPU threads and batch."""
    cores = os.cpu_count() or 1
    counts = sorted({*(2**power for power in range(cores.bit_length())), cores})
    counts = [count for count in counts if count <= cores]

    def with_threads(count: int, call: Callable[[], object]) -> None:
        with threads_set(count):
            call()

    things = {
        (count, batch): partial(with_threads, count, _embed(encoder, batch, side_px))
        for count in counts
        for batch in THREAD_BATCHES
    }
    seconds = in_turn(
        things,
        min(options.repeats, THREAD_REPEATS),
    )
    first = [one / THREAD_BATCHES[0] for one in seconds[counts[0], THREAD_BATCHES[0]]]
    rows = []
    for count, batch in things:
        each = [one / batch for one in seconds[count, batch]]
        rows.append((count, batch, spread(each), ratio(first, each)))
    return Table(
        "encoder_threads",
        "Encoder by CPU threads and batch",
        ("threads", "batch", "s a slice", "times as fast as the first"),
        tuple(rows),
    )


@contextmanager
def threads_set(count: int) -> Iterator[None]:
    """Set PyTorch's number of CPU threads within the context."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _embed(encoder: "Encoder", batch: int, side_px: int) -> Callable[[], object]:
    return partial(encoder.embed, random_images(batch, side_px))


def _times(shape: Shape) -> str:
    rows, inner, columns = shape
    return f"{rows}×{inner} · {inner}×{columns}"
