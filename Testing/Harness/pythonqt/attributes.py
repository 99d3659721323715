"""Attributes of Qt objects: properties are values, methods are fixed, others cannot be added.

PythonQt looks a name up on the C++ class. So do the two functions here that replace
`QObject.__getattribute__` and `QObject.__setattr__`.
"""

import contextlib
import enum
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator
from types import BuiltinMethodType, MethodDescriptorType
from typing import Any

from PySide6.QtCore import Property, QObject, QTimer, Signal, SignalInstance
from shiboken6 import Shiboken

from . import signals
from .classes import cpp_base, is_cpp_class, is_stand_in, refuse_keywords
from .methods import QtMethod, is_deleted_error, qt_value

# Qt's own functions: to read, for each class that has its own; to write, that of the base,
# because Python rejects those of the patched classes between.
_readers: dict[type, Callable[[QObject, str], Any]] = {}
_write = Shiboken.Object.__setattr__
# The properties of each class of Qt, and whether they can be written. Noted at
# the start: PySide6 may lose the wrapper of a class's meta object later.
_writable: dict[type, dict[str, bool]] = {}

# PythonQt keeps these as methods.
_NEVER_PROPERTIES = {(QTimer, "singleShot")}
# Properties of Qt 6 that are methods in Qt 5: only setting them is right in both.
_SIZE_HINTS = ("sizeHint", "minimumSizeHint")
_QT6_PROPERTIES = {"contentsMargins"}


class Member(enum.Enum):
    """The kind of a name on a C++ class."""

    PROPERTY = "Property"
    SLOT = "Slot"
    SIGNAL = "Signal"
    ENUM = "EnumValue"
    NOT_FOUND = "NotFound"


def member(cls: type, name: str) -> Member:
    """Return the kind of a name on the C++ class."""
    if name in _QT6_PROPERTIES and signals.qt_form() == 5:
        return Member.SLOT
    return _member(cls, name)


@functools.cache
def _member(cls: type, name: str) -> Member:
    if name == "name" or _is_qt_property(cls, name):
        return Member.PROPERTY
    for base in cls.__mro__:
        if name in vars(base):
            return _kind(base, name)
    return Member.NOT_FOUND


def _kind(cls: type, name: str) -> Member:
    value = vars(cls)[name]
    if isinstance(value, Property | property):
        return Member.PROPERTY
    if isinstance(value, Signal):
        return Member.SIGNAL
    if is_stand_in(cls) and name.startswith("_"):
        return Member.NOT_FOUND
    return Member.SLOT if callable(value) or hasattr(value, "__func__") else Member.ENUM


def _is_qt_property(cls: type, name: str) -> bool:
    if any((base, name) in _NEVER_PROPERTIES for base in cls.__mro__):
        return False
    return any(name in _writable.get(base, ()) for base in cls.__mro__) or bool(
        _declared_by_stand_in(cls, name)
    )


def _is_writable(cls: type, name: str) -> bool:
    owner = next(base for base in cls.__mro__ if name in _writable.get(base, ()))
    return _writable[owner][name]


@functools.cache
def _accessor(cls: type, *names: str) -> Any:
    """The first Qt method of these names; the conversions of methods beat those of properties."""
    for name in names:
        for base in cls.__mro__:
            found = vars(base).get(name)
            if isinstance(found, MethodDescriptorType):
                return found
    return None


@functools.cache
def _reader(cls: type) -> Callable[[QObject, str], Any]:
    return next(_readers[base] for base in cls.__mro__ if base in _readers)


def _read(self: QObject, name: str) -> Any:
    return _reader(type(self))(self, name)


def _capitalized(name: str) -> str:
    return name[0].upper() + name[1:]


@functools.cache
def _declared_by_stand_in(cls: type, name: str) -> Property | None:
    """The property of that name that a stand-in declares."""
    for base in cls.__mro__:
        if is_stand_in(base) and isinstance(vars(base).get(name), Property):
            return vars(base)[name]
    return None


def _read_property(self: QObject, cls: type, name: str) -> Any:
    if name == "name":
        name = "objectName"
    if declared := _declared_by_stand_in(cls, name):
        return qt_value(declared.fget(self))
    if name == "toolTip":
        # Slicer makes rich text of the tooltips of widgets, so that they are wrapped.
        text = _accessor(cls, "toolTip")(self)
        return f"<p>{text}</p>" if text and not text.startswith("<") else text
    capital = _capitalized(name)
    getter = _accessor(cls, name, "is" + capital, "has" + capital)
    try:
        if getter is not None:
            return qt_value(getter(self))
        return qt_value(QObject.property(self, name))
    except RuntimeError as error:
        if not is_deleted_error(error):
            raise
        raise ValueError(
            f"Trying to read property '{name}' from a destroyed {cls.__name__} object"
        ) from error


def _write_property(self: QObject, cls: type, name: str, value: Any) -> None:
    if name == "name":
        name = "objectName"
    if declared := _declared_by_stand_in(cls, name):
        if declared.fset is None:
            raise AttributeError(f"Property '{name}' of {cls.__name__} object is not writable")
        declared.fset(self, value)
        return
    if not _is_writable(cls, name):
        raise AttributeError(f"Property '{name}' of {cls.__name__} object is not writable")
    setter = _accessor(cls, "set" + _capitalized(name))
    try:
        if setter is not None:
            setter(self, value)
        else:
            QObject.setProperty(self, name, value)
    except TypeError as error:
        raise AttributeError(
            f"Property '{name}' of {cls.__name__} does not accept {value!r}"
        ) from error
    except RuntimeError as error:
        if not is_deleted_error(error):
            raise
        raise AttributeError(
            f"Trying to set property '{name}' on a destroyed {cls.__name__} object"
        ) from error


def _of_python_subclass(cls: type, name: str) -> bool:
    """Return True if a Python subclass defines the name, which then hides Qt's.

    So does a size hint of a stand-in: Qt's layouts must find the method.
    """
    for base in cls.__mro__:
        if is_stand_in(base) and name in _SIZE_HINTS and name in vars(base):
            return True
        if is_cpp_class(base) and not (is_stand_in(base) and name in _SIZE_HINTS):
            return False
        if name in vars(base):
            return True
    return False


# Reading a size hint runs Qt's virtual method, which looks for an override in
# Python, by reading the same attribute: that inner read must see the method.
_being_read: set[tuple[int, str]] = set()


def get_attribute(self: QObject, name: str) -> Any:
    """`QObject.__getattribute__` by PythonQt's rules."""
    if name.startswith("__"):
        return _read(self, name)
    if name == "exec_":
        name = "exec"  # both names in PythonQt; PySide6 warns of this one
    if name in ("connect", "disconnect"):
        return functools.partial(getattr(signals, name), self)
    cls = type(self)
    base = cpp_base(cls)
    key = (id(self), name)
    if (
        not _of_python_subclass(cls, name)
        and member(base, name) is Member.PROPERTY
        and key not in _being_read
    ):
        _being_read.add(key)
        try:
            return _read_property(self, base, name)
        finally:
            _being_read.discard(key)
    try:
        value = _read(self, name)
    except AttributeError:
        return _dynamic_property_or_child(self, name)
    if isinstance(value, BuiltinMethodType):
        return QtMethod(self, name, value)
    if isinstance(value, SignalInstance):
        return signals.QtSignal(self, name, value.emit)
    return value


def _dynamic_property_or_child(self: QObject, name: str) -> Any:
    value = QObject.property(self, name)
    if value is not None:
        return qt_value(value)
    for child in QObject.children(self):
        if QObject.objectName(child) == name:
            return child
    raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")


_children_ignored = False


@contextlib.contextmanager
def child_attributes_ignored() -> Iterator[None]:
    """Within the block PySide6 may set children as attributes."""
    global _children_ignored
    _children_ignored = True
    try:
        yield
    finally:
        _children_ignored = False


def set_attribute(self: QObject, name: str, value: Any) -> None:
    """`QObject.__setattr__` by PythonQt's rules."""
    if _children_ignored and not name.startswith("_") and QObject in type(value).__mro__:
        return
    if isinstance(value, SignalInstance):
        _write(self, name, value)  # PySide6 keeps the signals it has made
        return
    cls = type(self)
    base = cpp_base(cls)
    kind = member(base, name)
    if kind is Member.PROPERTY:
        _write_property(self, base, name, value)
    elif kind is not Member.NOT_FOUND:
        raise AttributeError(
            f"{kind.value} '{name}' can not be overwritten on {cls.__name__} object"
        )
    elif QObject.property(self, name) is not None:
        QObject.setProperty(self, name, value)
    elif cls is not base or (is_stand_in(cls) and name.startswith("_")):
        _write(self, name, value)
    else:
        raise AttributeError(
            f"'{name}' does not exist on {cls.__name__} and creating new attributes on C++ "
            "objects is not allowed"
        )


def _classes(base: type) -> Iterator[type]:
    yield base
    for cls in type.__subclasses__(base):
        yield from _classes(cls)


def install(parts: Iterable[str]) -> None:
    """Apply the rules to the objects of these Qt modules."""
    for part in parts:
        module = importlib.import_module(f"PySide6.{part}")
        for name in dir(module):
            getattr(module, name)  # PySide6 makes a class when it is first asked for
    for cls in set(_classes(QObject)):
        if "__getattribute__" in vars(cls):
            _readers[cls] = cls.__getattribute__
        meta = cls.staticMetaObject
        own = map(meta.property, range(meta.propertyOffset(), meta.propertyCount()))
        _writable[cls] = {qt_property.name(): qt_property.isWritable() for qt_property in own}
    for cls in set(_classes(QObject)):
        if "__init__" in vars(cls):
            refuse_keywords(cls)
        # Every class of PySide6 has its own `__setattr__`.
        cls.__setattr__ = set_attribute
        if cls in _readers:
            cls.__getattribute__ = get_attribute
