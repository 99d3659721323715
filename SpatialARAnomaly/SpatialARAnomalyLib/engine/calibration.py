"""What an NLL means: how often held-out normal scans reach it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from .specs import Spec

LEVELS = np.unique(
    np.concatenate([np.linspace(0.0, 0.99, 100), 1.0 - np.logspace(-1, -6, 101), [1.0]])
)
"""Shares at which quantiles are kept: every percent, and 20 per decade of the upper tail."""

MAX_SAMPLE = 4_000_000
"""Voxels taken from one volume at most, evenly thinned."""


@dataclass(frozen=True, kw_only=True)
class Calibration(Spec):
    """Quantiles of the NLL of body voxels in normal scans that were not trained on."""

    levels: tuple[float, ...]
    """Share of those voxels at or below `nll`."""
    nll: tuple[float, ...]
    """Nats per channel, ascending."""
    tokens: int
    """Tokens of the body that the quantiles rest on; voxels within one are not independent."""
    volumes: int
    """Held-out normal volumes."""

    def __post_init__(self) -> None:
        self._require(
            len(self.levels) == len(self.nll) >= 2
            and self.levels[0] == 0.0
            and self.levels[-1] == 1.0
            and all(a < b for a, b in zip(self.levels, self.levels[1:], strict=False))
            and all(a <= b for a, b in zip(self.nll, self.nll[1:], strict=False))
            and bool(np.isfinite(self.nll).all()),
            "levels must rise from 0 to 1 and nll with them",
        )
        self._require(self.tokens >= 1 and self.volumes >= 1, "tokens and volumes must be positive")

    @classmethod
    def of(cls, samples: list[Float[np.ndarray, " _"]], tokens: int) -> "Calibration":
        """The quantiles of the body voxels' NLL, one array per held-out normal volume."""
        thinned = [one[:: max(1, -(-one.size // MAX_SAMPLE))] for one in samples]
        nll = np.quantile(np.concatenate(thinned).astype(np.float64), LEVELS)
        return cls(
            levels=tuple(LEVELS.tolist()),
            nll=tuple(np.maximum.accumulate(nll).tolist()),
            tokens=tokens,
            volumes=len(samples),
        )

    def threshold(self, false_positive_rate: float) -> float:
        """The NLL that this share of normal body voxels exceeds."""
        return float(np.interp(1.0 - false_positive_rate, self.levels, self.nll))

    def p_value(self, nll: float) -> float:
        """How likely a token of normal body reaches this NLL: (1 + r)/(1 + n).

        r of n held-out tokens reach it; so p is never below 1/(1 + n), what
        the data at hand can show (Davison & Hinkley 1997, §4.2).
        """
        if nll > self.nll[-1]:
            tail = 0.0
        else:
            # Where quantiles tie, the largest tail is the honest one.
            first = int(np.searchsorted(self.nll, nll, side="left"))
            if self.nll[first] == nll or first == 0:
                tail = 1.0 - self.levels[first]
            else:
                span = self.nll[first] - self.nll[first - 1]
                part = (nll - self.nll[first - 1]) / span
                level = self.levels[first - 1] + part * (
                    self.levels[first] - self.levels[first - 1]
                )
                tail = 1.0 - level
        return (1.0 + tail * self.tokens) / (1.0 + self.tokens)
