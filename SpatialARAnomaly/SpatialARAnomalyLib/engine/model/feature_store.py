"""Tokens of the training scans on disk, so that every slice is embedded once."""

import hashlib
import json
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from SpatialARAnomalyLib.engine.array_file import map_array
from SpatialARAnomalyLib.engine.errors import EncoderError
from SpatialARAnomalyLib.engine.files import replacing, unwritable

PREPARATION_VERSION = 1
"""Version of the steps from volume to tokens. Raise it when slicing, intensity, body mask or
embedding change, so that stored tokens of earlier versions are not used."""


def feature_key(volume_sha256: str, **settings: Any) -> str:
    """Return the name of one volume's tokens under settings that change them (JSON values)."""
    decisive = {"volume": volume_sha256, "preparation": PREPARATION_VERSION, **settings}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _half(tokens: Float[np.ndarray, "b c h w"]) -> Float16[np.ndarray, "b c h w"]:
    """Convert to half precision; raises `EncoderError` unless all values stay finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.ascontiguousarray(tokens, dtype="<f2")
    if not np.isfinite(half).all():
        raise EncoderError(
            "encoder-not-finite",
            f"The encoder's tokens must be finite and within ±{np.finfo(np.float16).max:g}; "
            "they are not.",
        )
    return half


def release_pages(tokens: np.ndarray) -> None:
    """Release the memory of a mapped array; its pages are read again when needed.

    Otherwise all pages that were ever read would count as this process's memory, which would
    grow with the number of training scans. Does nothing to an array in memory, or on a system
    without `madvise`.
    """
    mapping = getattr(tokens, "_mmap", None)
    if mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


class FeatureStore:
    """A folder of float16 arrays [image, c, h, w], memory-mapped, one per volume.

    A file appears under its name only when whole, so that an interrupted embedding loses at
    most one volume.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def __contains__(self, key: str) -> bool:
        """Return whether the tokens are there, with the length that the file's header states."""
        try:
            map_array(self._path(key))
        except (OSError, ValueError):  # missing, or cut off by a failed disk or copy
            return False
        return True

    def open(self, key: str) -> Float16[np.ndarray, "n c h w"]:
        """Map the tokens from disk, read-only; raises `OutputError` where the folder is gone."""
        try:
            return map_array(self._path(key))
        except OSError as error:
            raise unwritable(
                "The stored tokens cannot be read", error, code="training-unwritable"
            ) from None

    def write(
        self,
        key: str,
        shape: tuple[int, int, int, int],
        batches: Iterable[Float[np.ndarray, "b c h w"]],
    ) -> None:
        """Store the batches, one after the other, as one array of `shape`.

        Raises:
            OutputError: `training-unwritable`.
            EncoderError: `encoder-not-finite` where a token is not finite in half precision.
        """
        try:
            self.folder.mkdir(exist_ok=True)  # its parent may vanish, with its disk
            with replacing(self._path(key)) as partial, partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f2", "fortran_order": False, "shape": shape}
                )
                written = 0
                for batch in batches:
                    assert batch.shape[1:] == shape[1:], f"{batch.shape} for {shape}"
                    file.write(_half(batch).data)
                    written += len(batch)
                assert written == shape[0], f"{written} of {shape[0]} images"
        except OSError as error:
            raise unwritable(
                "The tokens cannot be stored", error, code="training-unwritable"
            ) from None
