"""Result files that appear under their final names only when all of them are complete."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.file_names import file_name_problem
from SpatialARAnomalyLib.engine.files import (
    GONE,
    READY,
    move_new,
    partial_folder,
    read_json,
    remove_stale_partials,
    replacing,
    sync,
    unwritable,
)
from SpatialARAnomalyLib.engine.progress import Reporter


def make_folder(folder: Path) -> list[Path]:
    """Make the folder and check that files can be written into it.

    Returns the folder and its parents that are new, the deepest first. Raises `OutputError` where
    files cannot be written; new folders are then removed again.
    """
    # `Path.exists` raises where a parent may not be searched.
    missing = [one for one in (folder, *folder.parents) if not os.path.exists(one)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remove_empty(missing)
        in_place = [one for one in (folder, *folder.parents) if os.path.isfile(one)]
        if in_place:
            raise OutputError(
                "output-folder", f"The output needs a folder; {in_place[0].name!r} is a file."
            ) from None
        raise unwritable("The output folder must be writable; it is not", error) from None
    return missing


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make the folder as `make_folder` does; after an error in the block, remove it if new."""
    made = make_folder(folder)
    try:
        yield
    except BaseException:
        remove_empty(made)
        raise


def remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders that exist and are empty."""
    for one in folders:
        with suppress(OSError):
            one.rmdir()


def write_marker(file: Path, what: str) -> None:
    """Note what a folder is, so that a later run recognizes it; may raise `OSError`."""
    about = {"what": what, "engine_version": __version__}
    with replacing(file) as partial:
        partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def is_marked(file: Path, what: str) -> bool:
    """Return whether `write_marker` wrote this file for `what`."""
    try:
        about = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and about.get("what") == what


@contextmanager
def write_atomically(
    folder: Path, names: Sequence[str], *, overwrite: bool, optional: Sequence[str] = ()
) -> Iterator[Path]:
    """Yield a folder to write files of these names into; on success they move to `folder`.

    Those of `optional` need not be written; earlier ones of these names go all the same.

    Raises `OutputError` at once where a file exists (unless `overwrite`), a name is not a file
    name, or the folder cannot be written. After an error `folder` is as it was. If the process is
    killed, every name holds the earlier file or the new one, and the next call for `folder`
    completes results that were ready.
    """
    remove_stale_partials(folder)
    check_names(folder, names, overwrite)
    try:
        with new_folder(folder), partial_folder(folder) as work:
            new = work / "new"
            new.mkdir()
            yield new
            check_names(folder, names, overwrite)  # again: the block may have taken hours
            _move_all(work, folder, names, overwrite, optional)
    except OSError as error:
        raise unwritable("The results cannot be written", error) from None


def write_each(
    folder: Path, writers: Mapping[str, Callable[[Path], object]], report: Reporter
) -> None:
    """Write files into a folder, each with the writer of its name; report the progress."""
    for done, (name, write) in enumerate(writers.items(), start=1):
        report.check_cancelled()
        write(folder / name)
        report.progress(done, len(writers), "file")


def check_names(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raise `OutputError` for a name that some system cannot hold, or is taken in the folder."""
    for name in names:
        if (problem := file_name_problem(name)) is not None:
            raise OutputError(
                "output-name", f"The name of a result must {problem}; found {name!r}."
            )
    existing = [name for name in names if os.path.lexists(folder / name)]
    if existing and not overwrite:
        raise OutputError(
            "output-exists",
            f"The output folder must not hold these files yet: {', '.join(existing)}.",
        )
    folders = [name for name in existing if (folder / name).is_dir()]
    if folders:
        raise OutputError(
            "output-folder", f"Only files are replaced; these are folders: {', '.join(folders)}."
        )


def _move_all(
    work: Path, folder: Path, names: Sequence[str], overwrite: bool, optional: Sequence[str]
) -> None:
    """Move the files of `work` to `folder`, keeping what they replace; undo it on an error."""
    new, chosen, ready, old = (work / name for name in ("new", "chosen", READY, "old"))
    made = [name for name in names if (new / name).is_file()]
    absent = [name for name in names if name not in made and name not in optional]
    if absent:
        raise OutputError(
            "output-incomplete",
            f"All results must have been made; these were not: {', '.join(absent)}.",
        )
    chosen.mkdir()
    old.mkdir()
    (work / GONE).mkdir()
    for name in set(names) - set(made):
        (work / GONE / name).touch()
    for name in made:
        sync(new / name)  # so that not even a power cut leaves half a file under its name
        os.rename(new / name, chosen / name)
    sync(chosen)
    os.rename(chosen, ready)  # from here on, a killed move is completed by the next run
    try:
        for name in names:
            if overwrite and os.path.lexists(folder / name):
                _keep(folder / name, old / name)
            if name not in made:
                if overwrite:
                    (folder / name).unlink(missing_ok=True)
            elif overwrite:
                os.replace(ready / name, folder / name)
            else:
                move_new(ready / name, folder / name)
        sync(folder)
    except BaseException as error:
        os.rename(ready, chosen)
        for name in names:
            if os.path.lexists(old / name):
                os.replace(old / name, folder / name)
            elif name in made and not (chosen / name).exists():
                (folder / name).unlink()
        if isinstance(error, FileExistsError):  # another program was faster
            check_names(folder, names, overwrite)
        raise


def _keep(file: Path, old: Path) -> None:
    """Give a file a second name, so that it is never without one; else move it there."""
    if not file.is_symlink():
        with suppress(OSError):  # a disk without hard links
            os.link(file, old)
            return
    os.replace(file, old)
