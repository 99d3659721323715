"""Stand-ins for the widgets that have a scene, and no more."""
# ruff: noqa: N801

from typing import ClassVar

import qt
from PySide6.QtCore import Signal

from Harness.pythonqt.classes import cpp_class

from .ctk_numbers import ctkDoubleSpinBox, ctkRangeWidget, ctkSliderWidget
from .properties import stand_in, stored


@cpp_class
class HasScene:
    """The scene of a widget; what it does with it, it says in `_use_scene`."""

    CPP_SIGNALS: ClassVar[dict] = {"mrmlSceneChanged(vtkMRMLScene*)": None}
    _scene = None

    def mrmlScene(self):
        """The scene, or None."""
        return self._scene

    def setMRMLScene(self, scene):
        """Use this scene."""
        if scene is self._scene:
            return
        self._scene = scene
        self._use_scene()
        self.mrmlSceneChanged.emit(scene)

    def _use_scene(self):
        """Nothing, unless a subclass follows the scene."""


@stand_in
class qMRMLWidget(HasScene, qt.QWidget):
    """A widget with a scene."""

    CPP_SIGNALS = HasScene.CPP_SIGNALS
    mrmlSceneChanged = Signal(object)

    def __init__(self, parent=None):
        qt.QWidget.__init__(self, parent)


@stand_in
class qSlicerWidget(qMRMLWidget):
    """A widget with a scene, of Slicer's own."""


@stand_in
class qMRMLSliderWidget(HasScene, ctkSliderWidget):
    """A slider that knows the scene's units."""

    CPP_SIGNALS = HasScene.CPP_SIGNALS
    mrmlSceneChanged = Signal(object)
    quantity = stored(str, "")


@stand_in
class qMRMLSpinBox(HasScene, ctkDoubleSpinBox):
    """A spin box that knows the scene's units."""

    CPP_SIGNALS = HasScene.CPP_SIGNALS
    mrmlSceneChanged = Signal(object)
    quantity = stored(str, "")


@stand_in
class qMRMLRangeWidget(HasScene, ctkRangeWidget):
    """A range that knows the scene's units."""

    CPP_SIGNALS = HasScene.CPP_SIGNALS
    mrmlSceneChanged = Signal(object)
    quantity = stored(str, "")
