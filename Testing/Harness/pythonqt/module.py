"""The module `qt` that Slicer's Python code imports."""

import importlib
import types
from typing import Any

import shiboken6
from PySide6.QtCore import QMetaObject, QObject, QSignalBlocker, Qt, QTimer

from . import attributes, classes, handlers, signals, slot_errors

_PARTS = ("QtCore", "QtGui", "QtWidgets", "QtNetwork", "QtUiTools", "QtSvg", "QtPrintSupport")
_meta_class_name = QMetaObject.className


class QtNamespace:
    """`qt.Qt` without the names that PythonQt lacks."""

    _ABSENT = ("CTRL", "SHIFT", "ALT", "META")

    def __getattr__(self, name: str) -> Any:
        if name in self._ABSENT:
            raise AttributeError(
                f"PythonQt has no Qt.{name}: write QKeySequence('Ctrl+S') or Qt.ControlModifier"
            )
        return getattr(Qt, name)


class QtModule(types.ModuleType):
    """The names of all Qt modules in one, each resolved at its first use."""

    Qt = QtNamespace()
    Signal = signals.CustomSignal

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_"):
            for part in _PARTS:
                module = importlib.import_module(f"PySide6.{part}")
                if hasattr(module, name):
                    value = getattr(module, name)
                    setattr(self, name, value)
                    return value
        raise AttributeError(f"module 'qt' has no attribute '{name}'")


def _single_shot(milliseconds: float, receiver: Any, member: str | None = None) -> None:
    """Slicer's own function: a timer with a parent, which keeps it for the life of Slicer."""
    import slicer

    timer = QTimer(slicer.app.moduleManager())
    timer.setSingleShot(True)
    if callable(receiver):
        timer.connect("timeout()", receiver)
    else:
        timer.connect("timeout()", receiver, member)
    timer.start(int(milliseconds))


def class_name(self: QObject) -> str:
    """The name of the C++ class, as `w.className()` gives it."""
    return _meta_class_name(QObject.metaObject(self))


def install() -> types.ModuleType:
    """Apply the rules, once per process, and return the module."""
    slot_errors.install()
    handlers.install()
    classes.install()
    QObject.className = class_name
    QObject.__bool__ = lambda self: shiboken6.isValid(self)
    # The wrapper of a meta object answers for itself, not for the class it describes.
    QMetaObject.className = lambda self: "QMetaObject"
    QTimer.singleShot = staticmethod(_single_shot)
    del QSignalBlocker.__enter__, QSignalBlocker.__exit__
    attributes.install(_PARTS)
    return QtModule("qt", "Qt as PythonQt offers it.")
