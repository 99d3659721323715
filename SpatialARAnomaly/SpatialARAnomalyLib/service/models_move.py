"""The models of a folder to another place: copied and verified there, only then removed here.

Two steps, and between them whoever knows the folder notes the new one: so wherever
it is interrupted, the place that is noted holds all models.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ..engine.atomic_files import PARTIAL_PREFIX, remove_stale_partials, sync, unwritable
from ..engine.errors import OutputError
from ..engine.file_hash import file_sha256
from ..engine.progress import Reporter
from .model_library import LEFT_BY_SYSTEMS, output, telling
from .model_list import list_models
from .model_names import TRAINING_SUFFIX
from .outputs import is_marked
from .training_folder import LOCK_FILE, MARKER, MARKER_FILE

_PIECE_BYTES = 1 << 20

RESERVE_BYTES = 64 << 20
"""Stays free on the disk that takes the models."""


@dataclass(frozen=True)
class Moved:
    """What a step of a move did."""

    models: int
    bytes: int
    left: tuple[str, ...]
    """Names of what stays in the old folder: it is not ours, or was changed meanwhile."""


def copy_models(source: Path, target: Path, report: Reporter) -> Moved:
    """Copy all models and unfinished trainings into an empty or new folder, and verify the copies.

    Raises `OutputError` for a target that is not empty, is the source, lies in
    it or around it, or has no room; for a training that runs; for a link among
    the models. Raises `Cancelled` through `report`. Source and target are as
    they were then.
    """
    source, target = Path(os.path.abspath(source)), Path(os.path.abspath(target))
    _check_places(source, target)
    items, left = _sorted(source)
    with _trainings_held(items), output("The models cannot be moved", target):
        remove_stale_partials(target)
        _check_empty(target)
        files = {item: list(_files(item)) for item in items}
        total = sum(file.stat().st_size for inside in files.values() for file in inside)
        _check_room(target, total)
        with tempfile.TemporaryDirectory(
            prefix=PARTIAL_PREFIX, dir=target, ignore_cleanup_errors=True
        ) as work:
            new = Path(work) / "new"
            hashes = _copy(source, items, files, new, telling(_stage(report, "copy", 1), total))
            _verify(hashes, new, telling(_stage(report, "verify", 2), total))
            report.check_cancelled()
            _appear(new, target, items)
    return Moved(len(items), total, left)


def remove_moved(source: Path, target: Path, report: Reporter) -> Moved:
    """Remove from the old folder what is the same in the new one, file by file.

    What differs, or cannot be removed, stays and is named: nothing is lost
    whenever this runs. Raises `OutputError` where the new folder is the old one.
    """
    source, target = Path(os.path.abspath(source)), Path(os.path.abspath(target))
    _check_places(source, target)
    items, others = _sorted(source)
    sizes = {item: _size(item) for item in items}
    told = telling(_stage(report, "remove", 1, of=1), sum(sizes.values()))
    removed, done, left = 0, 0, list(others)
    for item, size in sizes.items():
        if _same_tree(item, target / item.name) and _remove(item):
            removed += 1
        else:
            left.append(item.name)
        done += size
        told(done)
    if not left:
        for name in LEFT_BY_SYSTEMS:
            with suppress(OSError):
                (source / name).unlink()
        with suppress(OSError):
            source.rmdir()
    return Moved(removed, done, tuple(left))


def _stage(report: Reporter, name: str, index: int, of: int = 2) -> Reporter:
    report.stage(name, index, of)
    return report


def _check_places(source: Path, target: Path) -> None:
    real_source, real_target = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if real_source == real_target:
        why = "is the folder where they are"
    elif real_target.is_relative_to(real_source):
        why = "lies in the folder where they are"
    elif real_source.is_relative_to(real_target):
        why = "holds the folder where they are"
    else:
        return
    raise OutputError(
        "move-inside", f"The new models folder {why}.", "Choose a folder somewhere else."
    )


def _check_empty(target: Path) -> None:
    held = sorted(name for name in os.listdir(target) if not _is_litter(name))
    if held:
        raise OutputError(
            "move-not-empty",
            f"The new models folder must be empty; {target.name!r} holds {held[0]!r}"
            f"{' and more' if len(held) > 1 else ''}.",
            "Choose an empty folder, or make a new one in it.",
        )


def _check_room(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target).free
    if free < needed + RESERVE_BYTES:
        raise OutputError(
            "move-no-room",
            f"The models take {needed >> 20} MiB; the new place has {free >> 20} MiB left.",
            "Free disk space or choose another folder.",
        )


def _sorted(source: Path) -> tuple[list[Path], tuple[str, ...]]:
    """The models and unfinished trainings of a folder, and the names of what else is in it."""
    items = [entry.folder for entry in list_models(source)]
    try:
        inside = sorted(source.iterdir())
    except OSError:
        inside = []
    items += [one for one in inside if _is_training(one) and one not in items]
    named = {item.name for item in items}
    others = tuple(one.name for one in inside if one.name not in named and not _is_litter(one.name))
    return items, others


def _is_litter(name: str) -> bool:
    """Whether a file manager, or a process of ours that was killed, left it."""
    return name in LEFT_BY_SYSTEMS or name.startswith(PARTIAL_PREFIX)


def _is_training(folder: Path) -> bool:
    return folder.name.endswith(TRAINING_SUFFIX) and is_marked(folder / MARKER_FILE, MARKER)


@contextmanager
def _trainings_held(items: list[Path]) -> Iterator[None]:
    """Keeps trainings from running during the block; raises `OutputError` if one runs."""
    locks = [
        FileLock(item / LOCK_FILE, timeout=0)
        for item in items
        if item.name.endswith(TRAINING_SUFFIX)
    ]
    try:
        for lock in locks:
            lock.acquire()
        yield
    except Timeout:
        raise OutputError(
            "training-running",
            "A training is running in the models folder.",
            "Wait until it has ended, or cancel it; then move the models.",
        ) from None
    except OSError as error:
        raise unwritable("The unfinished trainings cannot be locked", error) from None
    finally:
        for lock in locks:
            lock.release()


def _files(item: Path) -> Iterator[Path]:
    """All files below a folder but a training's lock.

    Raises `OutputError` for what is neither file nor folder.
    """
    if item.is_symlink():
        raise _is_link(item)
    lock = item / LOCK_FILE if item.name.endswith(TRAINING_SUFFIX) else None
    for folder, folders, names in os.walk(item):
        folders.sort()
        for path in (Path(folder) / name for name in [*folders, *sorted(names)]):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise _is_link(item)
            if path.is_file() and path != lock:
                yield path


def _size(item: Path) -> int:
    """Bytes of all files below a folder; of one that is not as it should be, none."""
    try:
        return sum(file.stat().st_size for file in _files(item))
    except (OSError, OutputError):
        return 0


def _is_link(item: Path) -> OutputError:
    return OutputError(
        "move-link",
        f"Only files and folders are moved; {item.name!r} is or holds a link or a device.",
        "Put the model itself in its place, or take it out of the models folder.",
    )


def _copy(
    source: Path,
    items: list[Path],
    files: dict[Path, list[Path]],
    new: Path,
    told: Callable[[int], None],
) -> dict[Path, str]:
    """Copy the files; SHA-256 of each as it was read, by its place in the folder of models."""
    hashes, done = {}, 0
    for item in items:
        (new / item.name).mkdir(parents=True)
        for file in files[item]:
            place = new / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with file.open("rb") as read, place.open("xb") as write:
                while piece := read.read(_PIECE_BYTES):
                    write.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    told(done)
            sync(place)
            # Dates tell an unfinished training what it has done already.
            shutil.copystat(file, place)
            hashes[file.relative_to(source)] = digest.hexdigest()
    return hashes


def _verify(hashes: dict[Path, str], new: Path, told: Callable[[int], None]) -> None:
    done = 0

    def count(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        told(done)

    for place, expected in hashes.items():
        if file_sha256(new / place, count) != expected:
            raise OutputError(
                "move-damaged",
                f"The copy of a file of {place.parts[0]!r} is not what was written.",
                "The new disk may be damaged; choose another folder.",
            )


def _appear(new: Path, target: Path, items: list[Path]) -> None:
    """Move the copies to their places; after an error none of them is there."""
    done: list[str] = []
    try:
        for item in items:
            os.rename(new / item.name, target / item.name)
            done.append(item.name)
    except BaseException:
        for name in done:
            os.rename(target / name, new / name)
        raise


def _same_tree(one: Path, other: Path) -> bool:
    try:
        ours = {file.relative_to(one): file_sha256(file) for file in _files(one)}
        theirs = {file.relative_to(other): file_sha256(file) for file in _files(other)}
    except (OSError, OutputError):
        return False
    return bool(ours) and ours == theirs


def _remove(item: Path) -> bool:
    """Remove a folder that has its like elsewhere; whether it is gone."""
    try:
        with tempfile.TemporaryDirectory(
            prefix=PARTIAL_PREFIX, dir=item.parent, ignore_cleanup_errors=True
        ) as work:
            os.rename(item, Path(work) / "new")
    except OSError:
        return False
    return True
