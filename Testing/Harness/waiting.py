"""Waiting in an event loop, and measuring how long the window does not respond."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import qt

from .pythonqt import slot_errors

_CHECK_EVERY_MS = 5


class WaitedInVainError(AssertionError):
    """A condition did not hold within its time limit."""


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0, what: str = "") -> None:
    """Run the event loop until the condition holds; the error after the time limit names `what`."""
    loop = qt.QEventLoop()
    end = time.monotonic() + timeout_s
    outcome: list[BaseException | bool] = []

    def check() -> None:
        try:
            slot_errors.raise_interruption()
            if condition():
                outcome.append(True)
            elif time.monotonic() < end:
                return
        except BaseException as error:
            outcome.append(error)
        loop.quit()

    timer = qt.QTimer()
    timer.timeout.connect(check)
    timer.start(_CHECK_EVERY_MS)
    check()
    if not outcome:
        loop.exec_()
    timer.stop()
    if outcome and isinstance(outcome[0], BaseException):
        raise outcome[0]
    if not outcome:
        name = what or getattr(condition, "__name__", "the condition")
        raise WaitedInVainError(f"waited {timeout_s:g} s in vain for: {name}")


def run_events(seconds: float = 0.0) -> None:
    """Run the event loop for this time, or for one turn."""
    loop = qt.QEventLoop()
    qt.QTimer.singleShot(round(1000 * seconds), loop.quit)
    loop.exec_()


@dataclass
class GuiGap:
    """The longest time between two turns of the event loop."""

    longest_s: float = 0.0


@contextlib.contextmanager
def gui_gap(tick_ms: int = 10, clock: Callable[[], float] = time.monotonic) -> Iterator[GuiGap]:
    """Measure the longest gap between ticks of a short timer, within the block and at its end.

    With `time.thread_time` as clock the gap is CPU time, which does not depend on the load.
    """
    gap = GuiGap()
    last = clock()

    def tick() -> None:
        nonlocal last
        now = clock()
        gap.longest_s = max(gap.longest_s, now - last)
        last = now

    timer = qt.QTimer()
    timer.timeout.connect(tick)
    timer.start(tick_ms)
    try:
        yield gap
    finally:
        tick()
        timer.stop()
