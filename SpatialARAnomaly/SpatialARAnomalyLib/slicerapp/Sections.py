"""The panel's sections, each in a .ui file of its own, as one."""

from collections.abc import Callable

import slicer

MORE = ("Evaluate", "Train", "Models", "Encoders", "Setup")
"""The .ui files of the sections below Detect, Review and Export, in order."""


def loadSections(resourcePath: Callable[[str], str]) -> tuple[object, object]:
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
