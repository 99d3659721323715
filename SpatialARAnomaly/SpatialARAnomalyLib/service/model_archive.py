"""A model as one file: a zip of its card and its weights, both stored as they are.

The same model is the same bytes on every machine: entries have a fixed order, date
and mode, and nothing is compressed. So a file never holds more than its size
says, and no stranger's archive unfolds on the user's disk.
"""

import os
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ..engine.atomic_files import sync
from ..engine.errors import ModelError
from ..engine.model_store import CARD_FILE, WEIGHTS_FILE

SUFFIX = ".spatialar"
"""Ends the name of a model's file."""

NAMES = (CARD_FILE, WEIGHTS_FILE)

LARGEST_CARD_BYTES = 16 << 20
LARGEST_WEIGHTS_BYTES = 1 << 30
"""A network of the largest encoder takes a tenth of it."""

LARGEST_DIRECTORY_BYTES = 1 << 16
"""Of the list at the end of a zip; that of two entries takes some hundred bytes."""

_DATE = (1980, 1, 1, 0, 0, 0)
"""The first a zip can tell."""

_PIECE_BYTES = 1 << 20

_END = struct.Struct("<4s4H2LH")
"""A zip's last record: signature, disks, entries, size and place of the list, comment."""


def write_archive(file: Path, model: Path, told: Callable[[int], None]) -> None:
    """Write a model folder as one file; `told` hears the bytes done, and may raise.

    May raise `OSError` and, for a model too large for any encoder, `ModelError`.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=False) as archive:
        done = 0
        for name in NAMES:
            size = (model / name).stat().st_size
            if size > _largest(name):
                raise ModelError(
                    "model-large",
                    f"{name} must have at most {_largest(name) >> 20} MiB to travel; it has more.",
                    "Copy the model folder as it is.",
                )
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3  # Unix, wherever this runs
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = size
            with (model / name).open("rb") as source, archive.open(entry, "w") as target:
                done = _copy(source.read, target.write, told, done)
    sync(file)


def read_archive(file: Path, folder: Path, told: Callable[[int], None]) -> None:
    """Write the two files of a model's file into `folder`; `told` hears the bytes done.

    Raises `ModelError` for what is no model's file or is damaged; may raise
    `OSError` where the disk takes no more.
    """
    with _opened(file) as source:
        _check_directory(source)
        try:
            with zipfile.ZipFile(source) as archive:
                _check_entries(archive.infolist())
                done = 0
                for name in NAMES:
                    done = _extract(archive, name, folder, told, done)
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, struct.error):
            raise _damaged("its zip structure or a check sum is wrong") from None


def archive_bytes(file: Path) -> int:
    """The size of a model's file. Raises `ModelError` where it cannot be read."""
    with _opened(file) as source:
        return os.fstat(source.fileno()).st_size


def _opened(file: Path) -> IO[bytes]:
    try:
        # A pipe or a device would let us wait for ever.
        if not os.path.isfile(file):
            raise OSError(0, "no such file" if not os.path.lexists(file) else "not a file")
        return file.open("rb")
    except OSError as error:
        raise ModelError(
            "model-file-unreadable",
            f"The model's file cannot be read ({error.strerror or error}).",
            f"Give a {SUFFIX} file that an export wrote.",
        ) from None


def _largest(name: str) -> int:
    return LARGEST_CARD_BYTES if name == CARD_FILE else LARGEST_WEIGHTS_BYTES


def _extract(
    archive: zipfile.ZipFile, name: str, folder: Path, told: Callable[[int], None], done: int
) -> int:
    """Write an entry; zipfile itself raises where the check sum does not fit."""
    with archive.open(name) as source, (folder / name).open("xb") as target:
        done = _copy(source.read, target.write, told, done)
    sync(folder / name)
    return done


def _copy(
    read: Callable[[int], bytes],
    write: Callable[[bytes], int],
    told: Callable[[int], None],
    done: int,
) -> int:
    """Copy piece by piece, telling what is done; the bytes done so far and here."""
    while piece := read(_PIECE_BYTES):
        write(piece)
        done += len(piece)
        told(done)
    return done


def _check_directory(source: IO[bytes]) -> None:
    """Look at the end before `zipfile` does, which would read a list of any size."""
    size = source.seek(0, os.SEEK_END)
    if size < _END.size:
        raise _no_model_file("it is too short")
    source.seek(size - _END.size)
    signature, disk, first, here, all_, listed, start, comment = _END.unpack(source.read(_END.size))
    if signature != b"PK\5\6":
        raise _no_model_file("it is no zip file, or its end is missing")
    if (disk, first, comment) != (0, 0, 0) or here != all_:
        raise _no_model_file("it is not a zip that an export writes")
    if listed > LARGEST_DIRECTORY_BYTES or start + listed + _END.size != size:
        raise _no_model_file("its list of entries is not where or as long as it must be")
    source.seek(0)


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    """Raise `ModelError` unless the entries are the two files of a model and nothing else."""
    found = sorted(entry.orig_filename for entry in entries)
    if found != sorted(NAMES):
        other = next((one for one in found if one not in NAMES), None)
        what = f"found {_quoted(other)}" if other is not None else f"found {len(found)}"
        raise _no_model_file(f"it must hold {CARD_FILE} and {WEIGHTS_FILE}, each once; {what}")
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if entry.flag_bits & 0x41:
            raise _no_model_file(f"{entry.filename} is encrypted")
        if kind not in (0, stat.S_IFREG) or entry.external_attr & 0x10:
            raise _no_model_file(f"{entry.filename} must be a plain file; it is a link or a folder")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise _no_model_file(f"{entry.filename} must be stored uncompressed; it is not")
        if entry.file_size > _largest(entry.filename):
            raise _no_model_file(
                f"{entry.filename} must have at most {_largest(entry.filename) >> 20} MiB"
            )


def _quoted(name: str) -> str:
    """A stranger's name, short and without what a terminal would obey."""
    return ascii(name[:60])


def _no_model_file(why: str) -> ModelError:
    return ModelError(
        "model-file",
        f"The file is not a model's: {why}.",
        f"Give a {SUFFIX} file as an export wrote it.",
    )


def _damaged(why: str) -> ModelError:
    return ModelError(
        "model-file-damaged", f"The model's file is damaged: {why}.", "Copy it again."
    )
