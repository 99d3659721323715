"""Nearest-neighbor memory banks beside our scoring: seconds and bytes of one slice.

The bank with the cosine distance is AnomalyDINO's rule. The bare product is the least work of an
exhaustive search: every similarity once, and the highest of them.
"""

from functools import partial
from typing import TYPE_CHECKING

import torch
from Benchmark.peers.memory_bank import CHUNK, MemoryBank, bank_bytes
from Benchmark.speed.autoregressive import random_model, random_tokens, score
from Benchmark.speed.growth import draw_growth, exponent
from Benchmark.speed.tables import Options, Table, Target
from Benchmark.speed.timing import MS, in_turn, ratio, spread
from safetensors.torch import save
from SpatialARAnomalyLib.engine.scoring.scoring import SCORED_AT_ONCE
from SpatialARAnomalyLib.engine.specs import Preset

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (10_000, 100_000, 600_000)
CHANNELS, SIDE = 384, 28
QUICK_SIZES, QUICK_CHANNELS, QUICK_SIDE = (100, 300, 1_000), 16, 4
MOST_REPEATS = 3
"""Maximum number of repeats; the largest bank takes seconds per slice."""
FASTER, SMALLER = 150.0, 60.0
FLOAT16, FLOAT32 = 2, 4


@torch.inference_mode()
def highest_products(bank: "Tensor", queries: "Tensor") -> "Tensor":
    """Compute the highest product of every query [q, c] with the bank [n, c], chunk by chunk."""
    best = torch.full((len(queries),), -torch.inf, device=bank.device)
    for start in range(0, len(bank), CHUNK):
        products = queries @ bank[start : start + CHUNK].T
        torch.maximum(best, products.amax(dim=1), out=best)
    return best


def run(options: Options) -> list[Table]:
    """Measure banks of 10⁴ to 6·10⁵ tokens beside preset `standard`, alternately."""
    sizes, channels, side = (
        (QUICK_SIZES, QUICK_CHANNELS, QUICK_SIDE) if options.quick else (SIZES, CHANNELS, SIDE)
    )
    device = options.device
    repeats = min(options.repeats, MOST_REPEATS)
    model = random_model(Preset.STANDARD, channels, device)
    model_bytes = len(save(model.state_dict()))
    scored = random_tokens(SCORED_AT_ONCE, channels, side, device)
    tokens = scored[:1]
    rows_of = tokens.permute(0, 2, 3, 1).reshape(-1, channels)
    queries = torch.nn.functional.normalize(rows_of)

    generator = torch.Generator().manual_seed(3)
    everything = torch.randn(max(sizes), channels, generator=generator).to(device)
    seconds: dict[int, dict[str, list[float]]] = {}
    for size in sizes:
        bank = MemoryBank(everything[:size])
        unit = torch.nn.functional.normalize(bank.tokens)
        calls = {
            "ours": partial(score, model, scored),
            "bank": partial(bank.score, tokens),
            "product": partial(highest_products, unit, queries),
        }
        seconds[size] = in_turn(calls, repeats, device)
        del unit, calls
        # As in a detection; a bank takes the same time per slice for every batch.
        seconds[size]["ours"] = [one / SCORED_AT_ONCE for one in seconds[size]["ours"]]
    faster = {size: ratio(one["bank"], one["ours"]) for size, one in seconds.items()}
    rows = tuple(
        (
            f"{size:,}",
            spread(one["bank"]).per(MS),
            spread(one["product"]).per(MS),
            spread(one["ours"]).per(MS),
            faster[size],
            ratio(one["product"], one["ours"]),
        )
        for size, one in seconds.items()
    )
    medians = {
        name: [spread(one[name]).median for one in seconds.values()]
        for name in ("bank", "product", "ours")
    }
    fits = {name: exponent(sizes, cost) for name, cost in medians.items()}
    largest = max(sizes)
    as_float32 = [bank_bytes(size, channels, FLOAT32) for size in sizes]
    if options.pictures is not None:
        names = {"bank": "memory bank", "product": "its bare product", "ours": "ours (standard)"}
        draw_growth(
            options.pictures / "speed_memory_bank.png",
            "tokens of normal slices",
            "seconds a slice",
            {label: (sizes, medians[name]) for name, label in names.items()},
        )
    return [
        Table(
            "memory_bank_seconds",
            f"Milliseconds to score one slice of {side**2} tokens of {channels} channels",
            (
                "tokens in the bank",
                "memory bank",
                "its bare product",
                "ours (standard)",
                "bank by ours",
                "bare product by ours",
            ),
            (*rows, ("exponent", fits["bank"], fits["product"], fits["ours"], None, None)),
            (
                "Exponents of time against tokens; ours has the same weights for any number "
                "of training slices.",
                f"Ours scores {SCORED_AT_ONCE} slices at once, as in a detection.",
            ),
            (
                Target(
                    what=f"memory bank of {largest:,} tokens by ours, seconds,",
                    reached=faster[largest],
                    at_least=FASTER,
                ),
            ),
        ),
        Table(
            "memory_bank_bytes",
            "Megabytes beside preset standard",
            (
                "tokens",
                "bank, float32",
                "bank, float16",
                "ours, float32",
                "float32 by ours",
                "float16 by ours",
            ),
            tuple(
                (
                    f"{size:,}",
                    whole / 1e6,
                    bank_bytes(size, channels, FLOAT16) / 1e6,
                    model_bytes / 1e6,
                    whole / model_bytes,
                    bank_bytes(size, channels, FLOAT16) / model_bytes,
                )
                for size, whole in zip(sizes, as_float32, strict=True)
            ),
            ("Ours is the size of the model's tensors.",),
            (
                Target(
                    what=f"memory bank of {largest:,} tokens by ours, bytes in float32,",
                    reached=as_float32[-1] / model_bytes,
                    at_least=SMALLER,
                ),
            ),
        ),
    ]
