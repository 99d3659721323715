"""Settings of a user that a new scene begins with; those saved in a scene win."""

import slicer

from . import Settings
from .ParameterNode import SpatialARAnomalyParameterNode

BEGUN = "SpatialARAnomaly.Begun"
"""Attribute of a node whose parameters were set once; saved with it, gone with its scene."""


def parametersOf(node: "slicer.vtkMRMLScriptedModuleNode") -> SpatialARAnomalyParameterNode:
    """The parameters kept in a node; a new node begins with what was set last."""
    # Not by the parameters' names: an earlier wrapper may have written its defaults.
    isNew = node.GetAttribute(BEGUN) is None
    node.SetAttribute(BEGUN, "yes")
    parameters = SpatialARAnomalyParameterNode(node)
    if isNew:
        for name, remembered in (
            ("falsePositiveRate", Settings.falsePositiveRate()),
            ("overlayOpacity", Settings.overlayOpacity()),
        ):
            if remembered is not None:
                _set(parameters, name, remembered)
    return parameters


def _set(parameters: SpatialARAnomalyParameterNode, name: str, value: float) -> None:
    try:
        setattr(parameters, name, value)
    except ValueError:  # out of the range: written by another version
        return


class RememberedParameters:
    """Notes what the user changes; what comes with a loaded scene is not the user's doing."""

    def __init__(self) -> None:
        self._known: tuple[float, float] | None = None

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Begin with the settings of a scene; None while there is none."""
        self._known = _of(parameters) if parameters is not None else None

    def update(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Remember what differs from before."""
        if parameters is None or self._known is None:
            return
        now = _of(parameters)
        before, self._known = self._known, now
        if slicer.mrmlScene.IsImporting():
            return
        if now[0] != before[0]:
            Settings.setFalsePositiveRate(now[0])
        if now[1] != before[1]:
            Settings.setOverlayOpacity(now[1])


def _of(parameters: SpatialARAnomalyParameterNode) -> tuple[float, float]:
    return parameters.falsePositiveRate, parameters.overlayOpacity
