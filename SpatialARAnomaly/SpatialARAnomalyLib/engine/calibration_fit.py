"""How an NLL gets its meaning: quantiles of held-out normal scans."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .calibration import Calibration

LEVELS = np.unique(
    np.concatenate([np.linspace(0.0, 0.99, 100), 1.0 - np.logspace(-1, -6, 101), [1.0]])
)
"""Shares at which quantiles are kept: every percent, and 20 per decade of the upper tail."""

MAX_SAMPLE = 8_000_000
"""Voxels kept of all held-out volumes together, at most."""


def thinned(sample: Float[np.ndarray, " _"], volumes: int) -> Float[np.ndarray, " _"]:
    """The sample of one of so many volumes, evenly thinned so that all fit `MAX_SAMPLE`."""
    share = max(1, MAX_SAMPLE // volumes)
    # A copy: a view would keep the whole sample in memory.
    return sample[:: max(1, -(-sample.size // share))].copy()


def fit_calibration(
    voxel_samples: Sequence[Float[np.ndarray, " _"]],
    token_samples: Sequence[Float[np.ndarray, " _"]],
) -> Calibration:
    """The quantiles of the body's voxels and tokens, one array each per held-out volume."""
    return Calibration(
        levels=tuple(LEVELS.tolist()),
        nll=_quantiles(voxel_samples),
        token_nll=_quantiles(token_samples),
        tokens=sum(one.size for one in token_samples),
        volumes=len(voxel_samples),
    )


def _quantiles(samples: Sequence[Float[np.ndarray, " _"]]) -> tuple[float, ...]:
    nll = np.quantile(np.concatenate(samples).astype(np.float64), LEVELS)
    return tuple(np.maximum.accumulate(nll).tolist())
