"""From heads to a ranking: means over families, intervals over patients, differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from Benchmark.suite.heads import Head
from Benchmark.suite.trial import Trial
from scipy import stats

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its interval by resampling the patients."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f}–{self.high:.3f})"


def estimate(
    values: Mapping[Head, float], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Average over heads within a family, then over families; resample heads within each family.

    Heads whose value is NaN are left out; without any, all is NaN. Every head is a patient. The
    same heads and seed give the same draws, so that differences of methods are paired.
    """
    families: dict[str, list[float]] = {}
    for head, value in values.items():
        if not np.isnan(value):
            families.setdefault(head.family, []).append(value)
    if not families:
        return Estimate(mean=float("nan"), low=float("nan"), high=float("nan"))
    rng = np.random.default_rng(seed)
    means, drawn = [], []
    for name in sorted(families):
        one = np.array(families[name])
        means.append(one.mean())
        drawn.append(one[rng.integers(len(one), size=(resamples, len(one)))].mean(axis=1))
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(np.mean(drawn, axis=0), (tail, 100 - tail))
    return Estimate(mean=float(np.mean(means)), low=float(low), high=float(high))


FIGURES = ("average_precision", "auroc", "pro", "best_dice")
SHADOWS = ("against_mirror", "against_twin", "disturbance", "response")


def of_figure(trial: Trial, name: str, family: str | None = None) -> dict[Head, float]:
    """Collect one figure, or shadow, of every anomalous head (of a family)."""
    table = trial.shadows if name in SHADOWS else trial.figures
    return {
        head: getattr(one, name)
        for head, one in table.items()
        if family is None or head.family == family
    }


def difference(one: Mapping[Head, float], other: Mapping[Head, float]) -> Estimate:
    """Subtract head by head."""
    return estimate({head: value - other[head] for head, value in one.items()})


def uniformity(p_values: Sequence[float]) -> float:
    """Compute the Kolmogorov–Smirnov p of uniform p-values; NaN without any."""
    return float(stats.kstest(p_values, "uniform").pvalue) if len(p_values) else float("nan")
