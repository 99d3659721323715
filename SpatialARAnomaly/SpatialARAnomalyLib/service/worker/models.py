"""The worker's jobs of the model library; after an error or `Cancelled` it is as it was."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.model.model_file import verify_model
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.service.models.card_file import write_card
from SpatialARAnomalyLib.service.models.library import (
    delete_model,
    export_model,
    import_model,
    rename_model,
)


@dataclass(frozen=True, kw_only=True)
class ModelInputs(Spec):
    """A model."""

    model: str
    """Path of its file."""

    def __post_init__(self) -> None:
        self._require(bool(self.model), "model must be a file")


@dataclass(frozen=True, kw_only=True)
class ImportInputs(Spec):
    """A model's file to import."""

    file: str

    def __post_init__(self) -> None:
        self._require(bool(self.file), "file must be a file")


@dataclass(frozen=True, kw_only=True)
class ExportSpec(Spec):
    """Settings of an export."""

    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class RenameSpec(Spec):
    """New name of a model."""

    name: str


def export(inputs: ModelInputs, spec: ExportSpec, output: Path, report: Reporter) -> dict[str, Any]:
    """Copy a model to the file `output`."""
    model = Path(inputs.model)
    return {"file": str(export_model(model, output, report, overwrite=spec.overwrite))}


def import_file(inputs: ImportInputs, output: Path, report: Reporter) -> dict[str, Any]:
    """Add a model's file to the folder of models `output`."""
    found = import_model(Path(inputs.file), output, report)
    return {
        "model": str(found.path),
        "name": found.card.name,
        "arrival": found.arrival.value,
        "original_name": found.original_name,
    }


def rename(inputs: ModelInputs, spec: RenameSpec) -> dict[str, Any]:
    """Rename a model and its file."""
    path, card = rename_model(Path(inputs.model), spec.name)
    return {"model": str(path), "name": card.name}


def delete(inputs: ModelInputs) -> dict[str, Any]:
    """Delete a model."""
    delete_model(Path(inputs.model))
    return {}


def write_card_files(
    inputs: ModelInputs, spec: ExportSpec, output: Path, report: Reporter
) -> dict[str, Any]:
    """Verify a model and write its card to the file `output`, with a picture beside it."""
    report.stage("verify", 1, 1)
    card = verify_model(Path(inputs.model), lambda _: report.check_cancelled())
    text, picture = write_card(output, card, overwrite=spec.overwrite)
    return {"file": str(text), "picture": str(picture)}


def verify(inputs: ModelInputs, report: Reporter) -> dict[str, Any]:
    """Check that a model is complete and unchanged."""
    report.stage("verify", 1, 1)
    card = verify_model(Path(inputs.model), lambda _: report.check_cancelled())
    return {"name": card.name, "weights_sha256": card.weights_sha256}
