"""The worker's jobs of the model library."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..engine.model_store import verify_model
from ..engine.progress import Reporter
from ..engine.specs import Spec
from .model_library import delete_model, export_model, import_model, rename_model


@dataclass(frozen=True, kw_only=True)
class ModelInputs(Spec):
    """Which model."""

    model: str
    """Its folder."""

    def __post_init__(self) -> None:
        self._require(bool(self.model), "model must be a folder")


@dataclass(frozen=True, kw_only=True)
class ImportInputs(Spec):
    """What to import."""

    file: str

    def __post_init__(self) -> None:
        self._require(bool(self.file), "file must be a file")


@dataclass(frozen=True, kw_only=True)
class MoveInputs(Spec):
    """Where the models are."""

    models: str

    def __post_init__(self) -> None:
        self._require(bool(self.models), "models must be a folder")


@dataclass(frozen=True, kw_only=True)
class ExportSpec(Spec):
    """How to export."""

    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class RenameSpec(Spec):
    """What to call a model."""

    name: str


class MoveStep(StrEnum):
    """The two steps of a move; between them the new folder is noted."""

    COPY = "copy"
    REMOVE = "remove"


@dataclass(frozen=True, kw_only=True)
class MoveSpec(Spec):
    """Which step of a move."""

    step: MoveStep


@dataclass(frozen=True, kw_only=True)
class NoSpec(Spec):
    """Of a job that has nothing to be told."""


def do(
    job: str,
    inputs: Mapping[str, Any],
    spec: Mapping[str, Any],
    output: Path,
    report: Reporter,
) -> dict[str, Any]:
    """Do one of `worker_protocol.LIBRARY_JOBS`; what its result says.

    Raises `SpatialARError` where it fails and `Cancelled` through `report`; the
    library is as it was then.
    """
    match job:
        case "model_export":
            overwrite = ExportSpec.from_dict(spec).overwrite
            model = Path(ModelInputs.from_dict(inputs).model)
            return {"file": str(export_model(model, output, report, overwrite=overwrite))}
        case "model_import":
            NoSpec.from_dict(spec)
            found = import_model(Path(ImportInputs.from_dict(inputs).file), output, report)
            return {
                "model": str(found.folder),
                "name": found.card.name,
                "arrival": found.arrival.value,
                "original_name": found.original_name,
            }
        case "model_rename":
            name = RenameSpec.from_dict(spec).name
            folder, card = rename_model(Path(ModelInputs.from_dict(inputs).model), name)
            return {"model": str(folder), "name": card.name}
        case "model_delete":
            NoSpec.from_dict(spec)
            delete_model(Path(ModelInputs.from_dict(inputs).model))
            return {}
        case "model_verify":
            NoSpec.from_dict(spec)
            report.stage("verify", 1, 1)
            card = verify_model(Path(ModelInputs.from_dict(inputs).model))
            return {"name": card.name, "weights_sha256": card.weights_sha256}
        case _:
            return _move(MoveInputs.from_dict(inputs), MoveSpec.from_dict(spec), output, report)


def _move(inputs: MoveInputs, spec: MoveSpec, output: Path, report: Reporter) -> dict[str, Any]:
    from .models_move import copy_models, remove_moved

    step = copy_models if spec.step is MoveStep.COPY else remove_moved
    done = step(Path(inputs.models), output, report)
    return {
        "models_folder": str(output),
        "models": done.models,
        "bytes": done.bytes,
        "left": list(done.left),
    }
