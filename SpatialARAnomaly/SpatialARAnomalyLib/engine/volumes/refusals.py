"""Errors and checks that the readers of all file formats share."""

from pathlib import Path

import numpy as np
from jaxtyping import Num

from SpatialARAnomalyLib.engine.errors import InputError

DEFLATE_RATIO = 1032
"""Highest possible compression of a zlib or gzip stream."""


def unreadable_error(error: OSError) -> InputError:
    """Make the error of a file or folder that the operating system does not open."""
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
    """Raise `InputError` unless `shape` is that of one 3-D volume."""
    size = " × ".join(map(str, shape))
    if min(shape, default=0) < 1:
        raise InputError("volume-empty", f"The volume must hold voxels; its size is {size}.")
    if len(shape) < 3:
        raise InputError(
            "volume-2d", f"Expected a 3-D volume; found a {len(shape)}-D image ({size})."
        )
    if len(shape) > 3:
        raise InputError(
            "volume-4d", f"Expected one 3-D volume; found {len(shape)} dimensions ({size})."
        )


def check_size(needed_bytes: int, stored_bytes: int, ratio: int) -> None:
    """Raise `InputError`, before memory is allocated, if a file is too short for its header."""
    if needed_bytes > stored_bytes * ratio:
        raise damaged_error(
            f"its header promises {needed_bytes:,} bytes of voxels; {stored_bytes:,} are on disk"
        )


def single_precision(voxels: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
    """Convert floating point to float32 (infinite beyond its range); leave integers unchanged."""
    if voxels.dtype.kind == "f" and voxels.dtype != np.float32:
        with np.errstate(over="ignore"):
            return voxels.astype(np.float32)
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
