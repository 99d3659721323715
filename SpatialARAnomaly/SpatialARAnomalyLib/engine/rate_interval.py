"""How far a false-positive rate may be off on new normal scans, from the spread between scans."""

import math
import statistics
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

RATES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001)
"""Rates at whose thresholds every held-out volume's share is kept."""

LEVEL = 0.95
"""How sure an interval is."""

_NORMAL = statistics.NormalDist()


@dataclass(frozen=True, kw_only=True)
class RateInterval:
    """Where the share of body voxels above a threshold lies, with probability `LEVEL`."""

    scan: tuple[float, float]
    """Of one new normal scan."""
    mean: tuple[float, float]
    """On average over many new normal scans."""


def shares_at(
    rate: float, rates: Sequence[float], volume_shares: Sequence[Sequence[float]]
) -> list[float] | None:
    """Every volume's share above the threshold of a rate; None where none was measured.

    `volume_shares` are those at each of the falling `rates`; between rates a
    share goes as a power of the rate.
    """
    if not rates or not rates[-1] <= rate <= rates[0]:
        return None
    place = min(bisect_right([-one for one in rates], -rate), len(rates) - 1)
    high, low = rates[place - 1], rates[place]
    part = math.log(rate / low) / math.log(high / low)
    return [
        # Nothing has no logarithm; what stands for it is far below `least` of `interval_of`.
        max(one[place], 1e-12) ** (1 - part) * max(one[place - 1], 1e-12) ** part
        for one in volume_shares
    ]


def interval_of(rate: float, shares: Sequence[float], least: float) -> RateInterval | None:
    """The interval that the shares of held-out volumes leave; None with fewer than two.

    Shares are taken as normal between volumes on the probit scale Φ⁻¹, as they
    are where volumes differ by a shift of a normal NLL. For one scan that is
    Student's prediction interval; for the mean, Φ(μ/√(1 + σ²)), its delta
    method with t in place of z. No share counts as less than `least`, which
    volumes cannot tell from nothing. `rate`, at which the threshold was put, is
    always inside.
    """
    if len(shares) < 2:
        return None
    # Here, so that the panel opens quickly; Slicer bundles scipy.
    from scipy.special import stdtrit

    probits = [_NORMAL.inv_cdf(min(max(share, least), 1 - least)) for share in shares]
    count, middle = len(probits), statistics.fmean(probits)
    variance = statistics.variance(probits, middle)
    t = float(stdtrit(count - 1, (1 + LEVEL) / 2))
    low, high = _around(rate, middle, t * math.sqrt(variance * (1 + 1 / count)))
    if min(shares) <= least:
        low = 0.0  # a scan without anything above was seen
    spread = 1 + variance
    # Of the mean's probit: from the doubt in μ, and from that in σ.
    doubt = variance / count / spread + (middle * variance) ** 2 / spread**3 / (2 * (count - 1))
    mean = _around(rate, middle / math.sqrt(spread), t * math.sqrt(doubt))
    return RateInterval(scan=(low, high), mean=mean)


def _around(rate: float, middle: float, reach: float) -> tuple[float, float]:
    return min(rate, _NORMAL.cdf(middle - reach)), max(rate, _NORMAL.cdf(middle + reach))
