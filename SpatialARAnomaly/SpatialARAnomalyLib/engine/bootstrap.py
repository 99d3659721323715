"""Intervals of a metric, by drawing patients again and again.

Percentiles of the bootstrap (Efron & Tibshirani 1993, chapter 13).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

CONFIDENCE = 0.95

LEAST_USABLE = 0.5
"""No interval where the metric is undefined in more than this share of the resamples."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The middle 95 % of a metric's values over resamples."""

    low: float
    high: float
    resamples: int
    """Those in which the metric is defined, which the interval rests on."""


def patient_weights(
    patients: Sequence[str], resamples: int, seed: int
) -> Iterator[Float[np.ndarray, " n"]]:
    """How often each scan is in a resample: all scans of a patient as often as the patient.

    Of p patients p are drawn with replacement.
    """
    names, patient_of = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        drawn = generator.integers(names.size, size=names.size)
        yield np.bincount(drawn, minlength=names.size)[patient_of].astype(np.float64)


def interval(values: Sequence[float], resamples: int) -> Interval | None:
    """The interval of a metric from its values where it is defined, of so many resamples."""
    if not values or len(values) < LEAST_USABLE * resamples:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [tail, 1 - tail]).tolist()
    return Interval(low=low, high=high, resamples=len(values))
