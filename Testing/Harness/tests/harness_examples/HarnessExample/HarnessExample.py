"""A small module as Slicer's template makes them: one input, one threshold, one button."""

from typing import Annotated

import qt
import SampleData
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin


class HarnessExample(ScriptedLoadableModule):
    """The module."""

    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("Harness example")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Testing")]
        slicer.app.connect("startupCompleted()", register_sample_data)


def register_sample_data():
    """Offer a small volume."""
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Harness",
        sampleName="HarnessRamp",
        uris="https://example.invalid/ramp",
        fileNames="ramp.nrrd",
        nodeNames="ramp",
    )


@parameterNodeWrapper
class HarnessExampleParameterNode:
    """What the panel holds."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    threshold: Annotated[float, WithinRange(0, 100)] = 20
    name: str = "bright"


class HarnessExampleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.calls = []
        self._parameters = None
        self._tag = None

    def setup(self):
        """Make the panel."""
        ScriptedLoadableModuleWidget.setup(self)
        widget = slicer.util.loadUI(self.resourcePath("UI/HarnessExample.ui"))
        self.layout.addWidget(widget)
        self.ui = slicer.util.childWidgetVariables(widget)
        widget.setMRMLScene(slicer.mrmlScene)
        self.logic = HarnessExampleLogic()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.ui.applyButton.connect("clicked(bool)", self.onApply)
        self._bind()

    def _bind(self):
        self._parameters = HarnessExampleParameterNode(self.logic.getParameterNode())
        self._tag = self._parameters.connectGui(self.ui)
        self.addObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
        self._checkCanApply()

    def _unbind(self):
        if self._parameters is not None:
            self._parameters.disconnectGui(self._tag)
            self.removeObserver(self._parameters, vtk.vtkCommand.ModifiedEvent, self._checkCanApply)
            self._parameters = None

    def _checkCanApply(self, caller=None, event=None):
        self.ui.applyButton.enabled = self._parameters.inputVolume is not None

    def enter(self):
        """The user comes."""
        self.calls.append("enter")
        if self._parameters is None:
            self._bind()

    def exit(self):
        """The user goes."""
        self.calls.append("exit")
        self._unbind()

    def cleanup(self):
        """The module ends."""
        self.calls.append("cleanup")
        self._unbind()
        self.removeObservers()

    def onSceneStartClose(self, caller, event):
        """The scene ends."""
        self._unbind()

    def onApply(self):
        """Find what is bright."""
        p = self._parameters
        count = self.logic.bright_voxels(p.inputVolume, p.threshold)
        self.ui.resultLabel.setText(f"{count} voxels")
        qt.QSettings().setValue("HarnessExample/last", count)


class HarnessExampleLogic(ScriptedLoadableModuleLogic):
    """The work."""

    def bright_voxels(self, volume, threshold):
        """How many voxels are at or above the threshold."""
        return int((slicer.util.arrayFromVolume(volume) >= threshold).sum())


class HarnessExampleTest(ScriptedLoadableModuleTest):
    """The module's own test."""

    ran = 0

    def setUp(self):
        """Start with an empty scene."""
        slicer.mrmlScene.Clear()

    def test_nothing_is_bright(self):
        """A dark volume has no bright voxels."""
        import numpy as np

        volume = slicer.util.addVolumeFromArray(np.zeros((2, 2, 2), np.int16))
        assert HarnessExampleLogic().bright_voxels(volume, 1) == 0
        HarnessExampleTest.ran += 1
        self.delayDisplay("passed")
