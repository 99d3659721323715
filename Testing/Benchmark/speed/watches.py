"""Stopwatches on functions: the time of a job by function, each moment counted once."""

import functools
import importlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from Benchmark.speed.timing import synchronize

if TYPE_CHECKING:
    import torch

Place = str
"""`module:function` or `module:Class.method` of the package, where callers look the name up."""


class Watches:
    """Seconds of each group of functions, without those of other groups they call."""

    def __init__(self, device: "torch.device | str" = "cpu") -> None:
        self.seconds: dict[str, float] = {}
        self.missing: list[Place] = []
        """Places without such a function."""
        self._device = device
        self._running = threading.local()

    @contextmanager
    def on(self, groups: Mapping[str, Sequence[Place]]) -> Iterator["Watches"]:
        """Time these functions within the context."""
        undo: list[tuple[Any, str, Any]] = []
        self.seconds |= dict.fromkeys(groups, 0.0)
        try:
            for group, places in groups.items():
                for place in places:
                    found = _find(place)
                    if found is None:
                        self.missing.append(place)
                        continue
                    owner, name = found
                    undo.append((owner, name, owner.__dict__[name]))
                    setattr(owner, name, self._watched(group, owner.__dict__[name]))
            yield self
        finally:
            for owner, name, before in reversed(undo):
                setattr(owner, name, before)

    def _watched(self, group: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            # For every running function, the seconds of the functions it called.
            stack: list[float] = self._running.__dict__.setdefault("stack", [])
            stack.append(0.0)
            start = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                synchronize(self._device)
                took = time.perf_counter() - start
                self.seconds[group] += took - stack.pop()
                if stack:
                    stack[-1] += took

        return watched


def _find(place: Place) -> tuple[Any, str] | None:
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    try:
        owner: Any = importlib.import_module(f"SpatialARAnomalyLib.{module}")
        for one in owners:
            owner = getattr(owner, one)
    except (ImportError, AttributeError):
        return None
    return (owner, name) if name in owner.__dict__ else None
