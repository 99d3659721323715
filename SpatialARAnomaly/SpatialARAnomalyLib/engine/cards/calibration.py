"""The calibration of a model: how often held-out normal scans reach an NLL or a case score.

- A threshold is a quantile of the NLL of body voxels (`Calibration.threshold`); how far its
  false-positive rate varies between scans is a `RateInterval`.
- A finding is compared with those of held-out scans (`FindingCounts`).
- The p-value of a single place is a rank among tokens (`Calibration.p_value`).
- The p-value of a case is a rank among scans, smoothed by Student's t (`case_p_value`).

`engine.scoring.calibration_fit` makes calibrations. Importing this module needs numpy only.
"""

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from SpatialARAnomalyLib.engine.cards.finding_counts import FindingCounts
from SpatialARAnomalyLib.engine.specs import Spec

RATES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001, 0.00003, 0.00001)
"""False-positive rates at whose thresholds the share of every held-out volume is kept."""

LEVEL = 0.95
"""Confidence level of a rate interval."""

ENOUGH_NORMALS = 20
"""Held-out normal scans below which a rate or a case p-value is called rough: about where
the mean rate is known within a factor of two (Resources/Docs/calibration.md)."""

MIN_TOKENS_ABOVE = 10
"""Expected number of held-out tokens above a threshold below which its rate is a guess."""

MIN_NORMALS = 3
"""Held-out normal scans below which there is no case p-value: their spread is unknown."""

PRIOR_SCANS = 20
"""Prior weight of the parametric (Student t) case p-value, in pseudo-scans."""

BEYOND = 10
"""Factor by which a case p-value may fall below 1/(1 + n), the least that counting n scans
can show: further out it would rest on the shape of the t distribution alone."""

_LEAST_TAIL = 1e-9
_LEAST_SHARE = 1e-12
_NORMAL = statistics.NormalDist()


@dataclass(frozen=True, kw_only=True)
class RateInterval:
    """Interval of confidence `LEVEL` for the share of body voxels above a threshold."""

    scan: tuple[float, float]
    """Share in one new normal scan."""
    mean: tuple[float, float]
    """Mean share over many new normal scans."""

    @property
    def is_wide(self) -> bool:
        """True if not even the mean share is known to a factor of ten."""
        low, high = self.mean
        return high > 10 * low


@dataclass(frozen=True, kw_only=True)
class Calibration(Spec):
    """The NLL in the body of normal scans that were not trained on.

    Every scan has the same weight, whatever its number of voxels: a rate is the mean over
    scans, and finer voxels do not count as more scans.

    Thresholds rest on voxels, because a rate is a share of what is shown. p-values rest on
    tokens: a voxel's NLL is a mean of tokens around it, so voxels are less extreme than
    tokens and more alike.

    Neighboring tokens are alike too, and n tokens are not n patients: the uncertainty of a
    rate comes from the spread between scans. The held-out scans also chose the epoch and set
    the variance, so rates and p-values are a little optimistic; no interval includes that.
    """

    levels: tuple[float, ...]
    """Share at or below: of a new scan's voxels `nll`, of the tokens `token_nll`."""
    nll: tuple[float, ...]
    """The NLL that a share of 1 - level of a new scan's body voxels exceeds, in nats per channel,
    ascending."""
    token_nll: tuple[float, ...]
    """Quantiles of the NLL of tokens whose center lies in the body, in nats per channel,
    ascending."""
    tokens: int
    """Number of tokens whose center lies in the body."""
    volumes: int
    """Number of held-out normal volumes."""
    rates: tuple[float, ...] = ()
    """Falling false-positive rates."""
    volume_shares: tuple[tuple[float, ...], ...] = ()
    """Share of the body voxels above the threshold that the other held-out volumes set for each
    of `rates`, per held-out volume; may be empty."""
    case_scores: tuple[float, ...] = ()
    """Case score of every held-out volume, ascending; may be empty."""
    findings: FindingCounts | None = None
    """Findings of the held-out volumes; None in models made before these were counted."""

    def __post_init__(self) -> None:
        self._require(
            len(self.levels) == len(self.nll) == len(self.token_nll) >= 2
            and self.levels[0] == 0.0
            and self.levels[-1] == 1.0
            and all(a < b for a, b in pairwise(self.levels))
            and all(a <= b for a, b in pairwise(self.nll))
            and all(a <= b for a, b in pairwise(self.token_nll))
            and bool(np.isfinite(self.nll + self.token_nll).all()),
            "levels must rise from 0 to 1, and nll and token_nll with them",
        )
        self._require(self.tokens >= 1 and self.volumes >= 1, "tokens and volumes must be positive")
        self._require(
            all(0 < rate < 1 for rate in self.rates)
            and all(a > b for a, b in pairwise(self.rates))
            and len(self.rates) != 1,
            "rates must be two or more falling shares, or none",
        )
        self._require(
            len(self.volume_shares) in (0, self.volumes)
            and all(
                len(shares) == len(self.rates) and all(0 <= share <= 1 for share in shares)
                for shares in self.volume_shares
            ),
            "volume_shares must hold a share of each rate for each of the volumes, or nothing",
        )
        self._require(
            len(self.case_scores) in (0, self.volumes)
            and all(a <= b for a, b in pairwise(self.case_scores))
            and bool(np.isfinite(self.case_scores).all()),
            "case_scores must hold a rising number for each of the volumes, or nothing",
        )

    @property
    def is_rough(self) -> bool:
        """True if there are fewer than `ENOUGH_NORMALS` held-out scans."""
        return self.volumes < ENOUGH_NORMALS

    def threshold(self, false_positive_rate: float) -> float:
        """Return the NLL that this share of normal body voxels exceeds."""
        return float(np.interp(1.0 - false_positive_rate, self.levels, self.nll))

    def rate(self, threshold_nll: float) -> float:
        """Return the false-positive rate of a threshold, at least the least that is kept."""
        level = self._level(threshold_nll, self.nll) if threshold_nll <= self.nll[-1] else 1.0
        return max(1.0 - level, 1.0 - self.levels[-2])

    def supports(self, false_positive_rate: float) -> bool:
        """Return whether enough tokens lie above the threshold of this rate to estimate it."""
        return false_positive_rate * self.tokens >= MIN_TOKENS_ABOVE

    def rate_interval(self, false_positive_rate: float) -> RateInterval | None:
        """Return the interval of the share that new normal scans show above this threshold.

        None for one held-out volume, without `volume_shares`, and for a rate that is too rare
        (`supports`) or outside of `rates`.
        """
        shares = shares_at(false_positive_rate, self.rates, self.volume_shares)
        if shares is None or not self.supports(false_positive_rate):
            return None
        # Half a token of the mean volume: a smaller share cannot be distinguished from zero.
        return interval_of(false_positive_rate, shares, 0.5 * self.volumes / self.tokens)

    def case_p_value(self, score: float) -> float | None:
        """Return the probability that a normal scan's case score reaches this one.

        See the function `case_p_value`; None with fewer than `MIN_NORMALS` case scores.
        """
        return case_p_value(score, self.case_scores)

    def p_value(self, nll: float) -> float:
        """Return the probability that a token of normal body reaches this NLL: (1 + r)/(1 + n).

        r of n held-out tokens reach it; so p is never below 1/(1 + n), what
        the data at hand can show (Davison & Hinkley 1997, §4.2). The peak of a
        finding lies between tokens and never above the highest of them, so its
        p is conservative; only at the rim of the body can that highest token
        be one centered outside, which was not counted.
        """
        if nll > self.token_nll[-1]:
            reaching = 0.0
        else:
            # The token of rank k (from 0) is the quantile at k/(n − 1); n − k reach it.
            reaching = 1.0 + (1.0 - self._level(nll, self.token_nll)) * (self.tokens - 1)
        return (1.0 + reaching) / (1.0 + self.tokens)

    def _level(self, nll: float, quantiles: tuple[float, ...]) -> float:
        """Return the share below an NLL that is not above the last of the quantiles."""
        first = bisect_left(quantiles, nll)
        # Where quantiles tie, the lowest level is the conservative one.
        if quantiles[first] == nll or first == 0:
            return self.levels[first]
        span = quantiles[first] - quantiles[first - 1]
        part = (nll - quantiles[first - 1]) / span
        return self.levels[first - 1] + part * (self.levels[first] - self.levels[first - 1])


def shares_at(
    rate: float, rates: Sequence[float], volume_shares: Sequence[Sequence[float]]
) -> list[float] | None:
    """Return every volume's share above the threshold of a rate; None outside of `rates`.

    Args:
        rate: The false-positive rate.
        rates: Falling rates; in between, a share is interpolated as a power of the rate.
        volume_shares: Of every volume, the shares at `rates`.
    """
    if not rates or not rates[-1] <= rate <= rates[0]:
        return None
    place = min(bisect_right([-one for one in rates], -rate), len(rates) - 1)
    high, low = rates[place - 1], rates[place]
    part = math.log(rate / low) / math.log(high / low)
    return [
        # `_LEAST_SHARE` stands for zero, which has no logarithm.
        max(one[place], _LEAST_SHARE) ** (1 - part) * max(one[place - 1], _LEAST_SHARE) ** part
        for one in volume_shares
    ]


def interval_of(rate: float, shares: Sequence[float], least: float) -> RateInterval | None:
    """Return the interval from the shares of held-out volumes; None with fewer than two.

    Shares are taken as normally distributed between volumes on the probit scale Φ⁻¹, as they
    are where volumes differ by a shift of a normal NLL. For one scan the interval is Student's
    prediction interval; for the mean, Φ(μ/√(1 + σ²)), it is the delta method's with t in place
    of z.

    Args:
        rate: The false-positive rate of the threshold; it is always inside.
        shares: Share of every held-out volume.
        least: Least share distinguishable from zero; smaller ones are raised to it.
    """
    if len(shares) < 2:
        return None
    # Imported here, so that the panel opens quickly; Slicer bundles scipy.
    from scipy.special import stdtrit

    probits = [_NORMAL.inv_cdf(min(max(share, least), 1 - least)) for share in shares]
    count, middle = len(probits), statistics.fmean(probits)
    variance = statistics.variance(probits, middle)
    t = float(stdtrit(count - 1, (1 + LEVEL) / 2))

    def around(center: float, reach: float) -> tuple[float, float]:
        return min(rate, _NORMAL.cdf(center - reach)), max(rate, _NORMAL.cdf(center + reach))

    low, high = around(middle, t * math.sqrt(variance * (1 + 1 / count)))
    if min(shares) <= least:
        low = 0.0  # one of the scans had nothing above the threshold
    spread = 1 + variance
    # Variance of the mean's probit: from the uncertainty of μ, and from that of σ.
    doubt = variance / count / spread + (middle * variance) ** 2 / spread**3 / (2 * (count - 1))
    mean = around(middle / math.sqrt(spread), t * math.sqrt(doubt))
    return RateInterval(scan=(low, high), mean=mean)


def case_p_value(score: float, normal_scores: Sequence[float]) -> float | None:
    """Return the probability that a new normal scan's case score reaches this one.

    It is uniform on normal scans. None with fewer than `MIN_NORMALS`. A mean of two
    estimates, weighted `PRIOR_SCANS` to n + 1 (the posterior mean of a Dirichlet process,
    Ferguson 1973):

    - Student's t for one more observation, n − 1 degrees of freedom and scale
      s·√(1 + 1/n), of the logarithm of the score: smooth, exact for log-normal scores, wide
      with few scans.
    - The rank, (1 + r)/(1 + n) where r scores reach this one, exact for scores of any
      distribution; between ranks and beyond the last it is interpolated along the t.

    It falls with the score, and does not depend on the score's unit.
    """
    count = len(normal_scores)
    if count < MIN_NORMALS:
        return None
    if score <= 0:
        return 1.0
    scores = sorted(normal_scores)
    reaching = count - bisect_left(scores, score)
    if scores[0] == scores[-1] or scores[0] <= 0:
        return (1 + reaching) / (1 + count)  # without a spread the rank alone
    # Imported here, so that the panel opens quickly; Slicer bundles scipy.
    from scipy.special import stdtr

    logs = [math.log(one) for one in scores]
    middle = statistics.fmean(logs)
    scale = statistics.stdev(logs, middle) * math.sqrt(1 + 1 / count)

    def tail(log: float) -> float:
        return max(_LEAST_TAIL, float(stdtr(count - 1, (middle - log) / scale)))

    student = tail(math.log(score))
    above = count - bisect_right(scores, score)
    if reaching > above:
        rank = reaching / (1 + count)
    else:
        low = tail(logs[count - above]) if above else 0.0
        high = tail(logs[count - above - 1]) if above < count else 1.0
        part = min(1.0, (student - low) / (high - low)) if high > low else 1.0
        rank = (above + part) / (1 + count)
    p = (PRIOR_SCANS * student + (1 + count) * rank) / (PRIOR_SCANS + 1 + count)
    return max(p, least_case_p(count))


def least_case_p(normals: int) -> float:
    """Return the least case p-value that this number of normal scans can give."""
    return 1 / (BEYOND * (1 + normals))
