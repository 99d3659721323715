"""One head's figures: how well scores tell its anomaly, and the shadow that it throws.

In a raster scan a network predicts a token from those to its left and above. After an
anomaly it predicts from the unusual, so that normal tissue to its right and below may
look unlikely too: the anomaly's shadow.
"""

from dataclasses import dataclass

import numpy as np
from Benchmark.suite.scans import Scan
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from SpatialARAnomalyLib.engine.case_score import case_score

REACH_TOKENS = 3
"""So far right and below of an anomaly its shadow is looked for."""

MARGIN_TOKENS = 1
"""So far around an anomaly tokens may have seen it themselves, and are no shadow."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one method on one anomalous head."""

    auroc: float
    average_precision: float
    best_dice: float
    shadow: float
    """Mean score after the anomaly less that of the mirrored place, in standard
    deviations of held-out normal tokens; NaN where no such place is normal tissue."""
    shadow_added: float
    """Likewise, less the score of the same place in the same head without the anomaly."""


def body_voxels(scan: Scan) -> np.ndarray:
    """The voxels [k, j, i] that count: in the body, and not merely changed."""
    return scan.stack.inside_volume() & ~scan.stored.ignored


def voxel_figures(scores: np.ndarray, scan: Scan) -> tuple[float, float, float]:
    """AUROC, average precision and best Dice of scores on the voxels [k, j, i]."""
    counted = body_voxels(scan)
    truth, score = scan.stored.truth[counted], scores[counted]
    precision, recall, _ = precision_recall_curve(truth, score)
    # 2·TP / (found + truth), with TP = recall·truth and found = TP / precision.
    both = np.maximum(precision + recall, 1e-12)
    return (
        float(roc_auc_score(truth, score)),
        float(average_precision_score(truth, score)),
        float((2 * precision * recall / both).max()),
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
    zone = after(scan.share_of_tokens(scan.stored.truth) > 0, REACH_TOKENS) & normal
    # One tile lies around the middle of the body: columns mirror about its own middle.
    mirrored = (normal & ~zone)[:, :, ::-1]
    zone &= mirrored
    return zone, zone[:, :, ::-1]


def shadow(scores: np.ndarray, scan: Scan, spread: float) -> float:
    """Mean score [n, h, w] after the anomaly less that of the mirrored place, in `spread`s."""
    zone, mirror = shadow_pairs(scan)
    if not zone.any():
        return float("nan")
    return float((scores[zone].mean() - scores[mirror].mean()) / spread)


def shadow_added(scores: np.ndarray, twin: np.ndarray, scan: Scan, spread: float) -> float:
    """Mean score after the anomaly less the twin's at the same place, in `spread`s."""
    zone, _ = shadow_pairs(scan)
    if not zone.any():
        return float("nan")
    return float((scores[zone] - twin[zone]).mean() / spread)


def head_case_score(scores: np.ndarray, scan: Scan) -> float:
    """One number for the scan, of scores on its voxels."""
    return case_score(scores[scan.stack.inside_volume()])
