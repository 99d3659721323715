"""Result files that appear under their final names only when all of them are complete."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.files import PARTIAL_PREFIX, remove_stale_partials, unwritable


def make_folder(folder: Path) -> None:
    """Make the folder and see that files can be written into it.

    Raises `OutputError` otherwise; a folder that was made for it is removed again.
    """
    missing = still_missing(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        remove_empty(missing)
        raise unwritable("The output folder must be writable; it is not", error) from None


def write_marker(file: Path, what: str) -> None:
    """Note what a folder is, so that a later run knows it for its own; may raise `OSError`."""
    about = {"what": what, "engine_version": __version__}
    file.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def is_marked(file: Path, what: str) -> bool:
    """Whether `write_marker` wrote this file for that."""
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and about.get("what") == what


@contextmanager
def appear_together(folder: Path, names: Sequence[str], *, overwrite: bool) -> Iterator[Path]:
    """Gives a folder to write files of these names into; on success they move to `folder`.

    Raises `OutputError` at once where a file exists (unless `overwrite`), a
    name is no file name, or the folder cannot be written. After an error
    `folder` is as it was.
    """
    check_names(folder, names, overwrite)
    missing = still_missing(folder)
    make_folder(folder)
    remove_stale_partials(folder)
    done = False
    try:
        with tempfile.TemporaryDirectory(
            prefix=PARTIAL_PREFIX, dir=folder, ignore_cleanup_errors=True
        ) as work:
            new, old = Path(work) / "new", Path(work) / "old"
            new.mkdir()
            old.mkdir()
            yield new
            # Much may have happened since the first look.
            check_names(folder, names, overwrite)
            _move_all(new, old, folder, names)
        done = True
    except OSError as error:
        raise unwritable("The results cannot be written", error) from None
    finally:
        if not done:
            remove_empty(missing)


def check_names(folder: Path, names: Sequence[str], overwrite: bool) -> None:
    """Raise `OutputError` where a name is no file name, or that of what may not be replaced."""
    # A backslash parts folders on Windows; a leading point hides a file elsewhere.
    odd = [
        name for name in names if Path(name).name != name or "\\" in name or name[:1] in ("", ".")
    ]
    if odd:
        raise OutputError(
            "output-name", f"The name of a result must be a file name; found {odd[0]!r}."
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


def _move_all(new: Path, old: Path, folder: Path, names: Sequence[str]) -> None:
    """Move the files of `new` to `folder`, what they replace to `old`; after an error, back."""
    absent = [name for name in names if not (new / name).is_file()]
    if absent:
        raise OutputError(
            "output-incomplete",
            f"All results must have been made; these were not: {', '.join(absent)}.",
        )
    try:
        for name in names:
            if os.path.lexists(folder / name):
                os.replace(folder / name, old / name)
            os.replace(new / name, folder / name)
    except BaseException:
        for name in names:
            if os.path.lexists(old / name):
                os.replace(old / name, folder / name)
            elif not (new / name).exists():
                (folder / name).unlink()
        raise


def still_missing(folder: Path) -> list[Path]:
    """The folder and its parents that do not exist, the deepest first."""
    # Not `Path.exists`, which raises where a parent may not be searched.
    return [one for one in (folder, *folder.parents) if not os.path.exists(one)]


def remove_empty(folders: list[Path]) -> None:
    """Remove the folders as far as they are there and empty."""
    for one in folders:
        with suppress(OSError):
            one.rmdir()
