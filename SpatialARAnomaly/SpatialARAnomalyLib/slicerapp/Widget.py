"""The panel: its sections joined, and what happens when scenes come and go."""

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from SpatialARAnomalyLib.slicerapp.Logic import Logic
from SpatialARAnomalyLib.slicerapp.panels.DetectPanel import DetectPanel
from SpatialARAnomalyLib.slicerapp.panels.EncodersPanel import EncodersPanel
from SpatialARAnomalyLib.slicerapp.panels.EvaluatePanel import EvaluatePanel
from SpatialARAnomalyLib.slicerapp.panels.ExportPanel import ExportPanel
from SpatialARAnomalyLib.slicerapp.panels.LogPanel import LogPanel
from SpatialARAnomalyLib.slicerapp.panels.ModelsPanel import ModelsPanel
from SpatialARAnomalyLib.slicerapp.panels.ModelsView import ModelDialogs
from SpatialARAnomalyLib.slicerapp.panels.ReviewPanel import ReviewPanel
from SpatialARAnomalyLib.slicerapp.panels.SetupPanel import SetupPanel
from SpatialARAnomalyLib.slicerapp.panels.TrainPanel import TrainPanel
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode
from SpatialARAnomalyLib.slicerapp.QtHelpers import singleShotTimer
from SpatialARAnomalyLib.slicerapp.scene.Result import Result
from SpatialARAnomalyLib.slicerapp.Settings import RememberedParameters
from SpatialARAnomalyLib.slicerapp.setup.Dependencies import Dependencies
from SpatialARAnomalyLib.slicerapp.tasks.Training import sharedTrainer


def confirmByDialog(text: str) -> bool:
    """Ask the user."""
    return slicer.util.confirmYesNoDisplay(text, windowTitle=_("Anomaly detection"))


class Panel:
    """All sections over one logic."""

    def __init__(
        self, ui: object, logic: Logic, confirm: Callable[[str], bool] = confirmByDialog
    ) -> None:
        self.ui = ui
        self.logic = logic
        self._parameters: SpatialARAnomalyParameterNode | None = None
        self._gui: int | None = None
        self._observer: int | None = None
        self.log = LogPanel(ui)
        logic.worker.log = self.log.append
        self.export = ExportPanel(ui, logic, confirm)
        self.evaluate = EvaluatePanel(ui, logic, confirm)
        self.review = ReviewPanel(ui, logic, confirm, self._reviewed)
        self.detect = DetectPanel(ui, logic, self.log.append, self.review.review)
        self.train = TrainPanel(ui, self.log.append, confirm, self.detect.chooseModel)
        self.encoders = EncodersPanel(ui, logic.worker, self.log.append, confirm)
        dialogs = ModelDialogs(confirm=confirm)
        self.models = ModelsPanel(
            ui, logic, self.log.append, self.detect, dialogs, self.encoders.obtain
        )
        self.encoders.onChanged = self._encodersChanged
        packages = Dependencies(logic.worker, lambda: logic.busy, others=(sharedTrainer().worker,))
        self.setup = SetupPanel(ui, packages, confirm)
        for section in (self.detect, self.train, self.encoders):
            section.onMissingPackage = self.setup.open
        self._remembered = RememberedParameters()
        # A node that was just added has no voxels yet: look once it has come to rest.
        self._arrival = singleShotTimer(0)
        self._arrival.timeout.connect(self._settle)
        self._imported = False
        scene = slicer.mrmlScene
        self._nodeAdded = scene.AddObserver(scene.NodeAddedEvent, self._nodeArrives)

    def _reviewed(self, result: Result | None) -> None:
        self.export.setResult(result)
        self.evaluate.setResult(result)

    def _encodersChanged(self) -> None:
        self.detect.refreshModels()
        self.train.encodersChanged()

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Bind the widgets to the settings of a scene; None while there is none."""
        if self._parameters is not None:
            self._parameters.disconnectGui(self._gui)
            self._parameters.RemoveObserver(self._observer)
        self._parameters = parameters
        self._remembered.setParameters(parameters)
        if parameters is not None:
            self._gui = parameters.connectGui(self.ui)
            self._observer = parameters.AddObserver("ModifiedEvent", self._parametersChanged)
            self._chooseScan()
        self.review.setParameters(parameters)
        self.detect.setParameters(parameters)
        self.train.setParameters(parameters)

    def _nodeArrives(self, scene: object, event: str) -> None:
        self._arrival.start()

    def onSceneLoaded(self) -> None:
        """A scene was loaded: selectors list its nodes a moment later, and are bound then."""
        self._imported = True
        self._arrival.start()

    def _settle(self) -> None:
        if self._imported:
            self._imported = False
            self.setParameters(self._parameters)
        else:
            self._chooseScan()

    def _chooseScan(self) -> None:
        """Take the likely scan where none is chosen."""
        if self._parameters is not None and self._parameters.inputVolume is None:
            self._parameters.inputVolume = _likelyScan()

    def _parametersChanged(self, caller: object, event: str) -> None:
        self._remembered.update(self._parameters)
        self.review.update()
        self.detect.refresh()

    def enter(self) -> None:
        """The user opens the module."""
        self.detect.enter()
        self.setup.enter()
        self.models.enter()
        self.encoders.enter()
        self.train.enter()
        self.review.setActive(True)

    def exit(self) -> None:
        """The user goes to another module; what runs goes on."""
        self.review.setActive(False)
        self.train.exit()

    def cleanup(self) -> None:
        """The module is unloaded, or Slicer quits."""
        slicer.mrmlScene.RemoveObserver(self._nodeAdded)
        self._arrival.stop()
        self._arrival.timeout.disconnect(self._settle)
        self.setParameters(None)
        self.logic.worker.log = _unheard
        self.review.cleanup()
        self.models.cleanup()
        self.detect.cleanup()
        self.train.cleanup()
        self.export.cleanup()
        self.evaluate.cleanup()
        self.setup.cleanup()
        self.encoders.cleanup()


def _unheard(text: str) -> None:
    """Log of a worker whose panel is gone."""


def _likelyScan() -> "slicer.vtkMRMLScalarVolumeNode | None":
    """The volume the views show, or else the first that is neither label map nor result."""
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


MORE = ("Evaluate", "Train", "Models", "Encoders", "Setup")
"""The .ui files of the sections below Detect, Review and Export, in order."""


def loadPanel(resourcePath: Callable[[str], str]) -> tuple[object, object]:
    """The panel, and an object that has all its named widgets."""
    panel = slicer.util.loadUI(resourcePath("UI/SpatialARAnomaly.ui"))
    ui = slicer.util.childWidgetVariables(panel)
    panel.setMRMLScene(slicer.mrmlScene)
    for name in MORE:
        section = slicer.util.loadUI(resourcePath(f"UI/{name}.ui"))
        ui.moreSections.layout().addWidget(section)
        section.setMRMLScene(slicer.mrmlScene)
        for key, widget in vars(slicer.util.childWidgetVariables(section)).items():
            setattr(ui, key, widget)
    return panel, ui
