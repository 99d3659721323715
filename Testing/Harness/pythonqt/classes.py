"""Qt classes: their inheritance and constructors as PythonQt shows them.

In Slicer a Qt class is a wrapper whose only base is PythonQt's own: the C++ inheritance is not
visible to Python. `isinstance(qt.QLabel(), qt.QWidget)` is False there, and so it is here.
"""

import sys
from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QObject
from PySide6.QtGui import QImage
from PySide6.QtWidgets import QDialogButtonBox, QMenu

ObjectType = type(QObject)

_stand_ins: set[type] = set()

# Callers that see the true inheritance: PySide6's support code, and the run-time check of
# annotations in tests.
_SEES_INHERITANCE = ("PySide6", "shiboken6", "shibokensupport", "beartype")


def cpp_class(cls: type) -> type:
    """Decorator: apply the rules of C++ classes to this Python class."""
    _stand_ins.add(cls)
    return cls


def is_stand_in(cls: type) -> bool:
    """Return True if the class is a stand-in of the harness."""
    return cls in _stand_ins


def is_cpp_class(cls: type) -> bool:
    """Return True if the class is one of Qt's or a stand-in of the harness."""
    return cls in _stand_ins or cls.__module__.startswith(("PySide6.", "Shiboken"))


def cpp_base(cls: type) -> type:
    """The class itself, or for a Python subclass the C++ class it extends."""
    return next((base for base in cls.__mro__ if is_cpp_class(base)), cls)


def true_inheritance(cls: type, base: type) -> bool:
    """`issubclass` with visible C++ inheritance."""
    return base in cls.__mro__


def _caller_sees_inheritance() -> bool:
    frame = sys._getframe(2)
    module = frame.f_globals.get("__name__", "")
    # beartype compiles the check of a signature into a file of this name.
    return module.startswith(_SEES_INHERITANCE) or frame.f_code.co_filename.startswith("<@beartype")


def _visible_subclass(cls: type, base: type) -> bool:
    if is_cpp_class(base):
        return cpp_base(cls) is base
    return base in cls.__mro__


def _instance_check(cls: type, instance: object) -> bool:
    if _caller_sees_inheritance():
        return cls in type(instance).__mro__
    return _visible_subclass(type(instance), cls)


def _subclass_check(cls: type, subclass: type) -> bool:
    if _caller_sees_inheritance():
        return cls in subclass.__mro__
    return _visible_subclass(subclass, cls)


def _image(*args: Any) -> tuple:
    if args and isinstance(args[0], bytes | bytearray | memoryview):
        raise ValueError(
            "PythonQt has no QImage(bytes, ...): make QImage(width, height, format) and fill bits()"
        )
    return args


def _button_box(*args: Any) -> tuple:
    # Flags are plain ints in PythonQt and match the overload that takes an
    # orientation: the box stays without buttons.
    return tuple(arg for arg in args if not isinstance(arg, QDialogButtonBox.StandardButton))


def _menu(*args: Any) -> tuple:
    # PythonQt accepts any object as the parent and ignores those that are not widgets.
    return tuple(arg for arg in args if isinstance(arg, str) or hasattr(arg, "isWidgetType"))


_CONSTRUCTORS: dict[type, Callable[..., tuple]] = {
    QImage: _image,
    QDialogButtonBox: _button_box,
    QMenu: _menu,
}


def _construct(cls: type, *args: Any, **kwargs: Any) -> Any:
    if not is_cpp_class(cls):
        return type.__call__(cls, *args, **kwargs)
    if kwargs:
        raise ValueError(f"{cls.__name__}(...): PythonQt takes no keyword arguments: {[*kwargs]}")
    if arguments := _CONSTRUCTORS.get(cls):
        args = arguments(*args)
    try:
        return type.__call__(cls, *args)
    except TypeError as error:
        if error.__traceback__.tb_next is not None:
            raise  # from Python code that the constructor ran
        raise ValueError(f"No constructor {cls.__name__}{args!r}") from error


def refuse_keywords(cls: type) -> None:
    """Make `Base.__init__(self, parent=x)` of a Python subclass fail like `Base(parent=x)`."""
    initialize = cls.__init__

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        if kwargs:
            raise ValueError(
                f"{cls.__name__}.__init__: PythonQt takes no keyword arguments: {[*kwargs]}"
            )
        initialize(self, *args)

    cls.__init__ = __init__


def install() -> None:
    """Hide the inheritance of Qt's classes; check constructor arguments like PythonQt."""
    ObjectType.__instancecheck__ = _instance_check
    ObjectType.__subclasscheck__ = _subclass_check
    ObjectType.__call__ = _construct
