"""Slots and observers that end with their widget.

Connections and observers keep their callbacks alive. A C++ widget does not keep itself alive, so
its stand-in must not, either.
"""

import weakref
from collections.abc import Callable
from typing import Any

import shiboken6

from Harness.pythonqt.signals import accepted_arguments


def calling(widget: Any, name: str) -> Callable:
    """A slot that calls a method or signal of the widget without keeping it alive."""
    alive = weakref.ref(widget)

    def call(*args: Any) -> None:
        widget = alive()
        if widget is not None and shiboken6.isValid(widget):
            method = getattr(widget, name)
            method(*accepted_arguments(method, args))

    return call


class Observers:
    """The observers a widget has on one VTK object at a time."""

    def __init__(self, widget: Any):
        self._widget = weakref.ref(widget)
        self._subject: Any = None
        self._tags: list[int] = []

    def observe(self, subject: Any, methods: dict[Any, str]) -> None:
        """Observe these events of this object with these methods, and no longer another object."""
        for tag in self._tags:
            self._subject.RemoveObserver(tag)
        self._subject = subject
        self._tags = []
        if subject is not None:
            self._tags = [
                subject.AddObserver(event, self._caller(name)) for event, name in methods.items()
            ]

    def _caller(self, name: str) -> Callable:
        widget = self._widget()
        call = calling(widget, name)
        method = getattr(type(widget), name)
        if hasattr(method, "CallDataType"):
            call.CallDataType = method.CallDataType
        return call
