"""Comparison of a whole scan with the normal scans of a model.

A scan is described by its `Look`: its contrast, the shape of its body, and the mean token of
every slice. Each of the three has a Gaussian of the normal scans (`Spread`); the distances of
normal scans from the Gaussian of the others say which distance is usual.

`engine.scoring.suitability_fit` makes these. Importing this module needs numpy only.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from SpatialARAnomalyLib.engine.cards.calibration import MIN_NORMALS, case_p_value
from SpatialARAnomalyLib.engine.specs import Spec

UNLIKE_P = 0.05
"""A scan is unlike the normal scans at or below this p-value: 1 in 20 normal scans is, too."""

MEASURES = ("contrast", "shape", "tokens")
"""Measures of a scan: brightness and sharpness, height and width of the body, and its tokens."""

USUAL_STEP = 0.15
"""Assumed standard deviation of a distance's logarithm between normal scans."""

ASSUMED_SCANS = 5
"""Weight of `USUAL_STEP`, in scans: with few scans their own deviation is uncertain."""

_MAX_STEPS = 50.0
"""Largest excess that counts, which keeps exponentials finite."""


MAX_OTHERS = 1000
"""Normal scans with which one of them is compared: evenly spaced ones of more, whose pairs would
take longer than reading them."""


@dataclass(frozen=True, eq=False)
class Look:
    """A scan as a whole."""

    contrast: np.ndarray
    """Float array [n, values], a row per measured slice."""
    shape: np.ndarray
    """Float array [1, values]."""
    tokens: np.ndarray = dataclasses.field(default_factory=lambda: np.empty((0, 0), np.float32))
    """Mean tokens [n, channels], a row per slice; empty before the scan is embedded."""

    def rows(self, measure: str) -> np.ndarray:
        """Return the values of one of `MEASURES`."""
        return np.asarray(getattr(self, measure), dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class Spread(Spec):
    """A Gaussian whose covariance has a few directions, and one variance for all others."""

    mean: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...]
    """Orthonormal; may be none."""
    variances: tuple[float, ...]
    """Variance along each direction."""
    rest: float
    """Variance along every other direction."""

    def __post_init__(self) -> None:
        self._require(
            len(self.directions) == len(self.variances)
            and all(len(one) == len(self.mean) for one in self.directions),
            "directions must have the length of mean, and a variance each",
        )
        self._require(self.rest > 0 and all(one > 0 for one in self.variances), "rest must be > 0")

    def distance(self, rows: np.ndarray) -> float:
        """Return the mean distance of rows, 1 for rows that are distributed as this."""
        away = rows - np.array(self.mean)
        along = away @ np.array(self.directions).reshape(-1, len(self.mean)).T
        squares = (along**2 / np.array(self.variances)).sum(axis=1)
        squares += np.maximum((away**2).sum(axis=1) - (along**2).sum(axis=1), 0.0) / self.rest
        return float(np.sqrt(squares / len(self.mean)).mean())


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The comparison of a scan with the normal scans."""

    p_value: float
    """Share of normal scans that lie at least as far from the others."""
    measure: str
    """The one of `MEASURES` by which it lies furthest."""
    factor: float
    """Distance by that measure, in units of the usual one of normal scans."""
    normals: int
    """Number of normal scans that were compared."""

    @property
    def unlike(self) -> bool:
        """True if the scan does not look like the normal scans."""
        return self.p_value <= UNLIKE_P


@dataclass(frozen=True, kw_only=True)
class Suitability(Spec):
    """The looks of a model's normal scans, trained on and held out (no encoder learned them)."""

    contrast: Spread
    shape: Spread
    tokens: Spread
    distances: tuple[tuple[float, ...], ...]
    """Distances of every normal scan from the others, by `MEASURES`."""

    def __post_init__(self) -> None:
        self._require(
            all(len(one) == len(MEASURES) and min(one) > 0 for one in self.distances),
            "distances must hold a positive number for each measure",
        )

    def verdict(self, look: Look) -> Verdict | None:
        """Compare a scan with the normal scans; None with fewer than three of them."""
        found = [getattr(self, name).distance(look.rows(name)) for name in MEASURES]
        return verdict_of(found, self.distances, MEASURES)


def verdict_of(
    found: Sequence[float], distances: Sequence[Sequence[float]], measures: Sequence[str]
) -> Verdict | None:
    """Compare a scan's distances with those of normal scans, all measures together.

    By how much a distance exceeds the usual one counts in standard deviations of its logarithm;
    those of the measures are added as sides of a right angle. The sum is compared with that of
    every normal scan, so several measures give no more false alarms than one. None with fewer
    normal scans than a p-value needs.
    """
    count = len(distances)
    if count < MIN_NORMALS:
        return None
    logs = _logarithms(distances)
    usual = logs.mean(axis=0)
    assumed = ASSUMED_SCANS * USUAL_STEP**2
    steps = np.sqrt((((logs - usual) ** 2).sum(axis=0) + assumed) / (count - 1 + ASSUMED_SCANS))
    excess = np.maximum((_logarithms([found]) - usual) / steps, 0.0)
    # Each normal scan is compared with the mean of the others.
    normal = np.maximum((logs - usual) * count / (count - 1) / steps, 0.0)
    p_value = case_p_value(
        math.exp(min(float(np.linalg.norm(excess)), _MAX_STEPS)),
        np.exp(np.linalg.norm(normal, axis=1)).tolist(),
    )
    assert p_value is not None
    furthest = int(excess.argmax())
    return Verdict(
        p_value=p_value,
        measure=measures[furthest],
        factor=float(found[furthest] / np.median([one[furthest] for one in distances])),
        normals=count,
    )


def _logarithms(distances: Sequence[Sequence[float]]) -> np.ndarray:
    """Return logarithms that hardly fall below the usual distance, where less means nothing."""
    return np.asarray(0.5 * np.log(0.5 + np.square(distances)))


def verdicts(distances: Sequence[Sequence[float]], measures: Sequence[str]) -> list[Verdict | None]:
    """Compare each normal scan with the others by their distances, with at most `MAX_OTHERS`."""
    found = []
    for number, one in enumerate(distances):
        others = [*distances[:number], *distances[number + 1 :]]
        found.append(verdict_of(one, others[:: -(-len(others) // MAX_OTHERS) or 1], measures))
    return found
