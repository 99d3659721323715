"""Arrays that come in `.npy` files: what a file must hold, or a sentence that says so."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Num, Shaped, UInt16

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.refusals import single_precision

Row = tuple[float, float, float, float]
Affine = tuple[Row, Row, Row, Row]
"""`ras_from_voxel` as JSON carries it."""

Three = tuple[int, int, int]


def affine_array(rows: Affine) -> Float64[np.ndarray, "4 4"]:
    """The affine as an array; raises `InputError` unless its last row is (0, 0, 0, 1)."""
    affine = np.array(rows, dtype=np.float64)
    if not np.array_equal(affine[3], [0.0, 0.0, 0.0, 1.0]):
        raise InputError(
            "affine-not-affine", "The last row of ras_from_voxel must be 0, 0, 0, 1; it is another."
        )
    return affine


def read_voxels(path: Path) -> Num[np.ndarray, "k j i"]:
    """A scan's voxels, memory-mapped as far as they need no conversion.

    Raises `InputError` for what is no readable three-dimensional array of real numbers.
    """
    return np.asarray(single_precision(_read(path, "voxels", "iufb")))


def read_nll(path: Path) -> Float32[np.ndarray, "k j i"]:
    """An NLL volume, memory-mapped; raises `InputError` as `read_voxels` does."""
    nll = _read(path, "NLL volume", "f")
    return np.ascontiguousarray(nll, dtype=np.float32)


def read_labels(path: Path) -> UInt16[np.ndarray, "k j i"]:
    """A label map; raises `InputError` as `read_voxels` does."""
    labels = _read(path, "label map", "u")
    if labels.dtype.itemsize > 2:
        raise _refused("label map", f"numbers of {8 * labels.dtype.itemsize} bits")
    return np.ascontiguousarray(labels, dtype=np.uint16)


def read_truth(path: Path) -> Bool[np.ndarray, "k j i"]:
    """Which voxels a truth labels (above zero); raises `InputError` as `read_voxels` does."""
    return np.asarray(_read(path, "truth", "iufb") > 0)


def _read(path: Path, what: str, kinds: str) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise InputError(
            "array-unreadable", f"The {what} cannot be read ({error.strerror or 'damaged file'})."
        ) from None
    except (ValueError, EOFError):
        raise _refused(what, "a file that is no whole .npy array of numbers") from None
    if not isinstance(array, np.ndarray):
        raise _refused(what, "a file of another kind")
    if array.ndim != 3 or array.dtype.kind not in kinds:
        raise _refused(what, f"{array.ndim} dimensions of {array.dtype}")
    return array


def _refused(what: str, found: str) -> InputError:
    return InputError(
        "array-format",
        f"Expected the {what} as a three-dimensional .npy array of numbers; found {found}.",
    )


def check_same_size(
    size_kji: tuple[int, ...], array: Shaped[np.ndarray, "k j i"], what: str = "NLL volume"
) -> None:
    """Raise `InputError` unless the array has that size."""
    if array.shape != size_kji:
        raise InputError(
            "array-size",
            f"The {what} must have {_size(size_kji)} voxels; found {_size(array.shape)}.",
        )


def _size(shape_kji: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape_kji[::-1]))
