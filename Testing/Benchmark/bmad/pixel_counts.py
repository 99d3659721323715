"""Pixel metrics pooled over thousands of images in bounded memory."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from SpatialARAnomalyLib.engine.evaluation import metrics as voxel_metrics
from SpatialARAnomalyLib.engine.evaluation.lesions import Lesions
from SpatialARAnomalyLib.engine.evaluation.metrics import (
    PooledCounts,
    ScoreCounts,
    Undefined,
    count_scores,
)

FOLD = 64
"""Number of images whose counts are merged into one."""


class PixelCounts:
    """Counts of scores, added image by image; each pixel has a score.

    A region is a connected component within one image.
    """

    def __init__(self) -> None:
        self._folded: list[ScoreCounts] = []
        self._fresh: list[ScoreCounts] = []

    def add(self, score: Float[np.ndarray, "r c"], label: Bool[np.ndarray, "r c"]) -> None:
        """Add an image. Raises `InputError` if a score is not finite."""
        everywhere = np.ones((1, *label.shape), dtype=bool)
        self._fresh.append(count_scores(score[None], everywhere, Lesions.of(label[None])))
        if len(self._fresh) == FOLD:
            self._folded.append(_merge(self._fresh))
            self._fresh = []

    def metrics(self) -> dict[str, float | None]:
        """Compute `pixel_auroc`, `pixel_ap` and `pro` of all images; None where undefined.

        PRO is averaged up to a false-positive rate of 0.3, as in BMAD.
        """
        pooled = PooledCounts.of([*self._folded, *self._fresh])
        tally = pooled.tally(np.ones(len(pooled.counts)))
        values = {
            "pixel_auroc": voxel_metrics.auroc(tally),
            "pixel_ap": voxel_metrics.average_precision(tally),
            "pro": voxel_metrics.pro(tally),
        }
        return {
            name: None if isinstance(value, Undefined) else float(value)
            for name, value in values.items()
        }


def _merge(images: Sequence[ScoreCounts]) -> ScoreCounts:
    """Merge the counts of several images into those of one."""
    pooled = PooledCounts.of(images)
    return ScoreCounts(scores=pooled.scores, counts=pooled.counts.sum(axis=0), exact=pooled.exact)
