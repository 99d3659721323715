"""The models of a folder, each with its card or with what is wrong with it."""

from dataclasses import dataclass
from pathlib import Path

from ..engine.atomic_files import PARTIAL_PREFIX
from ..engine.errors import SpatialARError
from ..engine.model_store import CARD_FILE, WEIGHTS_FILE, ModelCard, read_card


@dataclass(frozen=True)
class ModelEntry:
    """A model folder: either its card, or the error that says why there is none."""

    folder: Path
    card: ModelCard | None
    error: SpatialARError | None


def list_models(folder: Path) -> list[ModelEntry]:
    """The models in `folder` by name, none where it does not exist or may not be read.

    What is no model's folder is left out. Weights are not read here: a model
    is verified when it is used.
    """
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return []
    entries = [_entry(one) for one in inside if _is_model(one)]
    return sorted(entries, key=lambda one: (one.card or one.folder).name.casefold())


def _is_model(folder: Path) -> bool:
    if folder.name.startswith(PARTIAL_PREFIX):
        return False
    try:
        return any((folder / file).is_file() for file in (CARD_FILE, WEIGHTS_FILE))
    except OSError:
        return False


def _entry(folder: Path) -> ModelEntry:
    try:
        return ModelEntry(folder, read_card(folder, with_weights=False), None)
    except SpatialARError as error:
        return ModelEntry(folder, None, error)
