"""What is remembered per user, in Slicer's settings; never a patient's name or a scan's file."""

from pathlib import Path

import qt
import slicer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.user_folder import models_folder
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode

GROUP = "SpatialARAnomaly"


def _value(key: str, default: str) -> str:
    return slicer.util.settingsValue(f"{GROUP}/{key}", default, converter=str)


def _set(key: str, value: str) -> None:
    qt.QSettings().setValue(f"{GROUP}/{key}", value)


def device() -> Device:
    """Where to compute."""
    try:
        return Device(_value("Device", Device.AUTO.value))
    except ValueError:
        return Device.AUTO


def setDevice(device: Device) -> None:
    """Remember where to compute."""
    _set("Device", device.value)


def modelsFolder() -> Path:
    """Where the user's models lie."""
    return Path(_value("ModelsFolder", "") or models_folder())


def setModelsFolder(folder: Path) -> None:
    """Remember where the user's models lie."""
    _set("ModelsFolder", str(folder))


def lastModel() -> str:
    """Hash of the weights of the model chosen last."""
    return _value("LastModel", "")


def setLastModel(weightsSha256: str) -> None:
    """Remember the model chosen last."""
    _set("LastModel", weightsSha256)


def exportFolder() -> str:
    """Where results were exported to last."""
    return _value("ExportFolder", "")


def setExportFolder(folder: str) -> None:
    """Remember where results were exported to."""
    _set("ExportFolder", folder)


def falsePositiveRate() -> float | None:
    """The threshold that was set last; None before one was."""
    return _number("FalsePositiveRate")


def setFalsePositiveRate(rate: float) -> None:
    """Remember the threshold for new scenes."""
    _set("FalsePositiveRate", repr(float(rate)))


def overlayOpacity() -> float | None:
    """The opacity of the overlay that was set last; None before one was."""
    return _number("OverlayOpacity")


def setOverlayOpacity(opacity: float) -> None:
    """Remember the opacity of the overlay for new scenes."""
    _set("OverlayOpacity", repr(float(opacity)))


def workerPython() -> str:
    """The Python that computes instead of Slicer's own; empty for Slicer's."""
    return _value("WorkerPython", "")


def setWorkerPython(program: str) -> None:
    """Remember which Python computes."""
    _set("WorkerPython", program)


def installPending() -> bool:
    """Whether an installation is to go on after Slicer's restart."""
    return _value("InstallPending", "") == "yes"


def setInstallPending(pending: bool) -> None:
    """Remember that an installation is to go on after Slicer's restart."""
    _set("InstallPending", "yes" if pending else "")


def _number(key: str) -> float | None:
    try:
        return float(_value(key, ""))
    except ValueError:
        return None


TRAINING = {
    "Folder": "",
    "SizePx": str(TrainSpec.size_px),
    "Epochs": str(TrainSpec.epochs),
    "Preset": TrainSpec.preset.value,
    "Encoder": TrainSpec.encoder,
}
"""What is remembered of the section *Train*, and its values at first."""


def training(key: str) -> str:
    """A choice for trainings, by a key of `TRAINING`; a number is digits."""
    value = _value(f"Training{key}", TRAINING[key])
    return value if value.isdigit() or not TRAINING[key].isdigit() else TRAINING[key]


def setTraining(key: str, value: str) -> None:
    """Remember a choice for trainings."""
    _set(f"Training{key}", value)


BEGUN = "SpatialARAnomaly.Begun"
"""Attribute of a node whose parameters were set once; saved with it, gone with its scene."""


def wrapParameters(node: "slicer.vtkMRMLScriptedModuleNode") -> SpatialARAnomalyParameterNode:
    """The parameters kept in a node; a new node begins with what was set last."""
    # Not by the parameters' names: an earlier wrapper may have written its defaults.
    isNew = node.GetAttribute(BEGUN) is None
    node.SetAttribute(BEGUN, "yes")
    parameters = SpatialARAnomalyParameterNode(node)
    if isNew:
        for name, remembered in (
            ("falsePositiveRate", falsePositiveRate()),
            ("overlayOpacity", overlayOpacity()),
        ):
            if remembered is not None:
                _setParameter(parameters, name, remembered)
    return parameters


def _setParameter(parameters: SpatialARAnomalyParameterNode, name: str, value: float) -> None:
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
            setFalsePositiveRate(now[0])
        if now[1] != before[1]:
            setOverlayOpacity(now[1])


def _of(parameters: SpatialARAnomalyParameterNode) -> tuple[float, float]:
    return parameters.falsePositiveRate, parameters.overlayOpacity
