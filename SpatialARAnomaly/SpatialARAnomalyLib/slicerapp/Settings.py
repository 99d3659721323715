"""What is remembered per user, in Slicer's settings; never a patient's name or a scan's file."""

from pathlib import Path

import qt
import slicer

from ..engine.device import Device
from ..service.training_request import TrainSpec
from ..service.user_folder import models_folder

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
