"""Export, import, rename and delete the models of a folder; each is done wholly or not at all."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.engine.model.model_file import (
    SUFFIX,
    ModelCard,
    check_free,
    copy_model,
    is_model,
    model_path,
    read_card,
    refused,
    verify_model,
)
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.models.listing import ModelEntry, list_models
from SpatialARAnomalyLib.service.models.names import (
    TRAINING_SUFFIX,
    as_compared,
    check_name,
    fitting,
    free_name,
)
from SpatialARAnomalyLib.service.outputs import make_folder, remove_empty, missing_parents


class Arrival(StrEnum):
    """How a model came into the library."""

    ADDED = "added"
    RENAMED = "renamed"
    """Its name was taken, or cannot be a file's."""
    PRESENT = "present"
    """It was there already."""


@dataclass(frozen=True)
class Imported:
    """A model of the library after an import."""

    path: Path
    card: ModelCard
    arrival: Arrival
    original_name: str


def export_model(model: Path, file: Path, report: Reporter, *, overwrite: bool) -> Path:
    """Copy a model while verifying it; return the path of the copy, `model_path(file)`.

    Raises:
        ModelError: The model is not complete and unchanged; nothing is written.
        OutputError: The file is there already (unless it is a model and `overwrite` is set), or
            cannot be written.
        Cancelled: Through `report`.
    """
    file = model_path(file)
    report.stage("write", 1, 1)
    check_free(file, overwrite)
    with _made(file.parent):
        copy_model(model, file, on_bytes=_progress_callback(report, model))
    return file


def import_model(file: Path, models: Path, report: Reporter) -> Imported:
    """Copy a model into the folder of models, where it appears only when verified.

    A model that is there already is not copied again, whatever it is called; one whose name is
    taken gets a free name.

    Raises:
        ModelError: The file is not a model, is damaged, changed or of a newer program.
        OutputError: The folder cannot be written.
        Cancelled: Through `report`.
    """
    report.stage("verify", 1, 2)
    card = verify_model(file, _progress_callback(report, file))
    report.stage("write", 2, 2)
    entries = list_models(models)
    here = _find_same(card, entries)
    if here is not None:
        return Imported(here.path, here.card or card, Arrival.PRESENT, card.name)
    taken = {as_compared(entry.name) for entry in entries}
    with suppress(OSError):
        names = [as_compared(one) for one in os.listdir(models)]
        for suffix in (SUFFIX, TRAINING_SUFFIX):
            taken |= {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    name = free_name(fitting(card.name), taken)
    path = models / f"{name}{SUFFIX}"
    with _made(models):
        copied = copy_model(file, path, name=name, on_bytes=_progress_callback(report, file))
    arrival = Arrival.ADDED if name == card.name else Arrival.RENAMED
    return Imported(path, copied, arrival, card.name)


def rename_model(model: Path, name: str) -> tuple[Path, ModelCard]:
    """Change a model's name, on its card and as its file's; return its new path and card.

    Raises:
        ModelError: The name is taken or not possible, or the model is damaged or in use.
        OutputError: The disk refuses. The model is unchanged in every case.
    """
    check_name(name)
    model = Path(os.path.abspath(model_path(model)))
    old_name = read_card(model).name
    path = model.with_name(f"{name}{SUFFIX}")
    for entry in list_models(model.parent):
        other = not _is_same(entry.path, model)
        if other and as_compared(name) in (as_compared(entry.name), as_compared(entry.path.stem)):
            raise _taken(name)
    if os.path.lexists(path) and not _is_same(path, model):
        raise _taken(name)
    card = copy_model(model, model, name=name)
    try:
        os.rename(model, path)
    except BaseException as error:
        copy_model(model, model, name=old_name)
        if isinstance(error, OSError):
            raise refused("The model cannot be renamed", error) from None
        raise
    return path, card


def delete_model(model: Path) -> None:
    """Delete a model's file, damaged or not, but no other file.

    Raises:
        ModelError: The file is missing, is not a model or is in use.
        OutputError: The disk refuses.
    """
    model = model_path(model)
    if not is_model(model):
        read_card(model)  # says what it is instead
    try:
        os.unlink(model)
    except OSError as error:
        raise refused("The model cannot be deleted", error) from None


def _find_same(card: ModelCard, entries: list[ModelEntry]) -> ModelEntry | None:
    """The intact model of the library that has this card but for the name."""
    for entry in entries:
        if entry.card is not None and dataclasses.replace(entry.card, name=card.name) == card:
            with suppress(ModelError):
                verify_model(entry.path)
                return entry
    return None


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are those of one file, as on a disk that ignores case."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def _taken(name: str) -> ModelError:
    return ModelError(
        "model-name-taken",
        f"There is another model, or something else, of the name {name!r}.",
        "Choose another name.",
    )


def _progress_callback(report: Reporter, model: Path) -> Callable[[int], None]:
    """Report the bytes that are done, in MiB, and react to a cancel."""
    total = 1
    with suppress(OSError):  # which reading it will explain
        total = max(1, os.path.getsize(model_path(model)) >> 20)

    def on_bytes(done: int) -> None:
        report.check_cancelled()
        report.progress(min(done >> 20, total), total, "MiB")

    return on_bytes


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Make a folder for the block, and remove it after an error if it is new."""
    missing = missing_parents(folder)
    make_folder(folder)
    try:
        yield
    except BaseException:
        remove_empty(missing)
        raise
