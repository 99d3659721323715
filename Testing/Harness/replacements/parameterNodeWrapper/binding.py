"""Binding of widgets to parameters by type.

As in Slicer, a widget must be of exactly one of the classes, not of a subclass.
"""

import enum
import pathlib
from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer

from .annotations import Choice, Decimals, Maximum, Minimum, SingleStep, WithinRange
from .storage import node_classes


class Binding:
    """One widget bound to one parameter."""

    signal = ""

    def __init__(self, widget: Any, kind: Any, annotations: tuple):
        self.widget, self.kind, self.annotations = widget, kind, annotations
        self._receiver: Callable | None = None

    def annotation(self, cls: type) -> Any:
        """The parameter's annotation of this class, or None."""
        return next((item for item in self.annotations if isinstance(item, cls)), None)

    def connect(self, receiver: Callable[[], None]) -> None:
        """Call the callback whenever the user changes the widget."""
        self._receiver = receiver
        if self.signal:
            getattr(self.widget, self.signal).connect(self._changed)

    def disconnect(self) -> None:
        """Remove the callback."""
        if self.signal:
            getattr(self.widget, self.signal).disconnect(self._changed)
        self._receiver = None

    def _changed(self) -> None:
        if self._receiver is not None:
            self._receiver()

    def read(self) -> Any:
        """The value the widget shows."""
        raise NotImplementedError

    def write(self, value: Any) -> None:
        """Show the value."""
        raise NotImplementedError


class _Checked(Binding):
    signal = "toggled"

    def __init__(self, widget: Any, kind: Any, annotations: tuple):
        super().__init__(widget, kind, annotations)
        if not widget.checkable:
            widget.setCheckable(True)

    def read(self) -> bool:
        return self.widget.checked

    def write(self, value: bool) -> None:
        self.widget.checked = value


class _Number(Binding):
    signal = "valueChanged"
    must_be_bounded: tuple[type, ...] = ()

    def __init__(self, widget: Any, kind: Any, annotations: tuple):
        super().__init__(widget, kind, annotations)
        decimals, step = self.annotation(Decimals), self.annotation(SingleStep)
        if decimals is not None:
            widget.decimals = decimals.value
        elif kind is int and hasattr(widget, "decimals"):
            widget.decimals = 0
        if step is not None:
            widget.singleStep = step.value
        within = self.annotation(WithinRange)
        minimum, maximum = self.annotation(Minimum), self.annotation(Maximum)
        low = within.minimum if within else minimum.minimum if minimum else None
        high = within.maximum if within else maximum.maximum if maximum else None
        if type(widget) in self.must_be_bounded and (low is None or high is None):
            raise RuntimeError(f"a parameter on a {type(widget).__name__} needs both its limits")
        smallest, largest = self.unbounded(widget)
        widget.setRange(smallest if low is None else low, largest if high is None else high)

    @staticmethod
    def unbounded(widget: Any) -> tuple[float, float]:
        """The limits of a parameter without limits."""
        return (
            (-(2**31), 2**31 - 1)
            if type(widget) in (qt.QSlider, qt.QSpinBox)
            else (float("-inf"), float("inf"))
        )

    def read(self) -> float:
        return self.kind(self.widget.value)

    def write(self, value: float) -> None:
        self.widget.value = value


class _Chosen(Binding):
    signal = "currentIndexChanged"

    def __init__(self, widget: Any, kind: Any, annotations: tuple):
        super().__init__(widget, kind, annotations)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            label = getattr(kind, "label", lambda member: member.name)
            self._values = list(kind)
            labels = [label(value) for value in self._values]
        else:
            choice = self.annotation(Choice)
            if choice is None:
                raise RuntimeError("a parameter on a combo box needs its choices")
            self._values = list(choice.choices)
            labels = [str(value) for value in self._values]
        index = widget.currentIndex
        widget.clear()
        widget.addItems(labels)
        widget.setCurrentIndex(max(index, 0))

    def read(self) -> Any:
        return self._values[self.widget.currentIndex]

    def write(self, value: Any) -> None:
        self.widget.setCurrentIndex(self._values.index(value))


class _Line(Binding):
    signal = "textChanged"

    def read(self) -> str:
        return self.widget.text

    def write(self, value: str) -> None:
        if value != self.widget.text:  # setting it moves the cursor
            self.widget.setText(value)


class _Label(_Line):
    signal = ""


class _Text(Binding):
    signal = "textChanged"

    def read(self) -> str:
        return self.widget.toPlainText()

    def write(self, value: str) -> None:
        self.widget.setPlainText(value)


class _FilePath(Binding):
    signal = "currentPathChanged"

    def read(self) -> pathlib.PurePath:
        return self.kind(self.widget.currentPath)

    def write(self, value: pathlib.PurePath) -> None:
        self.widget.currentPath = str(value)


class _FolderPath(Binding):
    signal = "directoryChanged"

    def read(self) -> pathlib.PurePath:
        return self.kind(self.widget.directory)

    def write(self, value: pathlib.PurePath) -> None:
        self.widget.directory = str(value)


class _Node(Binding):
    signal = "currentNodeChanged"

    def __init__(self, widget: Any, kind: Any, annotations: tuple):
        super().__init__(widget, kind, annotations)
        widget.nodeTypes = tuple(cls.__name__ for cls in node_classes(kind))

    def read(self) -> Any:
        return self.widget.currentNode()

    def write(self, value: Any) -> None:
        self.widget.setCurrentNode(value)


_FLOAT_WIDGETS = (
    qt.QDoubleSpinBox,
    ctk.ctkSliderWidget,
    slicer.qMRMLSliderWidget,
    ctk.ctkDoubleSlider,
    ctk.ctkDoubleSpinBox,
    slicer.qMRMLSpinBox,
)
_Number.must_be_bounded = (qt.QSlider, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)


def _is(base: type) -> Callable[[Any], bool]:
    return lambda kind: isinstance(kind, type) and issubclass(kind, base)


# Which widgets, for which types, by which binding.
_BINDINGS: tuple[tuple[tuple[type, ...], Callable[[Any], bool], type[Binding]], ...] = (
    ((qt.QCheckBox, ctk.ctkCheckBox, qt.QPushButton), lambda kind: kind is bool, _Checked),
    ((qt.QSlider, qt.QSpinBox), lambda kind: kind is int, _Number),
    (_FLOAT_WIDGETS, lambda kind: kind in (int, float), _Number),
    ((qt.QComboBox, ctk.ctkComboBox), lambda kind: kind in (int, float, str, bool), _Chosen),
    ((qt.QComboBox, ctk.ctkComboBox), _is(enum.Enum), _Chosen),
    ((qt.QLineEdit,), lambda kind: kind is str, _Line),
    ((qt.QLabel,), lambda kind: kind is str, _Label),
    ((qt.QTextEdit,), lambda kind: kind is str, _Text),
    ((ctk.ctkPathLineEdit,), _is(pathlib.PurePath), _FilePath),
    ((ctk.ctkDirectoryButton,), _is(pathlib.PurePath), _FolderPath),
    ((slicer.qMRMLNodeComboBox,), lambda kind: bool(node_classes(kind)), _Node),
)


def bind(widget: Any, kind: Any, annotations: tuple) -> Binding:
    """The binding of this widget to a parameter of this type."""
    for classes, represents, binding in _BINDINGS:
        if type(widget) in classes and represents(kind):
            return binding(widget, kind, annotations)
    raise RuntimeError(
        f"Unable to create GUI connector from datatype '{kind}' to widget type '{type(widget)}'"
    )
