"""Voxel values to [0, 1], the same in training and detection."""

import numpy as np
from jaxtyping import Bool, Float, Num

from SpatialARAnomalyLib.engine.specs import IntensityMethod, IntensitySpec

MAX_SAMPLE = 2_000_000
"""Percentiles are taken from at most about so many body voxels, evenly thinned."""


def intensity_range(
    voxels: Num[np.ndarray, "n r c"], body: Bool[np.ndarray, "n r c"], spec: IntensitySpec
) -> tuple[float, float]:
    """The two values, in the volume's unit, that become 0 and 1 − headroom.

    Taken from the whole volume, not slice by slice: a bright lesion must not
    darken the slice around it (Meissen et al., arXiv 2109.06023, on why
    intensities alone already find lesions).
    """
    if spec.method is IntensityMethod.WINDOW:
        return spec.low, spec.high
    inside = voxels[body]
    inside = inside[:: max(1, inside.size // MAX_SAMPLE)]
    low, high = np.percentile(inside, (spec.low, spec.high))
    if high <= low:  # nearly all of the body has one value
        low, high = float(voxels.min()), float(voxels.max())
    return float(low), float(high)


def scale_intensity(
    voxels: Num[np.ndarray, "*shape"], value_range: tuple[float, float], spec: IntensitySpec
) -> Float[np.ndarray, "*shape"]:
    """Values in [0, 1], float32; what lies outside is clipped."""
    low, high = value_range
    scaled = (voxels.astype(np.float32) - np.float32(low)) * np.float32(
        (1.0 - spec.headroom) / (high - low)
    )
    return np.asarray(np.clip(scaled, 0.0, 1.0))
