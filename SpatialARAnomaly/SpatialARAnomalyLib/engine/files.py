"""Atomic writing of files, leftovers of killed processes, and file hashes."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import OutputError

PARTIAL_PREFIX = ".partial-"
"""Prefix of a folder in which results are made beside their final place."""

STALE_S = 24 * 3600.0
"""Age in seconds from which an untouched partial folder belongs to a killed process."""

_BLOCK_BYTES = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write a file to, then move it to `path` in one step.

    The content is flushed to disk first, so that not even a power cut leaves half a file.
    After an error `path` is unchanged and the partial file is removed.
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
    """Flush the content of a file to disk."""
    # Windows flushes only files that are open for writing.
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def unwritable(what: str, error: OSError, *, code: str = "output-unwritable") -> OutputError:
    """Make the error of a failed write, without paths."""
    return OutputError(code, f"{what} ({error.strerror or error}).")


def remove_stale_partials(folder: Path) -> None:
    """Remove partial folders that killed processes left in `folder`, as far as possible.

    A partial folder that holds earlier results stays: they may be the only copy.
    """
    with suppress(OSError):
        for left in folder.glob(f"{PARTIAL_PREFIX}*"):
            if not left.is_symlink() and left.is_dir() and _is_stale(left):
                shutil.rmtree(left, ignore_errors=True)


def _is_stale(partial: Path) -> bool:
    inside = {one.name: one for one in partial.iterdir()}
    if not set(inside) <= {"new", "old"}:
        return False  # not written by this program
    if "old" in inside and any(inside["old"].iterdir()):
        return False
    touched = max(one.stat().st_mtime for one in (partial, *inside.values()))
    return time.time() - touched > STALE_S


def file_sha256(path: Path, progress_callback: Callable[[int], None] = lambda size: None) -> str:
    """Return the SHA-256 of a file in hexadecimal; raises `OSError`.

    `progress_callback` is called with the size of every block in bytes, and may raise to stop.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            progress_callback(len(block))
    return digest.hexdigest()
