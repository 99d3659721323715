"""Token grids on disk: every slice is embedded once, whatever happens in between."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from .errors import OutputError


def feature_key(volume_sha256: str, **settings: Any) -> str:
    """A name for the tokens of one volume under settings that change them (JSON values)."""
    text = json.dumps({"volume": volume_sha256, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class FeatureStore:
    """A folder of float16 arrays [image, c, h, w], memory-mapped, one per volume.

    A file appears under its name only when whole, so that an interrupted
    embedding loses at most the volume it was at.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def open(self, key: str) -> Float16[np.ndarray, "n c h w"]:
        """The tokens, mapped from disk, read-only."""
        tokens: np.ndarray = np.load(self._path(key), mmap_mode="r", allow_pickle=False)
        return tokens

    def write(
        self,
        key: str,
        shape: tuple[int, int, int, int],
        batches: Iterable[Float[np.ndarray, "b c h w"]],
    ) -> None:
        """Store the batches, one after the other, as one array of `shape`.

        Raises `OutputError` where the disk does not take them.
        """
        partial = self.folder / f"{key}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.lib.format.write_array_header_1_0(
                    file, {"descr": "<f2", "fortran_order": False, "shape": shape}
                )
                written = 0
                for batch in batches:
                    assert batch.shape[1:] == shape[1:], f"{batch.shape} for {shape}"
                    file.write(np.ascontiguousarray(batch, dtype="<f2").data)
                    written += len(batch)
                assert written == shape[0], f"{written} of {shape[0]} images"
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self._path(key))
        except OSError as error:
            raise OutputError(
                "output-unwritable",
                f"The tokens cannot be stored ({error.strerror or error}).",
                "Free disk space or choose another folder; what is stored is kept.",
            ) from None
