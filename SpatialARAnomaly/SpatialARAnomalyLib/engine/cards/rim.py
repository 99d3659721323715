"""The correction of the NLL near the edge of a region.

A patch at the edge holds part of what lies beyond, so normal tokens there are less likely than
those inside. `engine.scoring.calibration_fit` fits corrections; this module needs numpy only.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from SpatialARAnomalyLib.engine.specs import Spec


@dataclass(frozen=True, kw_only=True)
class RimCorrection(Spec):
    """Correction subtracted from the NLL of a token, by distance from the edge of the region."""

    distances: tuple[float, ...]
    """Rising distances in tokens, negative outside of the region."""
    nll: tuple[float, ...]
    """Nats per channel to subtract at each distance, linear in between; never negative."""

    def __post_init__(self) -> None:
        self._require(
            len(self.distances) == len(self.nll) >= 1
            and all(a < b for a, b in pairwise(self.distances)),
            "distances must rise, with an nll for each",
        )
        self._require(min(self.nll) >= 0 == self.nll[-1], "nll must not be negative, and end in 0")

    def lower(
        self,
        nll: np.ndarray,
        distances: np.ndarray,
        lowest_nll: float,
    ) -> np.ndarray:
        """Return the NLL of tokens at these distances, less the correction, not below the lowest.

        In float32, as the model's.
        """
        corrected = nll - np.interp(distances, self.distances, self.nll)
        return np.asarray(np.maximum(corrected, lowest_nll), dtype=np.float32)
