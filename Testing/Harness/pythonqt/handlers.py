"""Event handlers of Python subclasses: their exceptions go to `sys.excepthook`."""

import functools
from collections.abc import Callable
from types import FunctionType
from typing import Any

from PySide6.QtCore import QObject

from .slot_errors import report

_BOOL_RESULT = ("event", "eventFilter")


def _is_event_handler(name: str) -> bool:
    return name in _BOOL_RESULT or name.endswith("Event")


def _reporting(handler: Callable, is_bool: bool) -> Callable:
    @functools.wraps(handler)
    def handle(*args: Any) -> bool | None:
        result = None
        try:
            result = handler(*args)
        except BaseException as error:
            report(error)
        # An event filter that returns nothing filters nothing.
        return bool(result) if is_bool else None

    return handle


def _init_subclass(cls: type, **kwargs: Any) -> None:
    for name, value in list(vars(cls).items()):
        if isinstance(value, FunctionType) and _is_event_handler(name):
            setattr(cls, name, _reporting(value, name in _BOOL_RESULT))


def install() -> None:
    """Guard the event handlers of every Python subclass made from here on."""
    QObject.__init_subclass__ = classmethod(_init_subclass)
