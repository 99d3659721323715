"""Errors that no caller ever sees: raised in slots, observers and event handlers.

PythonQt hands them to `sys.excepthook` and goes on; so does VTK. The harness collects what passes
there, so that a test can assert that nothing did.
"""

import contextlib
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType

_collected: list[BaseException] = []


class ConnectionRefusedByPythonQtError(ValueError):
    """A connection that PythonQt only prints about, collected as if a slot had raised it."""


def report(error: BaseException) -> None:
    """Do with the error of a slot what PythonQt does: hand it to `sys.excepthook` and go on."""
    sys.excepthook(type(error), error, error.__traceback__)


def taken() -> list[BaseException]:
    """The errors collected so far; they are forgotten here."""
    errors = _collected[:]
    _collected.clear()
    return errors


@contextlib.contextmanager
def expected_slot_errors() -> Iterator[list[BaseException]]:
    """The errors collected within the block, which then count as expected."""
    before = taken()
    errors: list[BaseException] = []
    try:
        yield errors
    finally:
        errors += taken()
        _collected.extend(before)


def raise_interruption() -> None:
    """Raise again what was meant to end the program, such as a timeout inside a slot."""
    for error in _collected:
        if not isinstance(error, Exception | SystemExit):
            _collected.remove(error)
            raise error


def described(errors: list[BaseException]) -> str:
    """The errors with their tracebacks, for the message of a failing test."""
    return "\n".join("".join(traceback.format_exception(error)) for error in errors)


def install() -> None:
    """Collect whatever reaches `sys.excepthook`, and still print it."""
    print_error = sys.excepthook

    def collect(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        _collected.append(error)
        print_error(kind, error, trace)

    sys.excepthook = collect
