"""Fitting a calibration to held-out normal scans, and the case score."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from SpatialARAnomalyLib.engine.cards.calibration import RATES, Calibration
from SpatialARAnomalyLib.engine.cards.rim import RimCorrection
from SpatialARAnomalyLib.engine.errors import InputError

TOP_SHARE = 0.01
"""Share of the body's voxels that the case score averages: more than noise at the skull,
and as small as the smallest lesion that matters for the whole scan."""


def case_score(nll: Float[np.ndarray, " n"]) -> float:
    """Return the mean of the highest hundredth of the body's NLL, less the body's median.

    In nats per channel, 0 or more. It does not depend on the voxel size, because the last
    voxel of the hundredth counts in part. The median makes it a contrast within the scan: a
    noisier scanner raises the NLL everywhere, a lesion in one place. Raises `InputError`
    without voxels, or if some are not finite.
    """
    if nll.size == 0 or not np.isfinite(nll).all():
        raise InputError(
            "case-score-input",
            "A case score needs the finite NLL of at least one voxel; found "
            f"{nll.size} voxels, {int(np.count_nonzero(np.isfinite(nll)))} of them finite.",
        )
    wanted = TOP_SHARE * nll.size
    kept = math.ceil(wanted)
    middle = [(nll.size - 1) // 2, nll.size // 2]
    ordered = np.partition(nll, [*middle, nll.size - kept])
    top = np.sort(ordered[nll.size - kept :]).astype(np.float64)
    median = ordered[middle].astype(np.float64).mean()
    weights = np.ones(kept)
    weights[0] = wanted - (kept - 1)  # the lowest one counts in part
    return float(weights @ top / wanted - median)


LEVELS = np.unique(
    np.concatenate([np.linspace(0.0, 0.99, 100), 1.0 - np.logspace(-1, -6, 101), [1.0]])
)
"""Levels of the quantiles: every percent, and 20 per decade of the upper tail."""

MAX_SAMPLE = 8_000_000
"""Largest number of voxels sampled from all held-out scans together."""


def thin_sample(sample: Float[np.ndarray, " _"], volumes: int) -> Float[np.ndarray, " _"]:
    """Thin the sample of one of so many volumes evenly, so that all fit `MAX_SAMPLE`."""
    share = max(1, MAX_SAMPLE // volumes)
    # A copy: a view would keep the whole sample in memory.
    return sample[:: max(1, -(-sample.size // share))].copy()


def fit_calibration(
    voxel_samples: Sequence[Float[np.ndarray, " _"]],
    token_samples: Sequence[Float[np.ndarray, " _"]],
) -> Calibration:
    """Fit a calibration to the NLL of the body's voxels and tokens, an array per held-out scan.

    The threshold of a rate is that of `rates_of_others`.
    """
    nll = _quantiles(voxel_samples)
    shares = np.array([_shares_above(one, nll) for one in voxel_samples])
    levels = 1.0 - rates_of_others(shares, 1.0 - LEVELS)[0]
    return Calibration(
        levels=tuple(LEVELS.tolist()),
        nll=tuple(np.interp(levels, LEVELS, nll).tolist()),
        token_nll=tuple(_quantiles(token_samples).tolist()),
        tokens=sum(one.size for one in token_samples),
        volumes=len(voxel_samples),
        rates=RATES,
        volume_shares=tuple(map(tuple, rates_of_others(shares, RATES)[1].tolist())),
        case_scores=tuple(sorted(case_score(one) for one in voxel_samples)),
    )


def rates_of_others(
    shares: Float[np.ndarray, "n t"], rates: Float[np.ndarray, " r"] | Sequence[float]
) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "n r"]]:
    """Return how strict a threshold must be for a new scan to have the asked rate on average.

    With few scans, the threshold that a share of all of them exceeds is too low for new ones:
    each scan helped to set it. So every scan is judged by the same threshold of the other scans,
    and that becomes as strict as makes their mean share the rate (leave-one-out; one scan has
    no others, and its share is the rate).

    Args:
        shares: Share of every scan above each of the same rising thresholds.
        rates: Rates asked for.

    Returns:
        The mean share of all scans above the threshold of each rate, and the share of every scan
        above the threshold of its others.
    """
    shares = np.concatenate([np.ones((len(shares), 1)), shares], axis=1)[:, ::-1]
    pooled = shares.mean(axis=0)
    if len(shares) == 1:
        return np.asarray(rates), np.asarray(rates)[None]
    others = (len(shares) * pooled - shares) / (len(shares) - 1)
    judged = np.array([np.interp(pooled, *pair) for pair in zip(others, shares, strict=True)])
    mean = judged.mean(axis=0)
    return (
        np.interp(rates, mean, pooled),
        np.array([np.interp(rates, mean, one) for one in judged]),
    )


def _shares_above(
    sample: Float[np.ndarray, " _"], nll: Float[np.ndarray, " t"]
) -> Float[np.ndarray, " t"]:
    return 1.0 - np.searchsorted(np.sort(sample), nll, side="right") / sample.size


RIM_EDGES = (-1.0, 0.0, 0.5, 1.0, 1.5, 2.0)
"""Edges of the bins of distance, in tokens; further inside is no rim."""

RIM_RATE = 0.01
"""Share of the tokens inside above the NLL that the same share of every bin is lowered to."""

MIN_RIM_TOKENS = 10
"""Least expected number of a bin's tokens above that NLL; with fewer the bin is not corrected."""


def fit_rim(
    nll: Float[np.ndarray, " n"], distances: Float[np.ndarray, " n"]
) -> RimCorrection | None:
    """Fit the correction to the NLL of held-out tokens; None where nothing is to be corrected.

    Args:
        nll: NLL of tokens of held-out scans, in nats per channel.
        distances: Distance of each from the edge of the region, in tokens.
    """
    inside = nll[distances > RIM_EDGES[-1]]
    if inside.size * RIM_RATE < MIN_RIM_TOKENS:
        return None
    expected = np.quantile(inside, 1 - RIM_RATE)
    excess = []
    for low, high in pairwise(RIM_EDGES):
        one = nll[(distances > low) & (distances <= high)]
        enough = one.size * RIM_RATE >= MIN_RIM_TOKENS
        above = float(np.quantile(one, 1 - RIM_RATE) - expected) if enough else 0.0
        excess.append(max(0.0, above))
    if not any(excess):
        return None
    middles = [(low + high) / 2 for low, high in pairwise(RIM_EDGES)]
    return RimCorrection(distances=(*middles, RIM_EDGES[-1] + 0.25), nll=(*excess, 0.0))


def _quantiles(samples: Sequence[Float[np.ndarray, " _"]]) -> Float[np.ndarray, " t"]:
    """Return quantiles at `LEVELS` of all samples, each sample with the same weight.

    For samples of equal size they are those of `numpy.quantile`.
    """
    sizes = np.array([one.size for one in samples])
    nll = np.concatenate(samples)
    volume = np.repeat(np.arange(sizes.size, dtype=np.uint32), sizes)
    # Millions of voxels: every array is released as soon as possible.
    order = np.argsort(nll, kind="stable")
    nll, volume = nll[order], volume[order]
    del order
    weights = (1.0 / sizes)[volume]
    del volume
    # Every value lies at the middle of its weight; the first and the last span [0, 1].
    at = np.cumsum(weights)
    weights *= 0.5
    at -= weights
    del weights
    at -= at[0]
    if at[-1] > 0:
        at /= at[-1]
    return np.maximum.accumulate(np.interp(LEVELS, at, nll))
