"""The user's settings, kept by Slicer; never a patient's name or the file of a scan."""

from pathlib import Path

import qt
import slicer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.user_folder import models_folder
from SpatialARAnomalyLib.slicerapp.ParameterNode import SpatialARAnomalyParameterNode

GROUP = "SpatialARAnomaly"

TRAINING = {
    "Folder": "",
    "SizePx": str(TrainSpec.size_px),
    "Epochs": str(TrainSpec.epochs),
    "Preset": TrainSpec.preset.value,
    "Encoder": TrainSpec.encoder,
}
"""Settings of the section *Train*, and their defaults."""

REMEMBERED = {"falsePositiveRate": "FalsePositiveRate", "overlayOpacity": "OverlayOpacity"}
"""Parameters that a new scene takes from the user's last choice, and their settings."""

INITIALIZED = "SpatialARAnomaly.Initialized"
"""Attribute of a parameter node that has received the remembered parameters."""


def _value(key: str, default: str = "") -> str:
    return slicer.util.settingsValue(f"{GROUP}/{key}", default, converter=str)


def _setValue(key: str, value: str) -> None:
    qt.QSettings().setValue(f"{GROUP}/{key}", value)


def device() -> Device:
    """Return the device to compute on."""
    try:
        return Device(_value("Device", Device.AUTO.value))
    except ValueError:
        return Device.AUTO


def setDevice(device: Device) -> None:
    """Set the device to compute on."""
    _setValue("Device", device.value)


def modelsFolder() -> Path:
    """Return the folder of the user's models."""
    return Path(_value("ModelsFolder") or models_folder())


def setModelsFolder(folder: Path | str) -> None:
    """Set the folder of the user's models; an empty text stands for the default."""
    _setValue("ModelsFolder", str(folder))


def lastModel() -> str:
    """Return the SHA-256 of the weights of the last chosen model."""
    return _value("LastModel")


def setLastModel(weightsSha256: str) -> None:
    """Set the last chosen model."""
    _setValue("LastModel", weightsSha256)


def exportFolder() -> str:
    """Return the folder of the last export."""
    return _value("ExportFolder")


def setExportFolder(folder: str) -> None:
    """Set the folder of the last export."""
    _setValue("ExportFolder", folder)


def batchFolder(what: str) -> str:
    """Return the `Scans` or `Results` of the last batch: a folder, or a table."""
    return _value(f"Batch{what}")


def setBatchFolder(what: str, folder: str) -> None:
    """Set the `Scans` or `Results` of the last batch."""
    _setValue(f"Batch{what}", folder)


def workerPython() -> str:
    """Return the Python that runs the worker; empty for Slicer's own."""
    return _value("WorkerPython")


def setWorkerPython(program: str) -> None:
    """Set the Python that runs the worker."""
    _setValue("WorkerPython", program)


def installPending() -> bool:
    """Return True if an installation continues after Slicer's restart."""
    return _value("InstallPending") == "yes"


def setInstallPending(pending: bool) -> None:
    """Set whether an installation continues after Slicer's restart."""
    _setValue("InstallPending", "yes" if pending else "")


def training(key: str) -> str:
    """Return a setting of `TRAINING`; those with a number as default are digits."""
    value = _value(f"Training{key}", TRAINING[key])
    return value if value.isdigit() or not TRAINING[key].isdigit() else TRAINING[key]


def setTraining(key: str, value: str) -> None:
    """Set a setting of `TRAINING`."""
    _setValue(f"Training{key}", value)


def remembered(parameter: str) -> float | None:
    """Return the user's last choice of a parameter; None before the first."""
    try:
        return float(_value(REMEMBERED[parameter]))
    except ValueError:
        return None


def wrapParameters(node: "slicer.vtkMRMLScriptedModuleNode") -> SpatialARAnomalyParameterNode:
    """Wrap a parameter node; a new one first receives the remembered parameters."""
    # The wrapper writes all defaults, so existing parameters do not show that a node is old.
    isNew = node.GetAttribute(INITIALIZED) is None
    node.SetAttribute(INITIALIZED, "yes")
    parameters = SpatialARAnomalyParameterNode(node)
    for name in REMEMBERED if isNew else ():
        value = remembered(name)
        if value is not None:
            try:
                setattr(parameters, name, value)
            except ValueError:  # another version with a wider range wrote it
                continue
    return parameters


class RememberedParameters:
    """Stores parameters that the user changes, but not those of a loaded scene."""

    def __init__(self) -> None:
        self._known: dict[str, float] | None = None

    def setParameters(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Start with the parameters of a scene; None while there is no scene."""
        self._known = None if parameters is None else _readRemembered(parameters)

    def update(self, parameters: SpatialARAnomalyParameterNode | None) -> None:
        """Store the parameters that have changed."""
        if parameters is None or self._known is None:
            return
        before, self._known = self._known, _readRemembered(parameters)
        if slicer.mrmlScene.IsImporting():
            return
        for name, value in self._known.items():
            if value != before[name]:
                _setValue(REMEMBERED[name], repr(value))


def _readRemembered(parameters: SpatialARAnomalyParameterNode) -> dict[str, float]:
    return {name: float(getattr(parameters, name)) for name in REMEMBERED}
