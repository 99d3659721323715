"""Qt properties of stand-ins, usable from .ui files and as attributes."""

import itertools
from typing import Any

from PySide6.QtCore import Property

from Harness.pythonqt.classes import cpp_class

_numbers = itertools.count()


def _converted(kind: Any, value: Any) -> Any:
    """Convert a value as C++ does: an int to a float, but not between text and numbers."""
    if kind in (bool, int, float) and not isinstance(value, str):
        return kind(value)
    if kind is str and not isinstance(value, str):
        raise AttributeError(f"a text is expected, not {value!r}")
    return value


def stored(kind: Any, default: Any, *, applied: str = "", notified: str = "") -> Property:
    """A property kept on the object; a change calls `applied` and emits `notified`."""
    key = f"_property_{next(_numbers)}"

    def read(self: Any) -> Any:
        return self.__dict__.get(key, default)

    def write(self: Any, value: Any) -> None:
        value = _converted(kind, value)
        if value == read(self):
            return
        self.__dict__[key] = value
        if applied:
            getattr(self, applied)()
        if notified:
            getattr(self, notified).emit(value)

    return Property(kind, read, write)


def forwarded(kind: Any, *inner: str) -> Property:
    """A property of an inner widget, as in `forwarded(float, "_box", "minimum")`."""
    *widgets, name = inner

    def read(self: Any) -> Any:
        return getattr(getattr(self, widgets[0]), name)

    def write(self: Any, value: Any) -> None:
        for widget in widgets:
            setattr(getattr(self, widget), name, _converted(kind, value))

    return Property(kind, read, write)


def stand_in(cls: type) -> type:
    """Decorator: make the class a stand-in and add the setter `setX` of each property."""
    for name, value in list(vars(cls).items()):
        setter = "set" + name[0].upper() + name[1:]
        if isinstance(value, Property) and not hasattr(cls, setter):
            setattr(cls, setter, _setter(name))
    return cpp_class(cls)


def _setter(name: str) -> Any:
    def set_value(self: Any, value: Any) -> None:
        setattr(self, name, value)

    return set_value
