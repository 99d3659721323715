"""What is done with the models of a folder: export, import, rename, delete; each wholly or not."""

import dataclasses
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..engine.atomic_files import (
    PARTIAL_PREFIX,
    remove_stale_partials,
    replacing,
    sync,
    unwritable,
)
from ..engine.errors import ModelError, OutputError, SpatialARError
from ..engine.model_store import (
    CARD_FILE,
    ModelCard,
    card_text,
    read_card,
    verify_model,
)
from ..engine.progress import Reporter
from .model_archive import NAMES, SUFFIX, archive_bytes, read_archive, write_archive
from .model_list import ModelEntry, list_models
from .model_names import as_compared, check_name, fitting, free_name
from .outputs import make_folder, remove_empty, still_missing

LEFT_BY_SYSTEMS = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""What file managers leave in folders."""

LEFT_BY_US = {f"{CARD_FILE}.partial"}
"""What a rename leaves that was killed."""

IN_USE = (5, 32, 33)
"""Windows' error numbers for a file that somebody has open."""


class Arrival(StrEnum):
    """How a model came into the library."""

    ADDED = "added"
    RENAMED = "renamed"
    """Its name was taken, or was none that a model can have."""
    PRESENT = "present"
    """It was there already."""


@dataclass(frozen=True)
class Imported:
    """A model of the library after an import."""

    folder: Path
    card: ModelCard
    arrival: Arrival
    original_name: str


def export_model(model: Path, file: Path, report: Reporter, *, overwrite: bool) -> Path:
    """Write a verified model as one file, which gets our suffix if it lacks it; the file's path.

    Raises `ModelError` for a model that is not complete and unchanged,
    `OutputError` where the file cannot be written or is there already (unless
    `overwrite`), `Cancelled` through `report`; nothing is written then.
    """
    if file.suffix != SUFFIX:
        file = file.with_name(file.name + SUFFIX)
    if _is_same(file.parent, model):
        raise OutputError(
            "output-in-model",
            "The model's file must lie outside the model's own folder, which holds nothing else.",
            "Choose another folder.",
        )
    report.stage("verify", 1, 2)
    verify_model(model)
    report.stage("write", 2, 2)
    if os.path.lexists(file) and (not overwrite or not os.path.isfile(file)):
        raise OutputError(
            "output-exists",
            f"{file.name!r} exists already.",
            "Choose another name, or replace it with --overwrite.",
        )
    total = sum((model / name).stat().st_size for name in NAMES)
    with output("The model's file cannot be written", file.parent), replacing(file) as partial:
        write_archive(partial, model, telling(report, total))
    return file


def import_model(file: Path, models: Path, report: Reporter) -> Imported:
    """Bring a model's file into the folder of models; it appears there only when verified.

    One that is there already stays alone; one whose name is taken gets a free one.
    Raises `ModelError` for a file that is no model's, damaged, changed or of
    a newer program, `OutputError` where the folder takes no model,
    `Cancelled` through `report`; the folder is as it was then.
    """
    report.stage("read", 1, 2)
    total = archive_bytes(file)
    with output("The model cannot be written", models):
        remove_stale_partials(models)
        with _work(models) as new:
            read_archive(file, new, telling(report, total))
            report.stage("verify", 2, 2)
            card = verify_model(new)
            entries = list_models(models)
            here = _same_model(card, entries)
            if here is not None:
                return Imported(here.folder, here.card or card, Arrival.PRESENT, card.name)
            return _settle(new, card, models, entries)


def _settle(new: Path, card: ModelCard, models: Path, entries: list[ModelEntry]) -> Imported:
    """Move a model from where it was made to its place, under the first name that is free."""
    original, taken = card.name, {as_compared(entry.name) for entry in entries}
    with suppress(OSError):
        taken |= {as_compared(one.name) for one in models.iterdir()}
    while True:
        name = free_name(fitting(original), taken)
        if name != card.name:
            card = dataclasses.replace(card, name=name)
            (new / CARD_FILE).write_text(card_text(card), encoding="utf-8", newline="\n")
            sync(new / CARD_FILE)
        try:
            os.rename(new, models / name)
        except OSError:
            if not os.path.lexists(models / name):
                raise
            taken.add(as_compared(name))  # another import was faster
            continue
        arrival = Arrival.ADDED if name == original else Arrival.RENAMED
        return Imported(models / name, card, arrival, original)


def _same_model(card: ModelCard, entries: list[ModelEntry]) -> ModelEntry | None:
    """The model of the library that is this one, whatever it is called, if it is intact."""
    for entry in entries:
        if entry.card is not None and dataclasses.replace(entry.card, name=card.name) == card:
            with suppress(ModelError):
                verify_model(entry.folder)
                return entry
    return None


def rename_model(model: Path, name: str) -> tuple[Path, ModelCard]:
    """Give a model another name, in its card and as its folder's; its new folder and card.

    Raises `ModelError` for a name that it cannot have or that is taken, for a
    model that is damaged, and for one in use; `OutputError` where the disk
    refuses. It is as it was then.
    """
    check_name(name)
    model = Path(os.path.abspath(model))
    card = read_card(model)
    _check_own(model)
    place = model.with_name(name)
    for entry in list_models(model.parent):
        other = not _is_same(entry.folder, model)
        if other and as_compared(name) in (as_compared(entry.name), as_compared(entry.folder.name)):
            raise _taken(name)
    if os.path.lexists(place) and not _is_same(place, model):
        raise _taken(name)
    before = (model / CARD_FILE).read_bytes()
    renamed = dataclasses.replace(card, name=name)
    try:
        _write_card(model, card_text(renamed).encode())
        try:
            if place.name != model.name:
                os.rename(model, place)
        except BaseException:
            _write_card(model, before)
            raise
    except OSError as error:
        raise refused("The model cannot be renamed", error) from None
    return place, renamed


def _write_card(model: Path, content: bytes) -> None:
    with replacing(model / CARD_FILE) as partial:
        partial.write_bytes(content)


def delete_model(model: Path) -> None:
    """Remove a model's folder, damaged or not, and nothing that is not a model's.

    Raises `ModelError` for a folder that is no model's or holds more, and for a model
    in use; `OutputError` where the disk refuses. It is as it was then.
    """
    model = Path(os.path.abspath(model))
    _check_own(model)
    try:
        with tempfile.TemporaryDirectory(
            prefix=PARTIAL_PREFIX, dir=model.parent, ignore_cleanup_errors=True
        ) as work:
            away = Path(work) / "new"
            # First away as a whole: half a model would be a damaged one.
            os.rename(model, away)
            try:
                _check_own(away)
            except SpatialARError:  # somebody put something into it meanwhile
                os.rename(away, model)
                raise
    except OSError as error:
        raise refused("The model cannot be deleted", error) from None


def _check_own(model: Path) -> None:
    """Raise `ModelError` unless a folder holds a model and nothing else."""
    try:
        if model.is_symlink() or not model.is_dir():
            raise ModelError(
                "model-missing",
                "A model must be a folder of its own; this is "
                f"{'a link' if model.is_symlink() else 'none'}.",
                "Look for models again.",
            )
        held = {one.name: one.lstat() for one in model.iterdir()}
    except OSError as error:
        raise refused("The model's folder cannot be looked into", error) from None
    plain = {name for name, found in held.items() if stat.S_ISREG(found.st_mode)}
    allowed = {*NAMES} | LEFT_BY_SYSTEMS | LEFT_BY_US
    others = sorted(set(held) - (plain & allowed))
    if others:
        raise ModelError(
            "model-not-alone",
            f"The folder {model.name!r} holds more than a model ({others[0]!r}); it is left as "
            "it is.",
            "Move what else is in it to another place first.",
        )
    if not plain & {*NAMES}:
        raise ModelError(
            "model-missing", f"The folder {model.name!r} holds no model.", "Look for models again."
        )


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are those of one folder, as on a disk that ignores case."""
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


def refused(what: str, error: OSError) -> SpatialARError:
    """The error that says what the system refused, and what the user can do about it."""
    if getattr(error, "winerror", None) in IN_USE:
        return ModelError(
            "model-in-use",
            f"{what}: it is in use, or may not be changed.",
            "Wait until the detection or training with it has ended, close other programs that "
            "show its folder, and try again.",
        )
    return unwritable(what, error, "Check that you may change the models folder.")


def telling(report: Reporter, total: int) -> Callable[[int], None]:
    """Tells how many of all bytes are done, and hears a cancel."""

    def told(done: int) -> None:
        report.check_cancelled()
        report.progress(min(done, total) >> 20, max(1, total >> 20), "MiB")

    return told


@contextmanager
def _work(folder: Path) -> Iterator[Path]:
    """A folder to make a model in, beside its place."""
    with tempfile.TemporaryDirectory(
        prefix=PARTIAL_PREFIX, dir=folder, ignore_cleanup_errors=True
    ) as work:
        new = Path(work) / "new"
        new.mkdir()
        yield new


@contextmanager
def output(what: str, folder: Path) -> Iterator[None]:
    """Makes the folder for the block; after an error it is as it was, and the error is ours."""
    missing = still_missing(folder)
    make_folder(folder)
    try:
        yield
    except OSError as error:
        remove_empty(missing)
        raise unwritable(what, error) from None
    except BaseException:
        remove_empty(missing)
        raise
