"""Errors and checks that the readers of all file formats share."""

import errno
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Num

from SpatialARAnomalyLib.engine.errors import InputError

UNSTATED = "orientation-unstated"
"""Code of the notice, and the error, about a file that does not state its orientation."""

DEFLATE_RATIO = 1032
"""Highest possible compression of a zlib or gzip stream."""


def unreadable_error(error: OSError) -> InputError:
    """Make the error of a file or folder that the operating system does not open.

    Raises `MemoryError` where memory ran out.
    """
    if error.errno == errno.ENOMEM:
        raise MemoryError from None
    return InputError(
        "input-unreadable", f"The input cannot be opened: {error.strerror or 'unknown reason'}."
    )


def damaged_error(reason: str) -> InputError:
    """Make the error of an incomplete file, or of one with the wrong suffix."""
    return InputError("input-damaged", f"The volume file cannot be read: {reason}.")


def spacing_error() -> InputError:
    """Make the error of a header with zero voxel spacing."""
    return InputError(
        "spacing-zero", "Voxel spacing must be positive along every axis; the header holds a zero."
    )


def color_error() -> InputError:
    """Make the error of several values per voxel."""
    return InputError(
        "volume-color", "Expected one gray value per voxel; found a color or vector volume."
    )


def label_map_error(evidence: str) -> InputError:
    """Make the error of a file whose header declares a label map."""
    return InputError("label-map", f"Expected a scan; found a label map ({evidence}).")


def format_error(found: str) -> InputError:
    """Make the error of a file in another format."""
    return InputError(
        "input-format",
        f"Expected a NIfTI, NRRD or MetaImage file, or a DICOM series; found {found}.",
    )


def unstated_notice() -> tuple[str, str]:
    """Return the notice about a file that does not state where left and right are."""
    return (
        UNSTATED,
        "The file does not state its orientation: it is placed as Slicer does, and left and "
        "right may be exchanged.",
    )


def unicode_name(path: Path) -> str:
    """Return the path as text; raise `InputError` if it is not Unicode."""
    name = str(path)
    try:
        name.encode()  # ITK would end the process, and no result can have such a name
    except UnicodeEncodeError:
        raise InputError(
            "input-name", "The name of a file or folder must be Unicode; it holds other bytes."
        ) from None
    return name


def check_dimensions(shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless `shape` is that of one or several 3-D volumes."""
    if min(shape, default=0) < 1:
        raise InputError(
            "volume-empty", f"The volume must hold voxels; its size is {_size(shape)}."
        )
    if len(shape) < 3:
        raise InputError(
            "volume-2d", f"Expected a 3-D volume; found a {len(shape)}-D image ({_size(shape)})."
        )


def choose_volume(count: int, wanted: int | None, size: tuple[int, ...]) -> int:
    """Return the index of the wanted one of `count` volumes, or of the only one.

    Raises `InputError` if the choice is open, or there is no such volume.
    """
    if wanted is None and count > 1:
        raise InputError(
            "volume-4d", f"Expected one 3-D volume; found {count} volumes of {_size(size)} voxels."
        )
    if wanted is not None and not 1 <= wanted <= count:
        raise InputError(
            "volume-number", f"Volume {wanted} was asked for; the numbers are 1 to {count}."
        )
    return (wanted or 1) - 1


def _size(shape: Sequence[object]) -> str:
    return " × ".join(map(str, shape))


def check_size(needed_bytes: int, stored_bytes: int, ratio: int) -> None:
    """Raise `InputError`, before memory is allocated, if a file is too short for its header.

    Likewise for voxels that the machine's memory cannot hold.
    """
    if needed_bytes > stored_bytes * ratio:
        raise damaged_error(
            f"its header promises {needed_bytes:,} bytes of voxels; {stored_bytes:,} are on disk"
        )
    if needed_bytes > _memory_bytes():
        raise InputError(
            "volume-too-large",
            f"The volume has {needed_bytes:,} bytes of voxels, more than the machine's memory.",
        )


def _memory_bytes() -> float:
    """Return the memory of the machine, or the limit of this process; infinite if unknown."""
    try:
        memory: float = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        import resource
    except (AttributeError, ImportError, OSError, ValueError):  # Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return memory if limit == resource.RLIM_INFINITY else min(memory, limit)


def single_precision(voxels: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
    """Convert floating point to float32 (infinite beyond its range); leave integers unchanged."""
    if voxels.dtype.kind == "f" and voxels.dtype != np.float32:
        with np.errstate(over="ignore"):
            return voxels.astype(np.float32)
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
