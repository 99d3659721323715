"""What an NLL means: how often held-out normal scans reach it.

Readable with numpy alone; how it is learned is in `calibration_fit`.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .specs import Spec

MIN_TOKENS_ABOVE = 10
"""Tokens that must lie above a threshold for its rate to be more than a guess."""


@dataclass(frozen=True, kw_only=True)
class Calibration(Spec):
    """Quantiles of the NLL in the body of normal scans that were not trained on.

    Thresholds rest on voxels, because a rate is a share of what is shown.
    p-values rest on tokens: a voxel's NLL is a mean of tokens around it, so
    voxels are less extreme than tokens and more alike.

    Neighboring tokens are alike too, and n tokens are not n patients. The
    held-out scans also chose the epoch and set the variance, so rates and
    p-values are a little optimistic.
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

    def threshold(self, false_positive_rate: float) -> float:
        """The NLL that this share of normal body voxels exceeds."""
        return float(np.interp(1.0 - false_positive_rate, self.levels, self.nll))

    def supports(self, false_positive_rate: float) -> bool:
        """Whether enough tokens lie above the threshold of this rate to tell it from others."""
        return false_positive_rate * self.tokens >= MIN_TOKENS_ABOVE

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
