"""Scaling of voxel values to [0, 1], the same in training and detection."""

import numpy as np
from jaxtyping import Bool, Float, Num

from SpatialARAnomalyLib.engine.specs import IntensityMethod, IntensitySpec

MAX_SAMPLE = 2_000_000
"""Largest number of body voxels, evenly thinned, from which percentiles are computed."""


def intensity_range(
    voxels: Num[np.ndarray, "n r c"], body: Bool[np.ndarray, "n r c"], spec: IntensitySpec
) -> tuple[float, float]:
    """Return the two values, in the volume's unit, that are scaled to 0 and 1 − headroom.

    They are those of the whole volume: scaling slice by slice, a bright lesion would darken
    the slice around it (intensities alone find many lesions: Meissen et al., arXiv 2109.06023).
    """
    if spec.method is IntensityMethod.WINDOW:
        return spec.low, spec.high
    inside = voxels[body]
    inside = inside[:: max(1, inside.size // MAX_SAMPLE)]
    low, high = np.percentile(inside, (spec.low, spec.high))
    if high <= low:  # nearly all voxels of the body have one value
        low, high = float(voxels.min()), float(voxels.max())
    return float(low), float(high)


def scale_intensity(
    voxels: Num[np.ndarray, "*shape"], value_range: tuple[float, float], spec: IntensitySpec
) -> Float[np.ndarray, "*shape"]:
    """Scale values to [0, 1] as float32, and clip them."""
    low, high = value_range
    scaled = (voxels.astype(np.float32) - np.float32(low)) * np.float32(
        (1.0 - spec.headroom) / (high - low)
    )
    return np.asarray(np.clip(scaled, 0.0, 1.0))
