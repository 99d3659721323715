"""Alternating measurements in one process, so that a slow machine slows all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Key = TypeVar("Key")

MS = 1e-3
"""A millisecond in seconds; `spread(…).per(MS)` is a time in milliseconds."""


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, with the smallest and the largest."""

    median: float
    low: float
    high: float

    def per(self, count: float) -> "Spread":
        """Divide by `count`: the same for one of `count` equal parts."""
        return Spread(self.median / count, self.low / count, self.high / count)


@dataclass(frozen=True)
class Ratio(Spread):
    """The median of paired ratios, with the smallest and the largest."""


def spread(values: Sequence[float]) -> Spread:
    """Compute median and range of measurements."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Divide every measurement of `above` by that of `below` in the same turn."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def timed(thing: Callable[[], object], device: "torch.device | str" = "cpu") -> float:
    """Measure the seconds of one call, including the GPU's work."""
    synchronize(device)
    start = time.perf_counter()
    thing()
    synchronize(device)
    return time.perf_counter() - start


def in_turn(
    things: Mapping[Key, Callable[[], object]], repeats: int, device: "torch.device | str" = "cpu"
) -> dict[Key, list[float]]:
    """Measure the seconds of every call: one each to warm up, then A B A B … `repeats` times."""
    for thing in things.values():
        thing()
    seconds: dict[Key, list[float]] = {name: [] for name in things}
    for _ in range(repeats):
        for name, thing in things.items():
            seconds[name].append(timed(thing, device))
    return seconds


def synchronize(device: "torch.device | str") -> None:
    """Wait until the device has finished its work."""
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
