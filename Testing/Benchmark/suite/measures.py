"""One head's figures: how well scores separate its anomaly, and the anomaly's shadow.

In a raster scan a network predicts a token from those to its left and above. After an anomaly
the context is unusual, so normal tissue to its right and below may look unlikely too: the
anomaly's shadow.
"""

from dataclasses import dataclass

import numpy as np
from Benchmark.suite.scans import Scan
from scipy import ndimage
from SpatialARAnomalyLib.engine.evaluation import metrics
from SpatialARAnomalyLib.engine.evaluation.lesions import Lesions
from SpatialARAnomalyLib.engine.evaluation.metrics import (
    PooledCounts,
    count_scores,
)

MARGIN_TOKENS = 0
"""Width in tokens of the border around changed tokens that is left out.

Zero: the shadow is deepest right beside the anomaly. Methods without context, such as a
memory bank, show what the encoder itself spreads to neighbors.
"""

REACH_TOKENS = 2
"""Width in tokens of the region right of and below the margin in which the shadow is measured.

Further out it is faint, and there is much more tissue.
"""

CORE_SHARE = 0.25
"""Least covered share of some token's patch for a slice to count for the shadow."""


@dataclass(frozen=True, kw_only=True)
class VoxelFigures:
    """How well scores separate the voxels of one head's anomaly from its other tissue."""

    average_precision: float
    auroc: float
    pro: float
    best_dice: float


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """Effect of an anomaly on the scores of normal tissue after it."""

    against_mirror: float
    """Mean score after the anomaly less that of the mirrored place.

    In standard deviations of held-out normal tokens; NaN where no such place is normal tissue.
    """
    against_twin: float
    """The same, less the score of the same place in the twin (the head without the anomaly)."""
    disturbance: float
    """Root mean square of that difference; lower scores count as well."""
    response: float
    """The same in the anomaly itself, where it covers a good part of a token's patch.

    The depth of a shadow is relative to it, because weak responses give weak shadows.
    """


def body_voxels(scan: Scan) -> np.ndarray:
    """Return the mask [k, j, i] of the voxels that count: in the body and not ignored."""
    return scan.stack.inside_volume() & ~scan.stored.ignored


def voxel_figures(scores: np.ndarray, scan: Scan) -> VoxelFigures:
    """Compute the figures of scores on the voxels [k, j, i], with the engine's metrics."""
    counts = count_scores(scores, body_voxels(scan), Lesions.of(scan.stored.truth))
    tally = PooledCounts.of([counts]).tally(np.ones(1))
    dice, _ = metrics.best_dice(tally)
    return VoxelFigures(
        average_precision=metrics.average_precision(tally),
        auroc=metrics.auroc(tally),
        pro=metrics.pro(tally),
        best_dice=dice,
    )


def after(anomaly: np.ndarray, reach: int) -> np.ndarray:
    """Return the mask [n, h, w] of tokens within reach after an anomaly: to its right and below."""
    # Reach 1, the anomaly in the middle:
    #   0 0 0
    #   0 0 1
    #   1 1 1
    later = np.zeros((1, 2 * reach + 1, 2 * reach + 1), bool)
    later[0, reach, reach + 1 :] = True
    later[0, reach + 1 :] = True
    return ndimage.binary_dilation(anomaly, later)


def shadow_pairs(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Return masks [n, h, w] of tokens after the anomaly and of their mirror images, all normal."""
    touched = scan.share_of_tokens(scan.stored.truth | scan.stored.ignored) > 0
    margin = np.ones((1, 2 * MARGIN_TOKENS + 1, 2 * MARGIN_TOKENS + 1), bool)
    normal = scan.inside & ~ndimage.binary_dilation(touched, margin)
    core = scan.share_of_tokens(scan.stored.truth) >= CORE_SHARE
    zone = after(touched, MARGIN_TOKENS + REACH_TOKENS) & normal
    zone &= core.any(axis=(1, 2), keepdims=True)
    # One tile is centered on the body: columns mirror about the tile's middle.
    mirrored = (normal & ~zone)[:, :, ::-1]
    zone &= mirrored
    return zone, zone[:, :, ::-1]


def shadow(scores: np.ndarray, twin: np.ndarray, scan: Scan, spread: float) -> Shadow:
    """Compute the shadow from scores [n, h, w] of a scan and its twin, in units of `spread`."""
    zone, mirror = shadow_pairs(scan)
    if not zone.any():
        nan = float("nan")
        return Shadow(against_mirror=nan, against_twin=nan, disturbance=nan, response=nan)
    added = scores[zone] - twin[zone]
    core = scan.share_of_tokens(scan.stored.truth) >= CORE_SHARE
    return Shadow(
        against_mirror=float((scores[zone].mean() - scores[mirror].mean()) / spread),
        against_twin=float(added.mean() / spread),
        disturbance=_root_mean_square(added) / spread,
        response=_root_mean_square(scores[core] - twin[core]) / spread,
    )


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))
