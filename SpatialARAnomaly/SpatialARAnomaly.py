"""The scripted module that Slicer loads; its implementation is in SpatialARAnomalyLib."""

import sys
from pathlib import Path

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from SpatialARAnomalyLib.slicerapp.Scripting import ScriptingLogic
from SpatialARAnomalyLib.slicerapp.SelfTest import detectInSampleHead
from SpatialARAnomalyLib.slicerapp.Settings import wrapParameters
from SpatialARAnomalyLib.slicerapp.tasks.SampleHeads import registerSampleData
from SpatialARAnomalyLib.slicerapp.Widget import Panel, loadPanel
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import stopSharedWorker

ICONS = Path(__file__).parent / "Resources" / "Icons"


class SpatialARAnomaly(ScriptedLoadableModule):
    """Title, help and sample data of the module."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = _("Spatial AR Anomaly")
        parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        parent.dependencies = []
        parent.contributors = ["SpatialARAnomaly contributors"]
        parent.helpText = _(
            "Finds anomalies in a scan with a model of normal scans: each part of a slice is "
            "scored by how unlikely it is given the parts before it. Choose a volume and a model, "
            "click <b>Detect anomalies</b>, and review the findings. All computing is done on "
            "this computer.<p><b>For research use only. Not a medical device.</b></p>"
        )
        parent.acknowledgementText = _(
            "The method was published by Erdil et al. "
            '(<a href="https://arxiv.org/abs/2603.02974">arXiv 2603.02974</a>); '
            'slices are embedded with <a href="https://arxiv.org/abs/2508.10104">DINOv3</a>. '
            "Please cite both."
        )
        slicer.app.connect("startupCompleted()", lambda: registerSampleData(ICONS))


class SpatialARAnomalyWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the panel and connects it to the scene and to Slicer's life cycle."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self):
        """Load the panel when the module is first opened."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget, self.ui = loadPanel(self.resourcePath)
        self.layout.addWidget(uiWidget)
        self.logic = SpatialARAnomalyLogic()
        self.panel = Panel(self.ui, self.logic)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.addObserver(scene, scene.StartSaveEvent, self.panel.onSceneSave)
        self.initializeParameterNode()
        if self.parent.isEntered:  # Slicer does not enter a reloaded module again
            self.panel.enter()

    def cleanup(self):
        """Stop all work when the module is unloaded or Slicer quits."""
        self.removeObservers()
        if self.panel is not None:
            self.panel.cleanup()
            self.logic.cleanup()
        stopSharedWorker()

    def enter(self):
        """Update the panel whenever the user opens the module."""
        if self.panel is not None:  # None after an error in `setup`
            self.initializeParameterNode()
            self.panel.enter()

    def exit(self):
        """Deactivate the panel whenever the user leaves the module; running tasks continue."""
        if self.panel is not None:
            self.panel.exit()

    def onSceneStartClose(self, caller, event):
        """Unbind the panel before the scene's nodes are removed."""
        self.panel.setParameters(None)

    def onSceneEndClose(self, caller, event):
        """Bind the panel to the empty scene."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, caller, event):
        """Bind the panel to the parameters of a loaded scene."""
        self.initializeParameterNode()
        self.panel.onSceneLoaded()

    def initializeParameterNode(self):
        """Bind the panel to the scene's parameters."""
        self.panel.setParameters(self.logic.getParameterNode())

    def onReload(self):
        """Reload the library with the module."""
        for name in [name for name in sys.modules if name.split(".")[0] == "SpatialARAnomalyLib"]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class SpatialARAnomalyLogic(ScriptedLoadableModuleLogic, ScriptingLogic):
    """The logic of the panel (`slicerapp.Logic`), and for scripts `detect` and `train`."""

    def getParameterNode(self):
        """Return the scene's parameters."""
        return wrapParameters(super().getParameterNode())


class SpatialARAnomalyTest(ScriptedLoadableModuleTest):
    """The self-test; it needs no network."""

    modelsFolder = None
    """Folder with the demonstration model; by default the test trains it."""

    def setUp(self):
        """Clear the scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all tests."""
        self.setUp()
        self.test_DetectInSampleHead()

    def test_DetectInSampleHead(self):
        """Detect the lesion of the sample head and check the result."""
        logic = SpatialARAnomalyLogic()
        try:
            detectInSampleHead(logic, self.modelsFolder)
        finally:
            logic.cleanup()
        self.delayDisplay("Test passed")
