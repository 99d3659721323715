"""The worker's jobs of the model library."""

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Its file."""

    def __post_init__(self) -> None:
        self._require(bool(self.model), "model must be a file")


@dataclass(frozen=True, kw_only=True)
class ImportInputs(Spec):
    """What to import."""

    file: str

    def __post_init__(self) -> None:
        self._require(bool(self.file), "file must be a file")


@dataclass(frozen=True, kw_only=True)
class ExportSpec(Spec):
    """How to export."""

    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class RenameSpec(Spec):
    """What to call a model."""

    name: str


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
                "model": str(found.path),
                "name": found.card.name,
                "arrival": found.arrival.value,
                "original_name": found.original_name,
            }
        case "model_rename":
            name = RenameSpec.from_dict(spec).name
            path, card = rename_model(Path(ModelInputs.from_dict(inputs).model), name)
            return {"model": str(path), "name": card.name}
        case "model_delete":
            NoSpec.from_dict(spec)
            delete_model(Path(ModelInputs.from_dict(inputs).model))
            return {}
        case _:
            NoSpec.from_dict(spec)
            report.stage("verify", 1, 1)
            card = verify_model(
                Path(ModelInputs.from_dict(inputs).model), lambda _: report.check_cancelled()
            )
            return {"name": card.name, "weights_sha256": card.weights_sha256}
