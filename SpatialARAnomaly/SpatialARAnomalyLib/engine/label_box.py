"""A label map cut to what it labels: most of a scan has no finding."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt16


@dataclass(frozen=True, eq=False)
class LabelBox:
    """The part of a label map that holds all of its labels."""

    labels: UInt16[np.ndarray, "k j i"]
    start_kji: tuple[int, int, int]
    """Where the part begins in the whole."""

    def on_grid(self, size_kji: tuple[int, ...]) -> UInt16[np.ndarray, "K J I"]:
        """The whole label map, zero outside the part."""
        whole = np.zeros(size_kji, dtype=np.uint16)
        place = tuple(
            slice(start, start + size)
            for start, size in zip(self.start_kji, self.labels.shape, strict=True)
        )
        whole[place] = self.labels
        return whole
