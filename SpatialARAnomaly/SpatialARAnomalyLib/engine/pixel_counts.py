"""Pixel metrics pooled over thousands of images, in memory that hardly grows with them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from . import voxel_metrics
from .lesions import Lesions
from .score_counts import PooledCounts, ScoreCounts, count_scores
from .voxel_metrics import Undefined

FOLD = 64
"""Images whose counts are put together as soon as they are there."""


class PixelCounts:
    """Images counted one by one; all their pixels have a score.

    A region is what hangs together in one image: images are slices of their own.
    """

    def __init__(self) -> None:
        self._folded: list[ScoreCounts] = []
        self._fresh: list[ScoreCounts] = []

    def add(self, score: Float[np.ndarray, "r c"], label: Bool[np.ndarray, "r c"]) -> None:
        """Count an image. Raises `InputError` where a score is not finite."""
        everywhere = np.ones((1, *label.shape), dtype=bool)
        self._fresh.append(count_scores(score[None], everywhere, Lesions.of(label[None])))
        if len(self._fresh) == FOLD:
            self._folded.append(_together(self._fresh))
            self._fresh = []

    def metrics(self) -> dict[str, float | None]:
        """`pixel_auroc`, `pixel_ap` and `pro` of all images; none where undefined.

        PRO is averaged up to a false-positive rate of 0.3, as in BMAD.
        """
        pooled = PooledCounts.of([*self._folded, *self._fresh])
        tally = pooled.tally(np.ones(len(pooled.normal)))
        values = {
            "pixel_auroc": voxel_metrics.auroc(tally),
            "pixel_ap": voxel_metrics.average_precision(tally),
            "pro": voxel_metrics.pro(tally),
        }
        return {
            name: None if isinstance(value, Undefined) else float(value)
            for name, value in values.items()
        }


def _together(images: Sequence[ScoreCounts]) -> ScoreCounts:
    """The counts of several images as those of one."""
    pooled = PooledCounts.of(images)
    tally = pooled.tally(np.ones(len(images)))
    return ScoreCounts(
        scores=pooled.scores,
        normal=tally.normal[1:],
        lesion=tally.lesion[1:],
        overlap=tally.overlap[1:],
        missed=float(tally.lesion[0]),
        missed_overlap=float(tally.overlap[0]),
        exact=pooled.exact,
    )
