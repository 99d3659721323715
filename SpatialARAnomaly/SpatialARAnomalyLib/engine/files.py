"""Files that appear under their names only when whole, also after a power cut."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import OutputError

PARTIAL_PREFIX = ".partial-"
"""Begins the name of a folder in which results are made beside their final place."""

STALE_S = 24 * 3600.0
"""A partial folder untouched for so long was left by a process that was killed."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write a file to, which then takes the name `path`.

    The content is on the disk before the name is, so that no power cut leaves
    half of it. After an error `path` is as it was and the partial file is gone.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    # Windows flushes only files that are open for writing.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def unwritable(
    what: str, error: OSError, hint: str = "", *, code: str = "output-unwritable"
) -> OutputError:
    """Make the error of a refused write, without the place; `hint` is for the transition only."""
    hint = hint or "Free disk space or choose another folder."
    return OutputError(code, f"{what} ({error.strerror or error}).", hint)


def remove_stale_partials(folder: Path) -> None:
    """Remove partial folders that killed processes left in `folder`, as far as possible.

    One that holds what was about to be replaced stays: it may be the only copy.
    """
    with suppress(OSError):
        for left in folder.glob(f"{PARTIAL_PREFIX}*"):
            if not left.is_symlink() and left.is_dir() and _is_stale(left):
                shutil.rmtree(left, ignore_errors=True)


def _is_stale(partial: Path) -> bool:
    inside = {one.name: one for one in partial.iterdir()}
    if not set(inside) <= {"new", "old"}:
        return False  # not made by us
    if "old" in inside and any(inside["old"].iterdir()):
        return False
    touched = max(one.stat().st_mtime for one in (partial, *inside.values()))
    return time.time() - touched > STALE_S


_BLOCK_BYTES = 1 << 20


def _unheard(size_bytes: int) -> None:
    """Nobody wants to know."""


def file_sha256(path: Path, told: Callable[[int], None] = _unheard) -> str:
    """The SHA-256 of a file, hexadecimal; raises `OSError`.

    `told` hears the size of every block that was read, and may raise to stop.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            told(len(block))
    return digest.hexdigest()
