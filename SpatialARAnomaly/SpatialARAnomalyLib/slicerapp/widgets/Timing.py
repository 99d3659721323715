"""Timers that fire once, and waiting for an answer while Slicer stays alive."""

from collections.abc import Callable
from typing import Any

import qt


def onceTimer(milliseconds: int) -> "qt.QTimer":
    """A timer that fires once after every `start`; who connects to it keeps and stops it."""
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(milliseconds)
    return timer


def waitFor(start: Callable[[Callable[[Any], None]], None], timeoutMs: int | None = None) -> Any:
    """Run an event loop until the callback given to `start` is called; what it was called with.

    Raises `TimeoutError` where that takes longer than `timeoutMs`.
    """
    loop = qt.QEventLoop()
    answers: list[Any] = []

    def end(answer: Any) -> None:
        answers.append(answer)
        loop.quit()

    start(end)
    if not answers and timeoutMs is None:
        loop.exec_()
    elif not answers:
        timer = onceTimer(timeoutMs)
        timer.timeout.connect(loop.quit)
        timer.start()
        loop.exec_()
        timer.stop()
    if not answers:
        raise TimeoutError("no answer in time")
    return answers[0]
