"""The loader of .ui files: makes stand-ins, and connects the signals that carry nodes."""

import xml.etree.ElementTree as ElementTree

import qt
from PySide6.QtCore import QBuffer, QIODevice
from PySide6.QtUiTools import QUiLoader

from .pythonqt import attributes
from .pythonqt.classes import cpp_class
from .widgets import stand_ins


class UnknownWidgetsError(ValueError):
    """A .ui file with widgets that the harness does not have."""


def _connections(root: ElementTree.Element) -> list[tuple[str, ...]]:
    """Remove the connections from the file: Qt's loader does not accept pointers to nodes."""
    found = root.find("connections")
    if found is None:
        return []
    root.remove(found)
    keys = ("sender", "signal", "receiver", "slot")
    return [tuple(connection.findtext(key) for key in keys) for connection in found]


@cpp_class
class UiLoader(QUiLoader):
    """Replacement of `qt.QUiLoader`."""

    def __init__(self, parent=None):
        QUiLoader.__init__(self, parent)
        self._classes = {cls.__name__: cls for cls in stand_ins()}
        self._errors = []

    def createWidget(self, class_name, parent=None, name=""):
        """Make a widget of a Qt class or of a stand-in."""
        if class_name not in self._classes:
            return QUiLoader.createWidget(self, class_name, parent, name)
        try:
            widget = self._classes[class_name](parent)
            widget.setObjectName(name)
        except Exception as error:
            self._errors.append(error)  # an exception here would have no caller
            raise
        return widget

    def load(self, device, parent=None):
        """Load the widget that the file describes."""
        root = ElementTree.fromstring(bytes(device.readAll().data()))
        known = {*self._classes, *QUiLoader.availableWidgets(self), "Line"}
        asked = {widget.get("class") for widget in root.iter("widget")}
        if unknown := sorted(asked - known):
            raise UnknownWidgetsError(f"The harness has no stand-in for {', '.join(unknown)}")
        connections = _connections(root)
        buffer = QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QIODevice.OpenModeFlag.ReadOnly)
        with attributes.child_attributes_ignored():
            widget = QUiLoader.load(self, buffer, parent)
        if self._errors:
            raise self._errors.pop()
        for connection in connections:
            self._wire(widget, *connection)
        return widget

    @staticmethod
    def _wire(widget, sender, signal, receiver, slot):
        def named(name):
            found = widget if widget.objectName == name else widget.findChild(qt.QObject, name)
            if found is None:
                raise ValueError(
                    f"The connections of the .ui file name '{name}', which is not there"
                )
            return found

        if not named(sender).connect(signal, named(receiver), slot):
            raise ValueError(f"The .ui file connects {sender}.{signal}, which does not exist")
