"""Atomic writing of files, leftovers of killed processes, and file hashes."""

import errno
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.errors import OutputError

PARTIAL_PREFIX = ".partial-"
"""Prefix of a folder in which results are made beside their final place."""

READY = "ready"
"""Folder in a partial folder whose files are complete and are being moved to their place."""

GONE = "gone"
"""Folder in a partial folder with the names of earlier results that have no successor."""

STALE_S = 24 * 3600.0
"""Age in seconds from which an untouched partial file belongs to a killed process, where the
disk has no locks."""

MAX_JSON_BYTES = 16 << 20
"""Largest JSON file that is read; those of this program have kilobytes."""

_LOCK = "lock"
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK}
"""Error numbers of disks without hard links."""

_BLOCK_BYTES = 1 << 20


def read_json(path: Path) -> Any:
    """Read a JSON file, bounded in size and depth; raises `OSError`, or else `ValueError`."""
    with path.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


@contextmanager
def replacing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """Give a path beside `path` to write a file to, then move it to `path` in one step.

    The content is flushed to disk first, so that not even a power cut leaves half a file.
    After an error `path` is unchanged and the partial file is removed. Several processes may
    write the same path: each has a partial file of its own, and the last one wins. Those that
    killed processes left go after a day, or at once where the caller says that it is `alone`.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.partial"):
        with suppress(OSError):
            if alone or time.time() - left.stat().st_mtime > STALE_S:
                left.unlink()
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush the content of a file, or the names in a folder, to disk."""
    if sys.platform == "win32":
        if path.is_file():
            with path.open("rb+") as file:  # only files that are open for writing are flushed
                os.fsync(file.fileno())
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if path.is_file():  # some network disks have no flush of folders
            raise
    finally:
        os.close(descriptor)


def move_new(source: Path, target: Path) -> None:
    """Move a file to a name that must be free; raises `FileExistsError` where it is not.

    Unlike a check before a move, this is safe where another program takes the name meanwhile.
    """
    if sys.platform != "win32":  # there `rename` itself refuses a name that is taken
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        else:
            os.unlink(source)
            return
    os.rename(source, target)


def lock(descriptor: int) -> None:
    """Lock an open file; raises `OSError` where another process has locked it.

    The system releases the lock when the file is closed or the process dies.
    """
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_locked(path: Path) -> bool:
    """Return whether a process holds a lock on a file (`lock`, or filelock's `FileLock`)."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except OSError:
        return False
    try:
        # The same calls as filelock's, which is not installed in the panel's Python.
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def unwritable(what: str, error: OSError, *, code: str = "output-unwritable") -> OutputError:
    """Make the error of a failed write, without paths; raises `MemoryError` if that ran out."""
    if error.errno == errno.ENOMEM:
        raise MemoryError from None
    # numpy's error of a write that is cut short has no number.
    reason = error.strerror or "the disk may be full"
    if error.errno == errno.ENOENT:
        reason = "its folder is gone"
    return OutputError(code, f"{what} ({reason}).")


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder in `folder`, to make results in; it is removed at the end.

    It is locked, so that what a killed process left is recognized at once, whatever the clock.
    """
    with (
        tempfile.TemporaryDirectory(
            prefix=PARTIAL_PREFIX, dir=folder, ignore_cleanup_errors=True
        ) as work,
        (Path(work) / f"{_LOCK}.new").open("w") as file,
    ):
        with suppress(OSError):  # without locks on this disk, age decides
            lock(file.fileno())
            if sys.platform != "win32":  # which neither renames nor removes open files
                os.rename(file.name, Path(work) / _LOCK)
        yield Path(work)


def remove_stale_partials(folder: Path) -> None:
    """Remove partial folders that killed processes left in `folder`, as far as possible.

    Results that were complete are moved to their place first.
    """
    with suppress(OSError):
        for left in folder.glob(f"{PARTIAL_PREFIX}*"):
            if not left.is_symlink() and left.is_dir() and _is_stale(left):
                with suppress(OSError):  # another process may do the same
                    _finish(left, folder)
                shutil.rmtree(left, ignore_errors=True)


def _finish(partial: Path, folder: Path) -> None:
    """Complete the moves of a killed process; put back what it had moved away before."""
    if (partial / READY).exists():
        for file in (partial / GONE).glob("*"):
            (folder / file.name).unlink(missing_ok=True)
        for file in (partial / READY).glob("*"):
            os.replace(file, folder / file.name)
    else:
        for file in (partial / "old").glob("*"):
            os.replace(file, folder / file.name)


def _is_stale(partial: Path) -> bool:
    inside = {one.name: one for one in partial.iterdir()}
    if not set(inside) <= {"new", "chosen", "old", READY, GONE, _LOCK, f"{_LOCK}.new"}:
        return False  # not written by this program
    if _LOCK in inside:
        return not is_locked(inside[_LOCK])
    if "old" in inside and READY not in inside and any(inside["old"].iterdir()):
        return False  # perhaps the only copy
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
