"""Things run in turn in one process, so that what slows the machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Key = TypeVar("Key")

MS = 1e-3
"""A millisecond, in seconds: `spread(…).per(MS)` tells a time in milliseconds."""


@dataclass(frozen=True)
class Spread:
    """The median of repeated measurements, and their least and largest."""

    median: float
    low: float
    high: float

    def per(self, count: float) -> "Spread":
        """The same for one of `count` equal parts."""
        return Spread(self.median / count, self.low / count, self.high / count)


@dataclass(frozen=True)
class Ratio(Spread):
    """The median of paired ratios, and their least and largest."""


def spread(values: Sequence[float]) -> Spread:
    """Median and range of measurements."""
    return Spread(statistics.median(values), min(values), max(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Every measurement of `above` by that of `below` in the same turn."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def timed(thing: Callable[[], object], device: "torch.device | str" = "cpu") -> float:
    """Seconds of one call; a GPU is waited for."""
    synchronize(device)
    start = time.perf_counter()
    thing()
    synchronize(device)
    return time.perf_counter() - start


def in_turn(
    things: Mapping[Key, Callable[[], object]], repeats: int, device: "torch.device | str" = "cpu"
) -> dict[Key, list[float]]:
    """Seconds of every call: one of each to warm up, then A B A B … `repeats` times."""
    for thing in things.values():
        thing()
    seconds: dict[Key, list[float]] = {name: [] for name in things}
    for _ in range(repeats):
        for name, thing in things.items():
            seconds[name].append(timed(thing, device))
    return seconds


def synchronize(device: "torch.device | str") -> None:
    """Until the device has done all that it was given."""
    if str(device).startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
