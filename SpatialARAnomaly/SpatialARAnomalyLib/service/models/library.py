"""Export, import, rename and delete the models of a folder; each is done wholly or not at all.

A model's name is a file name too, on every system that the model may travel to (`name_problem`).
"""

import dataclasses
import os
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import ModelError, OutputError
from SpatialARAnomalyLib.engine.file_names import comparable, file_name_problem, make_file_name
from SpatialARAnomalyLib.engine.files import move_new, remove_stale_partials
from SpatialARAnomalyLib.engine.model.model_file import (
    SUFFIX,
    ModelCard,
    check_free,
    copy_model,
    is_model,
    model_path,
    read_card,
    verify_model,
    write_error,
)
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.service.models.listing import ModelEntry, list_models
from SpatialARAnomalyLib.service.outputs import new_folder
from SpatialARAnomalyLib.service.training.folder import SUFFIX as TRAINING_SUFFIX

MAX_CHARACTERS = 80
MAX_BYTES = 200
"""Bytes of a name in UTF-8; file systems take 255, suffix included."""


class Arrival(StrEnum):
    """The way in which a model came into the library."""

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
        OutputError: The file exists (unless it is a model and `overwrite` is set), or cannot be
            written.
        Cancelled: Through `report`.
    """
    file = model_path(file)
    report.stage("write", 1, 1)
    check_free(file, overwrite)
    with new_folder(file.parent):
        copy_model(model, file, overwrite=overwrite, on_bytes=_progress_callback(report, model))
    return file


def import_model(file: Path, models: Path, report: Reporter) -> Imported:
    """Copy a model into the folder of models, where it appears only when verified.

    A model that is there already, under whatever name, is not copied again; one whose name is
    taken gets a free name.

    Raises:
        ModelError: The file is not a model, is damaged, changed or of a newer program.
        OutputError: The folder cannot be written.
        Cancelled: Through `report`.
    """
    report.stage("verify", 1, 2)
    remove_stale_partials(models)
    card = verify_model(file, _progress_callback(report, file))
    report.stage("write", 2, 2)
    entries = list_models(models)
    same = _find_same(card, entries)
    if same is not None:
        return Imported(same.path, same.card or card, Arrival.PRESENT, card.name)
    taken = {comparable(entry.name) for entry in entries}
    with suppress(OSError):
        names = [comparable(one) for one in os.listdir(models)]
        for suffix in (SUFFIX, TRAINING_SUFFIX):
            taken |= {name.removesuffix(suffix) for name in names if name.endswith(suffix)}
    on_bytes = _progress_callback(report, file)
    with new_folder(models):
        while True:
            name = find_free_name(make_valid(card.name), taken)
            path = models / f"{name}{SUFFIX}"
            try:
                copied = copy_model(file, path, name=name, overwrite=False, on_bytes=on_bytes)
            except OutputError as error:
                if error.code != "output-exists":
                    raise
                taken.add(comparable(name))  # by another program, since the list was made
            else:
                break
    arrival = Arrival.ADDED if name == card.name else Arrival.RENAMED
    return Imported(path, copied, arrival, card.name)


def rename_model(model: Path, name: str) -> tuple[Path, ModelCard]:
    """Change the name of a model, on its card and of its file; return its new path and card.

    Raises:
        ModelError: The name is taken or not possible, or the model is damaged or in use.
        OutputError: The disk refuses. The model is unchanged in every case.
    """
    check_name(name)
    model = Path(os.path.abspath(model_path(model)))
    old_name = read_card(model).name
    path = model.with_name(f"{name}{SUFFIX}")
    others = [one for one in list_models(model.parent) if not _is_same_file(one.path, model)]
    names = {comparable(one) for entry in others for one in (entry.name, entry.path.stem)}
    taken = ModelError(
        "model-name-taken", f"There is another model, or something else, named {name!r}."
    )
    if comparable(name) in names or (os.path.lexists(path) and not _is_same_file(path, model)):
        raise taken
    card = copy_model(model, model, name=name)
    try:
        if _is_same_file(model, path):  # only the case differs, on a disk that ignores it
            os.rename(model, path)
        else:
            move_new(model, path)
    except BaseException as error:
        copy_model(model, model, name=old_name)
        if isinstance(error, FileExistsError):  # another program was faster
            raise taken from None
        if isinstance(error, OSError):
            raise write_error("The model cannot be renamed", error) from None
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
        read_card(model)  # raises the error that fits
    try:
        os.unlink(model)
    except OSError as error:
        raise write_error("The model cannot be deleted", error) from None


def _find_same(card: ModelCard, entries: list[ModelEntry]) -> ModelEntry | None:
    """Return the intact model of the library that has this card but for the name."""
    for entry in entries:
        if entry.card is not None and dataclasses.replace(entry.card, name=card.name) == card:
            with suppress(ModelError):
                verify_model(entry.path)
                return entry
    return None


def _is_same_file(one: Path, other: Path) -> bool:
    """Return whether two paths are those of one file, as on a disk that ignores case."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return one == other


def _progress_callback(report: Reporter, model: Path) -> Callable[[int], None]:
    """Return a function that reports the bytes done, in MiB, and raises `Cancelled`."""
    total = 1
    with suppress(OSError):  # reading the model raises a better error
        total = max(1, os.path.getsize(model_path(model)) >> 20)

    def on_bytes(done: int) -> None:
        report.check_cancelled()
        report.progress(min(done >> 20, total), total, "MiB")

    return on_bytes


def name_problem(name: str) -> str | None:
    """Return what is wrong with a name, to follow "A model's name must"; None for a valid one."""
    if len(name) > MAX_CHARACTERS or len(name.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return f"have at most {MAX_CHARACTERS} characters ({MAX_BYTES} bytes in UTF-8)"
    if (problem := file_name_problem(name)) is not None:
        return problem
    for suffix in (TRAINING_SUFFIX, SUFFIX):
        if name.casefold().endswith(suffix):
            return f"not end with {suffix}"
    return None


def check_name(name: str) -> None:
    """Raise `ModelError` for a name that a model cannot have."""
    problem = name_problem(name)
    if problem is not None:
        raise ModelError("model-name", f"A model's name must {problem}; found {name!r}.")


def make_valid(name: str) -> str:
    """Return the name itself if a model can have it, else a similar one."""
    if name_problem(name) is None:
        return name
    kept = _shorten(make_file_name(name, "model"), 0)
    return kept if name_problem(kept) is None else _shorten(kept.replace(".", "_"), 0)


def find_free_name(name: str, taken: Collection[str]) -> str:
    """Return the name, or where it is taken the name with the first free number.

    `taken` holds names in the form that `comparable` returns.
    """
    number, free = 1, name
    while comparable(free) in taken:
        number += 1
        ending = f" ({number})"
        free = _shorten(name, len(ending)) + ending
    return free


def _shorten(name: str, by: int) -> str:
    """Return the beginning of a name that leaves `by` characters free."""
    name = name[: MAX_CHARACTERS - by]
    while len(name.encode("utf-8")) > MAX_BYTES - by:
        name = name[:-1]
    return name.rstrip(" .")
