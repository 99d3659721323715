"""The number of findings of at least a strength in held-out normal scans, at every threshold."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from SpatialARAnomalyLib.engine.specs import Spec

KEPT_RATIO = 1.1
"""Ratio of the ranks that are kept below the strongest findings."""

BEYOND = 10
"""Factor by which an expected number may fall below 1/(1 + n), the least that counting n scans
can show: further out it would rest on the shape of the tail alone."""

_TAIL_FINDINGS = 10
"""Strongest normal findings that the tail beyond them is fitted to."""

_PRIOR_SCALE, _PRIOR_FINDINGS = 1.0, 2
"""Prior scale of the logarithm of strengths in the tail, and its weight in findings."""


@dataclass(frozen=True, kw_only=True)
class FindingCounts(Spec):
    """Strengths of the findings of held-out normal scans, whatever their volume.

    Findings of all scans are ranked together at each rate. All of the strongest are kept and,
    further down, every rank a tenth larger than the one before.
    """

    scans: int
    """Number of held-out normal scans."""
    rates: tuple[float, ...]
    """Falling false-positive rates."""
    ranks: tuple[tuple[int, ...], ...]
    """At each rate the ranks that are kept, from 1; the last is the number of findings."""
    strengths: tuple[tuple[float, ...], ...]
    """Strength of the finding of each rank (`engine.scoring.findings`)."""

    def __post_init__(self) -> None:
        self._require(self.scans >= 1, "scans must be positive")
        self._require(
            len(self.rates) >= 1
            and all(0 < rate < 1 for rate in self.rates)
            and all(a > b for a, b in pairwise(self.rates)),
            "rates must be falling shares",
        )
        self._require(
            len(self.rates) == len(self.ranks) == len(self.strengths)
            and all(map(_is_ranking, self.ranks, self.strengths)),
            "ranks must rise from 1, and strengths must be positive and fall with them",
        )

    @classmethod
    def of(
        cls, rates: Sequence[float], strengths: Sequence[Sequence[Sequence[float]]]
    ) -> "FindingCounts":
        """Rank the strengths of findings; every held-out scan has a list for each rate."""
        pooled = [
            sorted((one for scan in strengths for one in scan[index] if one > 0), reverse=True)
            for index in range(len(rates))
        ]
        ranks = [_kept_ranks(len(one)) for one in pooled]
        return cls(
            scans=len(strengths),
            rates=tuple(rates),
            ranks=tuple(ranks),
            strengths=tuple(
                tuple(float(f"{one[rank - 1]:.6g}") for rank in kept)
                for one, kept in zip(pooled, ranks, strict=True)
            ),
        )

    @property
    def least(self) -> float:
        """The least expected number that these scans can show."""
        return 1 / (BEYOND * (1 + self.scans))

    def expected(self, strength: float, false_positive_rate: float) -> float:
        """Return the number of findings in a normal scan with at least this strength.

        Between rates its logarithm is interpolated along that of the rate; beyond them the
        nearest rate counts.
        """
        position = np.interp(
            -math.log(false_positive_rate),
            [-math.log(rate) for rate in self.rates],
            range(len(self.rates)),
        )
        low = int(position)
        high = min(low + 1, len(self.rates) - 1)
        part = float(position) - low
        below, above = self._at(low, strength), self._at(high, strength)
        return float(below ** (1 - part) * above**part)

    def _at(self, index: int, strength: float) -> float:
        """Return the expected number at a rate of `rates`.

        If n + 1 scans are alike, one of them has on average m/(n + 1) of the m strongest of
        all findings. So a finding that k held-out ones reach has (k + 1)/(n + 1), itself
        included; between two held-out ones that is interpolated, and beyond the strongest it
        falls with a power of the strength: Hill's estimate (1975) of the exponent, shrunk.
        """
        ranks, strengths = self.ranks[index], self.strengths[index]
        if not ranks:
            return 1 / (1 + self.scans)
        logs = [math.log(one) for one in strengths]
        log = math.log(strength) if strength > 0 else -math.inf
        counts = [(rank + 0.5) / (1 + self.scans) for rank in ranks]
        if log <= logs[0]:
            reach = [-one for one in logs]
            return float(np.exp(np.interp(-log, reach, np.log(counts))))
        used = logs[: _TAIL_FINDINGS + 1]
        gaps = [one - used[-1] for one in used[:-1]]
        scale = (sum(gaps) + _PRIOR_SCALE * _PRIOR_FINDINGS) / (len(gaps) + _PRIOR_FINDINGS)
        return max(self.least, counts[0] * math.exp((logs[0] - log) / scale))


def _is_ranking(ranks: Sequence[int], strengths: Sequence[float]) -> bool:
    return (
        len(ranks) == len(strengths)
        and (not ranks or (ranks[0] == 1 and strengths[-1] > 0 and math.isfinite(strengths[0])))
        and all(a < b for a, b in pairwise(ranks))
        and all(a >= b for a, b in pairwise(strengths))
    )


def _kept_ranks(count: int) -> tuple[int, ...]:
    """Return 1, 2, … and, once they are closer than `KEPT_RATIO`, ranks that far apart."""
    ranks: list[int] = []
    while (last := ranks[-1] if ranks else 0) < count:
        ranks.append(min(count, max(last + 1, int(last * KEPT_RATIO))))
    return tuple(ranks)
