"""Errors without a caller: exceptions in slots, observers and event handlers.

PythonQt and VTK pass them to `sys.excepthook` and continue. The harness collects them, so that a
test can assert that there were none.
"""

import contextlib
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType

_collected: list[BaseException] = []


class ConnectionRefusedByPythonQtError(ValueError):
    """A faulty connection that PythonQt only prints, collected like an exception of a slot."""


def report(error: BaseException) -> None:
    """Pass the error of a slot to `sys.excepthook`, like PythonQt."""
    sys.excepthook(type(error), error, error.__traceback__)


def taken() -> list[BaseException]:
    """Return the collected errors, and clear the collection."""
    errors = _collected[:]
    _collected.clear()
    return errors


@contextlib.contextmanager
def expected_slot_errors() -> Iterator[list[BaseException]]:
    """Yield a list of the errors collected within the block, which are then expected."""
    before = taken()
    errors: list[BaseException] = []
    try:
        yield errors
    finally:
        errors += taken()
        _collected.extend(before)


def raise_interruption() -> None:
    """Raise again an error meant to end the program, such as a time-out inside a slot."""
    for error in _collected:
        if not isinstance(error, Exception | SystemExit):
            _collected.remove(error)
            raise error


def described(errors: list[BaseException]) -> str:
    """Format the errors with their tracebacks for the message of a failing test."""
    return "\n".join("".join(traceback.format_exception(error)) for error in errors)


def install() -> None:
    """Collect and print the errors that reach `sys.excepthook`."""
    print_error = sys.excepthook

    def collect(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        _collected.append(error)
        print_error(kind, error, trace)

    sys.excepthook = collect
