"""Stand-ins for a scripted module, as Slicer's module factory makes it, and its panel."""
# ruff: noqa: N801

import importlib
import sys

import qt
import slicer
from PySide6.QtCore import Property, QObject
from PySide6.QtGui import QIcon

from .properties import stand_in, stored
from .qmrml_base import qMRMLWidget


@stand_in
class qSlicerScriptedLoadableModule(QObject):
    """The `parent` of a module's class."""

    title = stored(str, "")
    categories = stored("QStringList", ())
    dependencies = stored("QStringList", ())
    contributors = stored("QStringList", ())
    helpText = stored(str, "")
    acknowledgementText = stored(str, "")
    icon = stored(QIcon, QIcon())
    hidden = stored(bool, False)
    index = stored(int, -1)
    widgetRepresentationCreationEnabled = stored(bool, True)
    defaultDocumentationLink = stored(str, "")

    def __init__(self, name, path):
        QObject.__init__(self)
        self._path = path
        self._panel = None
        self.name = name

    path = Property(str, lambda self: self._path)

    def logic(self):
        """None: a scripted module makes its own logic."""

    def widgetRepresentation(self):
        """The panel, made on first use, as in Slicer."""
        if self._panel is None:
            self._panel = qSlicerScriptedLoadableModuleWidget(self.name)
            self._panel.setLayout(qt.QVBoxLayout())
            self._panel.setMRMLScene(slicer.mrmlScene)
            self._panel.reload()
        return self._panel

    def _forget_panel(self):
        if self._panel is not None:
            self._panel.deleteLater()
            self._panel = None


@stand_in
class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):
    """The `parent` of a module's widget."""

    def __init__(self, module_name):
        qMRMLWidget.__init__(self)
        self._module_name = module_name
        self._widget = None
        self._entered = False

    moduleName = Property(str, lambda self: self._module_name)
    isEntered = Property(bool, lambda self: self._entered)

    def self(self):
        """The module's widget in Python."""
        return self._widget

    def reload(self):
        """Make the module's widget from its class, anew."""
        name = f"{self._module_name}Widget"
        module = sys.modules.get(self._module_name) or importlib.import_module(self._module_name)
        self._widget = getattr(module, name)(self)
        setattr(slicer.modules, name, self._widget)
        self._widget.setup()

    def enter(self):
        """Enter the module."""
        self._entered = True
        if hasattr(self._widget, "enter"):
            self._widget.enter()

    def exit(self):
        """Exit the module."""
        self._entered = False
        if hasattr(self._widget, "exit"):
            self._widget.exit()
