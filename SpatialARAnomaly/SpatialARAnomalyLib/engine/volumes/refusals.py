"""Why a volume file is refused: one wording for all formats."""

from pathlib import Path

import numpy as np
from jaxtyping import Num

from SpatialARAnomalyLib.engine.errors import InputError

DEFLATE_RATIO = 1032
"""No zlib or gzip stream holds more bytes than this per byte of its own."""


def unreadable(error: OSError) -> InputError:
    """What to tell of a file or folder that the system does not open."""
    return InputError(
        "input-unreadable", f"The input cannot be opened: {error.strerror or 'unknown reason'}."
    )


def unicode_name(path: Path) -> str:
    """The path as text; raises `InputError` for bytes that are no Unicode."""
    name = str(path)
    try:
        name.encode()  # ITK would end the process, and no result can have such a name
    except UnicodeEncodeError:
        raise InputError(
            "input-name", "The name of a file or folder must be Unicode; it holds other bytes."
        ) from None
    return name


def damaged(reason: str) -> InputError:
    """Refuse a file that is not whole or not what its name says."""
    return InputError("input-damaged", f"The volume file cannot be read: {reason}.")


def no_spacing() -> InputError:
    """Refuse a header without a distance between voxels."""
    return InputError(
        "spacing-zero", "Voxel spacing must be positive along every axis; the header holds a zero."
    )


def no_color() -> InputError:
    """Refuse more than one value per voxel."""
    return InputError(
        "volume-color", "Expected one gray value per voxel; found a color or vector volume."
    )


def label_map(how: str) -> InputError:
    """Refuse what its own header calls labels."""
    return InputError("label-map", f"Expected a scan; found a label map ({how}).")


def check_dimensions(shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless it is the shape of one 3-D volume."""
    if len(shape) == 3 and min(shape) >= 1:
        return
    size = " × ".join(map(str, shape))
    if min(shape, default=0) < 1:
        raise InputError("volume-empty", f"The volume must hold voxels; its size is {size}.")
    if len(shape) < 3:
        raise InputError(
            "volume-2d", f"Expected a 3-D volume; found a {len(shape)}-D image ({size})."
        )
    raise InputError(
        "volume-4d", f"Expected one 3-D volume; found {len(shape)} dimensions ({size})."
    )


def check_size(needed_bytes: int, stored_bytes: int, ratio: int) -> None:
    """Refuse a header that promises more than its file can hold, before memory is taken."""
    if needed_bytes > stored_bytes * ratio:
        raise damaged(
            f"its header promises {needed_bytes:,} bytes of voxels; {stored_bytes:,} are on disk"
        )


def single_precision(voxels: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
    """Integers as they are, floating point as float32 (beyond its range: infinite)."""
    if voxels.dtype.kind == "f" and voxels.dtype != np.float32:
        with np.errstate(over="ignore"):
            return voxels.astype(np.float32)
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
