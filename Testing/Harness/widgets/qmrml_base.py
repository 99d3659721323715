"""Stand-ins for widgets with a scene."""
# ruff: noqa: N801

from typing import ClassVar

import qt
from PySide6.QtCore import Signal

from Harness.pythonqt.classes import cpp_class

from .ctk_numbers import ctkDoubleSpinBox, ctkRangeWidget, ctkSliderWidget
from .properties import stand_in, stored


@cpp_class
class HasScene:
    """Base of widgets with a scene, which override `_use_scene`."""

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
        """Do nothing; subclasses may follow the scene."""


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
    """A slider with the scene's units."""

    CPP_SIGNALS = HasScene.CPP_SIGNALS
    mrmlSceneChanged = Signal(object)
    quantity = stored(str, "")


@stand_in
class qMRMLSpinBox(HasScene, ctkDoubleSpinBox):
    """A spin box with the scene's units."""

    CPP_SIGNALS = HasScene.CPP_SIGNALS
    mrmlSceneChanged = Signal(object)
    quantity = stored(str, "")


@stand_in
class qMRMLRangeWidget(HasScene, ctkRangeWidget):
    """A range with the scene's units."""

    CPP_SIGNALS = HasScene.CPP_SIGNALS
    mrmlSceneChanged = Signal(object)
    quantity = stored(str, "")
