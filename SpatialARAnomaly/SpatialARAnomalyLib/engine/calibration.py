"""What an NLL means: how often held-out normal scans reach it.

Readable with numpy alone; how it is learned is in `calibration_fit`.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .case_p import case_p_value
from .rate_interval import RateInterval, interval_of, shares_at
from .specs import Spec

ENOUGH_NORMALS = 20
"""Held-out normal scans below which a rate or a case p-value is called rough: about where
the mean rate is known within a factor of two (Resources/Docs/calibration.md)."""

MIN_TOKENS_ABOVE = 10
"""Tokens that must lie above a threshold for its rate to be more than a guess."""


@dataclass(frozen=True, kw_only=True)
class Calibration(Spec):
    """Quantiles of the NLL in the body of normal scans that were not trained on.

    Every scan weighs the same, however many voxels it has: a rate is what the
    mean normal scan shows, and fine voxels are not more scans.

    Thresholds rest on voxels, because a rate is a share of what is shown.
    p-values rest on tokens: a voxel's NLL is a mean of tokens around it, so
    voxels are less extreme than tokens and more alike.

    Neighboring tokens are alike too, and n tokens are not n patients: how far
    a rate may be off comes from the spread between scans. The held-out scans
    also chose the epoch and set the variance, so rates and p-values are a
    little optimistic; no interval counts that.
    """

    levels: tuple[float, ...]
    """Share of the voxels at or below `nll`, and of the tokens at or below `token_nll`."""
    nll: tuple[float, ...]
    """Of body voxels, nats per channel, ascending."""
    token_nll: tuple[float, ...]
    """Of tokens whose center lies in the body, nats per channel, ascending."""
    tokens: int
    """Those tokens."""
    volumes: int
    """Held-out normal volumes."""
    rates: tuple[float, ...] = ()
    """Falling false-positive rates."""
    volume_shares: tuple[tuple[float, ...], ...] = ()
    """Of every held-out volume, the share of body voxels above the threshold of each of
    `rates`; none in models made before it was kept."""
    case_scores: tuple[float, ...] = ()
    """`case_score` of every held-out volume, ascending; none in models made before."""

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

    def threshold(self, false_positive_rate: float) -> float:
        """The NLL that this share of normal body voxels exceeds."""
        return float(np.interp(1.0 - false_positive_rate, self.levels, self.nll))

    def supports(self, false_positive_rate: float) -> bool:
        """Whether enough tokens lie above the threshold of this rate to tell it from others."""
        return false_positive_rate * self.tokens >= MIN_TOKENS_ABOVE

    @property
    def is_rough(self) -> bool:
        """Whether there are too few held-out normals for more than rough rates and p-values."""
        return self.volumes < ENOUGH_NORMALS

    def rate_interval(self, false_positive_rate: float) -> RateInterval | None:
        """What share of voxels new normal scans may show at the threshold of this rate.

        None where nothing can be said: of one held-out volume, of a model made
        before shares were kept, or of a rate rarer than tokens can show or
        outside `rates`.
        """
        shares = shares_at(false_positive_rate, self.rates, self.volume_shares)
        if shares is None or not self.supports(false_positive_rate):
            return None
        # Half a token of the mean volume: less of a volume is not told from nothing.
        return interval_of(false_positive_rate, shares, 0.5 * self.volumes / self.tokens)

    def case_p_value(self, score: float) -> float | None:
        """How likely a normal scan's `case_score` reaches this one (`case_p.case_p_value`).

        None of fewer than `case_p.MIN_NORMALS` held-out volumes, or of a model
        made before case scores were kept.
        """
        return case_p_value(score, self.case_scores, self.nll[0])

    def p_value(self, nll: float) -> float:
        """How likely a token of normal body reaches this NLL: (1 + r)/(1 + n).

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
            reaching = 1.0 + (1.0 - self._token_level(nll)) * (self.tokens - 1)
        return (1.0 + reaching) / (1.0 + self.tokens)

    def _token_level(self, nll: float) -> float:
        """The share of tokens below an NLL that is not above all of them."""
        first = int(np.searchsorted(self.token_nll, nll, side="left"))
        # Where quantiles tie, the lowest level is the honest one.
        if self.token_nll[first] == nll or first == 0:
            return self.levels[first]
        span = self.token_nll[first] - self.token_nll[first - 1]
        part = (nll - self.token_nll[first - 1]) / span
        return self.levels[first - 1] + part * (self.levels[first] - self.levels[first - 1])
