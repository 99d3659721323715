"""How an NLL gets its meaning: quantiles of held-out normal scans."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from SpatialARAnomalyLib.engine.cards.calibration import RATES, Calibration
from SpatialARAnomalyLib.engine.errors import InputError

TOP_SHARE = 0.01
"""Share of the body that the score is of: more than a few odd voxels at the skull, and
as small as a lesion can be that matters for the scan as a whole."""


def case_score(nll: Float[np.ndarray, " n"]) -> float:
    """The mean NLL of the highest hundredth of the body's voxels, nats per channel.

    A share and not a number of voxels, and the last of them counted in part: so
    it is the same at any voxel size and order (the expected shortfall of
    finance). It never falls when the NLL of any voxel rises, and moves with the
    NLL's unit and zero. Raises `InputError` without voxels, or where some are
    not finite.
    """
    if nll.size == 0 or not np.isfinite(nll).all():
        raise InputError(
            "case-score-input",
            "A case score needs the finite NLL of at least one voxel; found "
            f"{nll.size} voxels, {int(np.count_nonzero(np.isfinite(nll)))} of them finite.",
        )
    wanted = TOP_SHARE * nll.size
    kept = math.ceil(wanted)
    top = np.sort(np.partition(nll, nll.size - kept)[nll.size - kept :]).astype(np.float64)
    weights = np.ones(kept)
    weights[0] = wanted - (kept - 1)  # the lowest of them is the one counted in part
    return float(weights @ top / wanted)


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
    """What is kept of the body's voxels and tokens, one array each per held-out volume."""
    calibration = Calibration(
        levels=tuple(LEVELS.tolist()),
        nll=_quantiles(voxel_samples),
        token_nll=_quantiles(token_samples),
        tokens=sum(one.size for one in token_samples),
        volumes=len(voxel_samples),
    )
    thresholds = [calibration.threshold(rate) for rate in RATES]
    return dataclasses.replace(
        calibration,
        rates=RATES,
        volume_shares=tuple(
            tuple(float(np.mean(one > threshold)) for threshold in thresholds)
            for one in voxel_samples
        ),
        case_scores=tuple(sorted(case_score(one) for one in voxel_samples)),
    )


def _quantiles(samples: Sequence[Float[np.ndarray, " _"]]) -> tuple[float, ...]:
    """Those of all samples, each weighing the same; of equal sizes they are numpy's."""
    sizes = np.array([one.size for one in samples])
    nll = np.concatenate(samples)
    volume = np.repeat(np.arange(sizes.size, dtype=np.uint32), sizes)
    # Of millions of voxels: nothing is kept that is not needed any more.
    order = np.argsort(nll, kind="stable")
    nll, volume = nll[order], volume[order]
    del order
    weights = (1.0 / sizes)[volume]
    del volume
    # A value stands in the middle of its weight; the first and the last are the ends.
    at = np.cumsum(weights)
    weights *= 0.5
    at -= weights
    del weights
    at -= at[0]
    if at[-1] > 0:
        at /= at[-1]
    return tuple(np.maximum.accumulate(np.interp(LEVELS, at, nll)).tolist())
