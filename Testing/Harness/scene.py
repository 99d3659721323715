"""The scene and the modules' logics, connected as in the application."""

import sys
import types
from pathlib import Path
from typing import Any

import slicer
import vtk

# The name of each loadable module and its logic's class, in the wheel's names.
_LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Data": "vtkSlicerDataModuleLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Units": "vtkSlicerUnitsLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Texts": "vtkSlicerTextsLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "ViewControllers": "vtkSlicerViewControllersLogic",
    "Reformat": "vtkSlicerReformatLogic",
    "SceneViews": "vtkSlicerSceneViewsModuleLogic",
    "Annotations": "vtkSlicerAnnotationModuleLogic",
}


class LoadableModule:
    """A C++ module with its logic, such as `slicer.modules.volumes`."""

    def __init__(self, name: str, logic: Any):
        self.name, self.title, self.path, self._logic = name, name, "", logic

    def logic(self) -> Any:
        """The module's logic."""
        return self._logic

    def widgetRepresentation(self) -> None:
        """None: the harness has no panels of C++ modules."""


def print_vtk_to_stderr() -> None:
    """Send VTK's messages to the test's output."""
    window = vtk.vtkOutputWindow()
    window.SetDisplayModeToAlwaysStdErr()
    vtk.vtkOutputWindow.SetInstance(window)


def _application_logic(scene: Any, temporary_path: Path, share_path: Path | None) -> Any:
    logic = slicer.vtkSlicerApplicationLogic()
    if share_path:
        logic.SetHomeDirectory(str(share_path.parent))
        logic.SetShareDirectory(share_path.name)
    logic.SetTemporaryPath(str(temporary_path))
    logic.SetMRMLScene(scene)
    logic.SetSliceLogics(vtk.vtkCollection())
    logic.SetViewLogics(vtk.vtkCollection())
    for factory in (
        slicer.vtkMRMLThreeDViewDisplayableManagerFactory,
        slicer.vtkMRMLSliceViewDisplayableManagerFactory,
    ):
        factory.GetInstance().SetMRMLApplicationLogic(logic)
    return logic


def _modules(scene: Any, application_logic: Any, share_path: Path | None) -> types.ModuleType:
    modules = types.ModuleType("slicer.modules", "The modules of the application.")
    for name, class_name in _LOGICS.items():
        logic = getattr(slicer, class_name)()
        if share_path and hasattr(logic, "SetModuleShareDirectory"):
            logic.SetModuleShareDirectory(str(share_path / name))
        # The scene last: setting it registers nodes and looks for files by
        # way of the application's logic.
        logic.SetMRMLApplicationLogic(application_logic)
        logic.SetMRMLScene(scene)
        application_logic.SetModuleLogic(name, logic)
        setattr(modules, name.lower(), LoadableModule(name, logic))
    return modules


def build(temporary_path: Path, share_path: Path | None) -> tuple[Any, Any]:
    """A scene and the application's logic, with `slicer.mrmlScene` and `slicer.modules` set.

    The wheel lacks Slicer's share folder (color maps, terminologies); its path can be given.
    """
    scene = slicer.vtkMRMLScene()
    crosshair = slicer.vtkMRMLCrosshairNode()
    crosshair.SetCrosshairName("default")
    scene.AddNode(crosshair)
    logic = _application_logic(scene, temporary_path, share_path)
    slicer.mrmlScene = scene
    if share_path is None:
        vtk.vtkObject.GlobalWarningDisplayOff()  # a dozen errors about files of the share folder
    try:
        slicer.modules = sys.modules["slicer.modules"] = _modules(scene, logic, share_path)
    finally:
        vtk.vtkObject.GlobalWarningDisplayOn()
    logic.SetColorLogic(slicer.modules.colors.logic())
    slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)
    return scene, logic
