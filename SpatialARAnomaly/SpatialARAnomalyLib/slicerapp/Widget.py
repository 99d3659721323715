"""The panel: its sections, and their connection to the scene."""

from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.Appearance import nameControls, showIcons
from SpatialARAnomalyLib.slicerapp.panels.BatchPanel import BatchPanel
from SpatialARAnomalyLib.slicerapp.panels.DetectPanel import DetectPanel, LogPanel
from SpatialARAnomalyLib.slicerapp.panels.Dialogs import Dialogs
from SpatialARAnomalyLib.slicerapp.panels.EncodersPanel import EncodersPanel
from SpatialARAnomalyLib.slicerapp.panels.EvaluatePanel import EvaluatePanel
from SpatialARAnomalyLib.slicerapp.panels.ExportPanel import ExportPanel
from SpatialARAnomalyLib.slicerapp.panels.ModelsPanel import ModelsPanel
from SpatialARAnomalyLib.slicerapp.panels.ReviewPanel import ReviewPanel
from SpatialARAnomalyLib.slicerapp.panels.SetupPanel import SetupPanel
from SpatialARAnomalyLib.slicerapp.panels.TrainPanel import TrainPanel
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import doNothing, singleShotTimer
from SpatialARAnomalyLib.slicerapp.scene.NodeConversion import ROLE
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.Settings import RememberedParameters
from SpatialARAnomalyLib.slicerapp.setup.Dependencies import Dependencies
from SpatialARAnomalyLib.slicerapp.tasks.Training import sharedTrainer
from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import sharedBatchWorker

MORE_SECTIONS = ("Train", "Models", "Evaluate", "Encoders", "Setup")
"""The .ui files of the sections of the second tab, in order."""

FIND_TAB, MAKE_TAB = 0, 1
"""Tabs: detect and review; train, evaluate and set up."""


class Panel:
    """All sections of the panel, which share one logic."""

    def __init__(self, ui: object, logic: Logic, dialogs: Dialogs | None = None) -> None:
        self.ui = ui
        self.logic = logic
        self._parameters: SpatialARAnomalyParameterNode | None = None
        self._gui: int | None = None
        self._observer: int | None = None
        self.log = LogPanel(ui)
        logic.worker.log = self.log.append
        self.dialogs = dialogs = dialogs or Dialogs(ui.detectSection)
        log = self.log.append
        self.tabs = qt.QTabBar(ui.tabBarBox)
        self.tabs.addTab(_("Find anomalies"))
        self.tabs.addTab(_("Train and set up"))
        self.tabs.setAccessibleName(_("Parts of the panel"))
        ui.tabBarBox.layout().addWidget(self.tabs)
        self.tabs.currentChanged.connect(self._onTabChosen)
        self.export = ExportPanel(ui, logic, dialogs)
        self.evaluate = EvaluatePanel(ui, logic, dialogs)
        self.review = ReviewPanel(ui, logic, self._onResultChosen, dialogs)
        self.detect = DetectPanel(ui, logic, log, self.review.review, dialogs)
        batchWorker = sharedBatchWorker()
        batchWorker.log = log
        self.batch = BatchPanel(
            ui, logic, batchWorker, log, self.detect.settings, self._reviewSaved, dialogs
        )
        self.train = TrainPanel(ui, log, self.detect.chooseModel, dialogs)
        self.encoders = EncodersPanel(ui, logic.worker, log, dialogs)
        self.models = ModelsPanel(ui, logic, log, self.detect, self.encoders.obtain, dialogs)
        self.encoders.onChanged = self._onEncodersChanged
        others = (sharedTrainer().worker, batchWorker)
        packages = Dependencies(logic.worker, lambda: logic.busy, others=others)
        self.setup = SetupPanel(ui, packages, dialogs)
        for section in (self.detect, self.batch, self.train, self.encoders):
            section.onMissingPackage = self.openSetup
        self.detect.packagesAreMissing = lambda: not packages.external and bool(packages.missing())
        self.detect.onOpenSetup = self.openSetup
        self.detect.onImportModel = self._importModel
        self.models.onUse = lambda: self.tabs.setCurrentIndex(FIND_TAB)
        self._remembered = RememberedParameters()
        # A node that was just added has no voxels yet: wait for the next turn of the event loop.
        self._sceneTimer = singleShotTimer(0)
        self._sceneTimer.timeout.connect(self._onSceneTimer)
        self._imported = False
        scene = slicer.mrmlScene
        self._nodeAddedTag = scene.AddObserver(scene.NodeAddedEvent, self._onNodeAdded)

    def _reviewSaved(self, result: Result) -> None:
        """Show a scan of a batch and its result."""
        if self._parameters is not None:
            self._parameters.inputVolume = result.scan
        self.review.review(result)

    def _onResultChosen(self, result: Result | None) -> None:
        self._hideResults()
        self.detect.resultChanged(result)
        self.export.setResult(result)
        self.evaluate.setResult(result)

    def _onTabChosen(self, index: int) -> None:
        self.ui.findPage.setVisible(index == FIND_TAB)
        self.ui.makePage.setVisible(index == MAKE_TAB)

    def openSetup(self) -> None:
        """Show the section *Set-up* and check the packages."""
        self.tabs.setCurrentIndex(MAKE_TAB)
        self.setup.open()

    def _importModel(self) -> None:
        self.tabs.setCurrentIndex(MAKE_TAB)
        self.ui.modelsSection.setProperty("collapsed", False)
        self.models.importModel()

    def _onEncodersChanged(self) -> None:
        self.detect.reloadModels()
        self.train.encodersChanged()

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Bind the widgets to the parameters of a scene; None while there is no scene."""
        if self._parameters is not None:
            self._parameters.disconnectGui(self._gui)
            self._parameters.RemoveObserver(self._observer)
        self._parameters = parameters
        self._remembered.setParameters(parameters)
        if parameters is not None:
            self._gui = parameters.connectGui(self.ui)
            self._observer = parameters.AddObserver("ModifiedEvent", self._onParametersModified)
            self._chooseScan()
        self.review.setParameters(parameters)
        self.detect.setParameters(parameters)
        self.batch.refresh()
        self.train.setParameters(parameters)

    def _onNodeAdded(self, scene: object, event: str) -> None:
        self._sceneTimer.start()

    def onSceneLoaded(self) -> None:
        """Bind the widgets again in the next turn, when the selectors list the scene's nodes."""
        self._imported = True
        self._sceneTimer.start()

    def onSceneSave(self, *_unused: object) -> None:
        """Leave the layout *Compare*, which a session without this module could not show."""
        self.review.endComparison()

    def _onSceneTimer(self) -> None:
        self._hideResults()
        if self._imported:
            self._imported = False
            self.setParameters(self._parameters)
        else:
            self._chooseScan()

    def _hideResults(self) -> None:
        """Leave the nodes of results out of where the user chooses a scan, mask or truth."""
        hidden = [
            node.GetID()
            for kind in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode")
            for node in slicer.util.getNodesByClass(kind)
            if node.GetAttribute(ROLE)
        ]
        for selector in (self.ui.inputSelector, self.ui.maskSelector, self.ui.truthSelector):
            selector.sortFilterProxyModel().setProperty("hiddenNodeIDs", hidden)

    def _chooseScan(self) -> None:
        if self._parameters is not None and self._parameters.inputVolume is None:
            self._parameters.inputVolume = _likelyScan()

    def _onParametersModified(self, caller: object, event: str) -> None:
        self._remembered.update(self._parameters)
        self.review.update()
        self.detect.refresh()
        self.batch.refresh()

    def enter(self) -> None:
        """Update the sections when the user opens the module."""
        showIcons(self.ui)  # the style may have changed
        self.setup.enter()
        self.detect.reloadModels()
        self.models.reload()
        self.encoders.reload()
        self.train.enter()
        self.review.setActive(True)

    def exit(self) -> None:
        """Deactivate shortcuts and updates; running tasks continue."""
        self.review.setActive(False)
        self.train.exit()

    def cleanup(self) -> None:
        """Disconnect everything before the module is unloaded or Slicer quits."""
        slicer.mrmlScene.RemoveObserver(self._nodeAddedTag)
        self._sceneTimer.stop()
        self._sceneTimer.timeout.disconnect(self._onSceneTimer)
        self.setParameters(None)
        self.tabs.currentChanged.disconnect(self._onTabChosen)
        self.logic.worker.log = sharedBatchWorker().log = doNothing
        for section in (self.review, self.models, self.detect, self.batch, self.train):
            section.cleanup()
        for section in (self.export, self.evaluate, self.setup, self.encoders):
            section.cleanup()


def _likelyScan() -> "slicer.vtkMRMLScalarVolumeNode | None":
    """Return the volume shown in the views, else the first that is neither label map nor result."""
    shown = [
        slicer.mrmlScene.GetNodeByID(view.GetBackgroundVolumeID() or "")
        for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    ]
    loaded = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    for node in [*shown, *loaded]:
        plain = node is not None and node.GetClassName() == "vtkMRMLScalarVolumeNode"
        if plain and Result.of(node) is None:
            return node
    return None


def loadPanel(resourcePath: Callable[[str], str]) -> tuple[object, object]:
    """Load the .ui files; return the panel, and an object with all named widgets."""
    panel = slicer.util.loadUI(resourcePath("UI/SpatialARAnomaly.ui"))
    ui = slicer.util.childWidgetVariables(panel)
    panel.setMRMLScene(slicer.mrmlScene)
    for name in MORE_SECTIONS:
        section = slicer.util.loadUI(resourcePath(f"UI/{name}.ui"))
        ui.moreSections.layout().addWidget(section)
        section.setMRMLScene(slicer.mrmlScene)
        for key, widget in vars(slicer.util.childWidgetVariables(section)).items():
            setattr(ui, key, widget)
    nameControls(ui)
    return panel, ui
