"""One head's figures: how well scores tell its anomaly, and the shadow that it throws.

In a raster scan a network predicts a token from those to its left and above. After an
anomaly it predicts from the unusual, so that normal tissue to its right and below may
look unlikely too: the anomaly's shadow.
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
"""So far around the tokens whose patch an anomaly changed, others do not count either.

None: where the shadow is deepest is right beside. What an encoder itself spreads to
its neighbors shows in methods without context, such as a memory bank.
"""

REACH_TOKENS = 2
"""So far beyond the margin, right and below, the shadow is looked for: further out it
is faint, and there is much more tissue."""

CORE_SHARE = 0.25
"""A shadow is looked for in slices where the anomaly covers so much of some token's patch."""


@dataclass(frozen=True, kw_only=True)
class VoxelFigures:
    """How well scores tell the voxels of one head's anomaly from its other tissue."""

    average_precision: float
    auroc: float
    pro: float
    best_dice: float


@dataclass(frozen=True, kw_only=True)
class Shadow:
    """What an anomaly does to the scores of normal tissue after it."""

    against_mirror: float
    """Mean score after the anomaly less that of the mirrored place, in standard
    deviations of held-out normal tokens; NaN where no such place is normal tissue."""
    against_twin: float
    """Likewise, less the score of the same place in the same head without the anomaly."""
    disturbance: float
    """Root mean square of that difference: also what became lower counts."""
    response: float
    """The same in the anomaly itself, where it covers a good part of a token's patch. How
    deep a shadow is shows beside it: a method that sees little throws little."""


def body_voxels(scan: Scan) -> np.ndarray:
    """The voxels [k, j, i] that count: in the body, and not merely changed."""
    return scan.stack.inside_volume() & ~scan.stored.ignored


def voxel_figures(scores: np.ndarray, scan: Scan) -> VoxelFigures:
    """Of scores on the voxels [k, j, i]; the engine's own metrics."""
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
    """Tokens [n, h, w] right of an anomaly's in their row, or in the rows below, within reach."""
    # Reach 1, the anomaly in the middle:
    #   0 0 0
    #   0 0 1
    #   1 1 1
    later = np.zeros((1, 2 * reach + 1, 2 * reach + 1), bool)
    later[0, reach, reach + 1 :] = True
    later[0, reach + 1 :] = True
    return ndimage.binary_dilation(anomaly, later)


def shadow_pairs(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n, h, w] after the anomaly, and as many mirrored left to right: both normal."""
    touched = scan.share_of_tokens(scan.stored.truth | scan.stored.ignored) > 0
    margin = np.ones((1, 2 * MARGIN_TOKENS + 1, 2 * MARGIN_TOKENS + 1), bool)
    normal = scan.inside & ~ndimage.binary_dilation(touched, margin)
    core = scan.share_of_tokens(scan.stored.truth) >= CORE_SHARE
    zone = after(touched, MARGIN_TOKENS + REACH_TOKENS) & normal
    zone &= core.any(axis=(1, 2), keepdims=True)
    # One tile lies around the middle of the body: columns mirror about its own middle.
    mirrored = (normal & ~zone)[:, :, ::-1]
    zone &= mirrored
    return zone, zone[:, :, ::-1]


def shadow(scores: np.ndarray, twin: np.ndarray, scan: Scan, spread: float) -> Shadow:
    """Of the scores [n, h, w] of a scan's tokens and its twin's, in units of `spread`."""
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
