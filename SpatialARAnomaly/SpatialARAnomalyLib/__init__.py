"""SpatialARAnomaly: finds what does not look normal in a medical scan.

A volume is cut into slices, a frozen DINOv3 embeds each slice into a grid of tokens, an
autoregressive CNN predicts each token from the ones before it, and what it finds unlikely is
mapped back to voxels, calibrated, and reported as findings.

    from SpatialARAnomalyLib import detect, load_model, read_volume

    detection = detect(read_volume("scan.nii.gz"), load_model("brain-t1"))

The names below are imported when they are first used, so that importing the package is light.
`Resources/Docs/python.md` describes them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Case", "Detection", "Device", "Evaluated", "EvaluationSpec", "EventReporter", "FindingsSpec",
    "Modality", "Model", "ModelCard", "Plane", "Precision", "Preset", "SpatialARError",
    "TrainSpec", "Volume", "detect", "evaluate", "load_model", "read_volume", "train",
]  # fmt: skip

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.engine.errors import SpatialARError
    from SpatialARAnomalyLib.engine.model.model_file import ModelCard
    from SpatialARAnomalyLib.engine.specs import (
        EvaluationSpec,
        FindingsSpec,
        Modality,
        Plane,
        Precision,
        Preset,
    )
    from SpatialARAnomalyLib.engine.volumes.volume import Volume
    from SpatialARAnomalyLib.service.detection.detect import Detection, detect
    from SpatialARAnomalyLib.service.detection.model_cache import Model, load_model
    from SpatialARAnomalyLib.service.evaluation.cases import Case
    from SpatialARAnomalyLib.service.evaluation.evaluate import Evaluated, evaluate
    from SpatialARAnomalyLib.service.events import EventReporter
    from SpatialARAnomalyLib.service.scans import read_volume
    from SpatialARAnomalyLib.service.training.request import TrainSpec
    from SpatialARAnomalyLib.service.training.train import train

_MODULES = {
    "engine.device": ("Device",),
    "engine.errors": ("SpatialARError",),
    "engine.model.model_file": ("ModelCard",),
    "engine.specs": (
        "EvaluationSpec", "FindingsSpec", "Modality", "Plane", "Precision", "Preset"
    ),
    "engine.volumes.volume": ("Volume",),
    "service.detection.detect": ("Detection", "detect"),
    "service.detection.model_cache": ("Model", "load_model"),
    "service.evaluation.cases": ("Case",),
    "service.evaluation.evaluate": ("Evaluated", "evaluate"),
    "service.events": ("EventReporter",),
    "service.scans": ("read_volume",),
    "service.training.request": ("TrainSpec",),
    "service.training.train": ("train",),
}  # fmt: skip
"""Names by the module that defines them, as the imports above."""


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
