"""Signals and connections, delivered as PythonQt delivers them.

A signal's name means its Qt 5 overload, Python slots get as many arguments as they have parameters,
other callables get all, and exceptions of slots go to `sys.excepthook`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6.QtCore import QMetaMethod, QMetaObject, QObject, Signal

from .classes import is_stand_in, true_inheritance
from .slot_errors import ConnectionRefusedByPythonQtError, report

_qt_connect = QObject.connect
_qt_disconnect = QObject.disconnect

# Where Qt 6 kept only the longer form, a signal taken by its name in Qt 5
# delivers fewer arguments: {(C++ class, signal): how many}.
_QT5_ARGUMENTS = {("QProcess", "finished"): 1}

# A receiver of PySide6 gets as many arguments as its code has parameters, so
# there is one shape per count.
_RECEIVERS: tuple[Callable, ...] = (
    lambda deliver: lambda: deliver(),
    lambda deliver: lambda a: deliver(a),
    lambda deliver: lambda a, b: deliver(a, b),
    lambda deliver: lambda a, b, c: deliver(a, b, c),
    lambda deliver: lambda a, b, c, d: deliver(a, b, c, d),
)

_form = 5


def set_qt_form(major: int) -> None:
    """Set whose overloads signal names mean: those of Qt 5 (default) or Qt 6."""
    global _form
    if major not in (5, 6):
        raise ValueError(f"Slicer is built with Qt 5 or Qt 6, not {major}")
    _form = major


def qt_form() -> int:
    """Return the major version of Qt whose overloads are used."""
    return _form


class _Connection:
    """One receiver connected to one signal of one object."""

    def __init__(self, receiver: Callable, count: int | None, convert: Callable | None = None):
        self.receiver = receiver
        self.count = count  # of arguments to pass on; None for all
        self.convert = convert
        self.handle: QMetaObject.Connection | None = None

    def deliver(self, *args: Any) -> None:
        try:
            if self.count is not None:
                args = args[: self.count]
            if self.convert is not None:
                args = (self.convert(*args),)
            self.receiver(*accepted_arguments(self.receiver, args))
        except BaseException as error:
            report(error)


# {address of the C++ sender: {signal name: connections}}. By address, because
# the Python wrapper of a C++ object may go and come again.
_connections: dict[int, dict[str, list[_Connection]]] = {}


def accepted_arguments(receiver: Callable, args: tuple) -> tuple:
    """The arguments PythonQt passes: functions and methods get at most `co_argcount` of them."""
    function = getattr(receiver, "__func__", receiver)
    if not inspect.isfunction(function) or function.__code__.co_flags & inspect.CO_VARARGS:
        return args
    count = function.__code__.co_argcount - inspect.ismethod(receiver)
    return args[:count]


def _signatures(sender: QObject, name: str) -> list[str]:
    """The signatures of the signals of that name, in the order they were declared."""
    meta = sender.metaObject()
    methods = (meta.method(index) for index in range(meta.methodCount()))
    return [
        bytes(method.methodSignature().data()).decode()
        for method in methods
        if method.methodType() == QMetaMethod.MethodType.Signal
        and bytes(method.name().data()).decode() == name
    ]


def _argument_count(signature: str) -> int:
    arguments = signature.partition("(")[2].rstrip(")")
    depth, count = 0, bool(arguments)
    for character in arguments:
        depth += (character == "<") - (character == ">")
        count += character == "," and depth == 0
    return int(count)


def _add(sender: QObject, signature: str, connection: _Connection) -> None:
    receive = _RECEIVERS[_argument_count(signature)](connection.deliver)
    connection.handle = _qt_connect(sender, "2" + signature, receive)
    address = shiboken6.getCppPointer(sender)[0]
    if address not in _connections:
        _connections[address] = {}
        _qt_connect(sender, "2destroyed()", lambda: _connections.pop(address, None))
    name = signature.partition("(")[0]
    _connections[address].setdefault(name, []).append(connection)


def _remove(sender: QObject, name: str, receiver: Callable | None) -> bool:
    address = shiboken6.getCppPointer(sender)[0]
    connections = _connections.get(address, {}).get(name, [])
    found = [c for c in connections if receiver is None or c.receiver == receiver]
    # One disconnect removes one of several equal connections.
    for connection in found if receiver is None else found[:1]:
        _qt_disconnect(connection.handle)
        connections.remove(connection)
    return bool(found)


def _qt5_arguments(sender: QObject, name: str) -> int | None:
    counts = (
        n for (cls, signal), n in _QT5_ARGUMENTS.items() if signal == name and sender.inherits(cls)
    )
    return next(counts, None)


class QtSignal:
    """A signal of an object, without PySide6's selection of an overload by brackets."""

    __slots__ = ("_emit", "_name", "_sender")

    def __init__(self, sender: QObject, name: str, emit: Callable):
        self._sender, self._name, self._emit = sender, name, emit

    def connect(self, receiver: Callable) -> bool:
        """Connect the overload that PythonQt uses for the name."""
        signature = _signatures(self._sender, self._name)[0]
        count = _qt5_arguments(self._sender, self._name) if _form == 5 else None
        _add(self._sender, signature, _Connection(receiver, count))
        return True

    def disconnect(self, receiver: Callable | None = None) -> bool:
        """Remove one connection of the receiver, or all; False if there was none."""
        return _remove(self._sender, self._name, receiver)

    def emit(self, *args: Any) -> None:
        """Emit the signal."""
        self._emit(*args)

    __call__ = emit

    def __repr__(self) -> str:
        return f"<Qt signal {type(self._sender).__name__}.{self._name}>"


def _normalized(signature: str) -> str:
    normal = QMetaObject.normalizedSignature(signature.removeprefix("2"))
    return normal if isinstance(normal, str) else bytes(normal.data()).decode()


def _cpp_overload(sender: QObject, signature: str) -> tuple[str, Callable | None] | None:
    """Return the stand-in's signal for a C++ signature, and the conversion of its argument."""
    for cls in type(sender).__mro__:
        if is_stand_in(cls) and signature in cls.__dict__.get("CPP_SIGNALS", {}):
            name = signature.partition("(")[0]
            return _signatures(sender, name)[0], cls.__dict__["CPP_SIGNALS"][signature]
    return None


def _refuse(sender: QObject, signature: str, known: list[str]) -> bool:
    kind = type(sender).__name__
    report(
        ConnectionRefusedByPythonQtError(
            f"QObject::connect(): signal '{signature}' does not exist on {kind}; known: {known}"
        )
    )
    return False


def connect(sender: QObject, signature: Any, *receiver: Any) -> Any:
    """`sender.connect("clicked(bool)", f)` or `sender.connect("clicked()", other, "hide()")`."""
    if not isinstance(signature, str):
        # PySide6's own C++ code calls receiver.connect(sender, "2signal()", slot).
        return _qt_connect(signature, *receiver)
    wanted = _normalized(signature)
    known = _signatures(sender, wanted.partition("(")[0])
    count = _argument_count(wanted)
    convert = None
    if overload := _cpp_overload(sender, wanted):
        chosen, convert = overload
    elif wanted in known:
        chosen = wanted
    elif _form == 5 and wanted == "finished(int)" and sender.inherits("QProcess"):
        chosen = known[0]
    else:
        return _refuse(sender, wanted, known)
    slot = receiver[0]
    if len(receiver) == 2:
        slot = getattr(receiver[0], receiver[1].removeprefix("1").partition("(")[0])
        count = min(count, _argument_count(receiver[1]))
    _add(sender, chosen, _Connection(slot, count, convert))
    return True


def disconnect(sender: QObject, signature: Any = None, *receiver: Any) -> Any:
    """`sender.disconnect("clicked(bool)", f)`; False if there was no such connection."""
    if not isinstance(signature, str):
        return _qt_disconnect(signature, *receiver)
    slot = receiver[0] if receiver else None
    if len(receiver) == 2:
        slot = getattr(receiver[0], receiver[1].removeprefix("1").partition("(")[0])
    return _remove(sender, _normalized(signature).partition("(")[0], slot)


class CustomSignal:
    """Replacement of `qt.Signal`, for subclasses of QObject; elsewhere PythonQt crashes."""

    def __init__(self, *types: type):
        self._types = types
        self._name = "signal"

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"{owner.__name__}.{name}"
        if true_inheritance(owner, QObject):
            setattr(owner, name, Signal(*self._types))

    def _crash(self, *_: Any) -> None:
        raise TypeError(
            f"PythonQt would crash here: {self._name} is a qt.Signal on a class that is no "
            "QObject; keep a list of callbacks instead"
        )

    connect = disconnect = emit = _crash
