"""Arrays that the panel and the worker exchange in `.npy` files."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Num, Shaped, UInt16

from SpatialARAnomalyLib.engine.array_file import map_array
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.refusals import single_precision
from SpatialARAnomalyLib.service.outputs import write_atomically

Row = tuple[float, float, float, float]
Affine = tuple[Row, Row, Row, Row]
"""`ras_from_voxel` in JSON."""

Three = tuple[int, int, int]


def affine_array(rows: Affine) -> Float64[np.ndarray, "4 4"]:
    """Return the affine as an array; raises `InputError` unless its last row is (0, 0, 0, 1)."""
    affine = np.array(rows, dtype=np.float64)
    if not np.array_equal(affine[3], [0.0, 0.0, 0.0, 1.0]):
        raise InputError(
            "affine-not-affine",
            f"The last row of ras_from_voxel must be 0, 0, 0, 1; found {rows[3]}.",
        )
    return affine


def affine_rows(affine: Float[np.ndarray, "4 4"]) -> Affine:
    """Return the rows of an affine, as JSON carries them."""
    r, a, s, last = ((float(i), float(j), float(k), float(mm)) for i, j, k, mm in affine)
    return r, a, s, last


def read_voxels(path: Path) -> Num[np.ndarray, "k j i"]:
    """Read a scan's voxels, memory-mapped where they need no conversion.

    Raises `InputError` unless the file is a readable three-dimensional array of real numbers.
    """
    return np.asarray(single_precision(_read(path, "voxels", "iufb")))


def read_nll(path: Path) -> Float32[np.ndarray, "k j i"]:
    """Read an NLL volume, memory-mapped; raises `InputError` as `read_voxels` does."""
    nll = _read(path, "NLL volume", "f")
    return np.ascontiguousarray(nll, dtype=np.float32)


def read_labels(path: Path) -> UInt16[np.ndarray, "k j i"]:
    """Read a label map; raises `InputError` as `read_voxels` does."""
    labels = _read(path, "label map", "u")
    if labels.dtype.itemsize > 2:
        raise _format_error("label map", f"numbers of {8 * labels.dtype.itemsize} bits")
    return np.ascontiguousarray(labels, dtype=np.uint16)


def read_truth(path: Path) -> Bool[np.ndarray, "k j i"]:
    """Read a ground truth as a mask (above zero); raises `InputError` as `read_voxels` does."""
    truth = _read(path, "truth", "iufb")
    if truth.dtype.kind in "if" and truth.min(initial=0) < 0:
        raise InputError("truth-values", "The truth must hold labels; it holds negative values.")
    return np.asarray(truth > 0)


def read_mask_array(path: Path) -> Shaped[np.ndarray, "k j i"]:
    """Read a mask; raises `InputError` as `read_voxels` does."""
    return np.asarray(_read(path, "mask", "iufb"))


def write_arrays(output: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    """Write `.npy` files of these names into the new folder `output`, all or none.

    Raises `OutputError` as `write_atomically` does.
    """
    with write_atomically(output, list(arrays), overwrite=False) as partial:
        for name, array in arrays.items():
            np.save(partial / name, array, allow_pickle=False)


def check_same_size(
    size_kji: tuple[int, ...], array: Shaped[np.ndarray, "k j i"], what: str = "NLL volume"
) -> None:
    """Raise `InputError` unless the array has that size."""
    if array.shape != size_kji:
        expected, found = (" × ".join(map(str, one[::-1])) for one in (size_kji, array.shape))
        raise InputError("array-size", f"The {what} must have {expected} voxels; found {found}.")


def _read(path: Path, what: str, kinds: str) -> Any:
    """Read a three-dimensional array whose `dtype.kind` is one of `kinds`."""
    try:
        array = map_array(path)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise
        raise InputError(
            "array-unreadable", f"The {what} cannot be read ({error.strerror or 'damaged file'})."
        ) from None
    except ValueError:
        raise _format_error(what, "another kind of file, or a damaged one") from None
    if array.ndim != 3 or array.dtype.kind not in kinds:
        raise _format_error(what, f"{array.ndim} dimensions of {array.dtype}")
    return array


def _format_error(what: str, found: str) -> InputError:
    return InputError(
        "array-format",
        f"Expected the {what} as a three-dimensional .npy array of numbers; found {found}.",
    )
