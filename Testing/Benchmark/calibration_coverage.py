"""Coverage of the intervals and case p-values from few held-out normal scans: prints two tables.

    python Testing/Benchmark/calibration_coverage.py [--picture FILE]     # 3 minutes

Cohorts are simulated, so the truth is known. A scan's NLL is gamma-distributed (8 degrees). Its
scale differs between scans by 10 % (`alike`) or 30 % (`unlike`); or a part of the voxels, on
average 1 % and 0.1 to 10 % from scan to scan, has twice the scale (`rims`). Case scores are
log-normal, gamma-distributed (`skewed`) or have heavy tails (`heavy`, t with 4 degrees).

First table, at an asked rate of 0.01: the share of new normal scans inside the interval for one
scan; the share of cohorts whose mean over many new scans is inside the interval for the mean (both
should be 0.95 or a little more); that interval's ends divided by the asked rate (median); the mean
over new scans divided by the asked rate (median of cohorts) and the share of cohorts in which it is
above 1.5, with the threshold of `rates_of_others` and with that of all held-out scans pooled.
Second table: how often a normal scan gets p ≤ 0.05 and p ≤ 0.01, over all cohorts; the range for
p ≤ 0.05 of nine of ten models; and how often 60 fresh normal scans of one model pass as uniform
(Kolmogorov-Smirnov p > 0.01).
"""

import argparse
from pathlib import Path

import numpy as np
from scipy import stats
from SpatialARAnomalyLib.engine.cards.calibration import case_p_value, interval_of
from SpatialARAnomalyLib.engine.scoring.calibration_fit import rates_of_others

NORMALS = (2, 3, 5, 8, 12, 20, 40, 60)
COHORTS, FRESH = 200, 60
RATE, LEAST = 0.01, 1e-5
NLL = np.geomspace(2.0, 200.0, 400)
"""Rising thresholds at which shares are taken."""
COLORS = ("#1b7837", "#2166ac", "#b2182b")
WORLDS = ("alike", "rims", "unlike")


def above(world: str, random: np.random.Generator, scans: int):
    """Make a function: the share of each scan above an NLL."""
    size = (COHORTS, scans)
    scale = np.exp(random.normal(0, 0.3 if world == "unlike" else 0.1, size))
    part = np.clip(np.exp(random.normal(-4.6, 1.2, size)), 1e-3, 0.1) if world == "rims" else 0.0
    return lambda nll: (
        (1 - part) * stats.gamma.sf(nll / scale, 8) + part * stats.gamma.sf(nll / scale / 2, 8)
    )


def rate_row(world: str, normals: int, random: np.random.Generator) -> dict[str, float]:
    """Measure the coverage of a rate's intervals."""
    shares_above = above(world, random, normals + 1000)
    known = np.stack([shares_above(one)[:, :normals] for one in NLL], axis=-1)
    judged = [rates_of_others(cohort, [RATE]) for cohort in known]
    at = {"plain": np.full(COHORTS, RATE), "of others": np.array([one[0][0] for one in judged])}
    ratio = {}
    for way, asked in at.items():
        thresholds = [
            np.interp(rate, cohort.mean(axis=0)[::-1], NLL[::-1])
            for rate, cohort in zip(asked, known, strict=True)
        ]
        new = shares_above(np.array(thresholds)[:, None])[:, normals:]
        ratio[way] = new.mean(axis=1) / RATE
    one, mean, ends = [], [], []
    for cohort, (_, shares) in zip(new, judged, strict=True):
        interval = interval_of(RATE, shares[:, 0].tolist(), LEAST)
        one.append(np.mean((cohort >= interval.scan[0]) & (cohort <= interval.scan[1])))
        mean.append(interval.mean[0] <= cohort.mean() <= interval.mean[1])
        ends.append(interval.mean)
    low_end, high_end = np.median(ends, axis=0) / RATE
    return {
        "one": np.mean(one), "mean": np.mean(mean), "low": low_end, "high": high_end,
        "plain": np.median(ratio["plain"]), "others": np.median(ratio["of others"]),
        "plain above": np.mean(ratio["plain"] > 1.5),
        "others above": np.mean(ratio["of others"] > 1.5),
    }  # fmt: skip


LAWS = {
    "log-normal": stats.lognorm(0.3),
    "skewed": stats.gamma(4),
    "heavy": stats.t(4, loc=10),
}
"""Distributions of case scores; `heavy` is that of ten times their logarithm."""


def scores_of(law: str, size, random: np.random.Generator) -> np.ndarray:
    """Draw case scores above a least NLL of 0."""
    drawn = LAWS[law].rvs(size=size, random_state=random)
    return np.exp(drawn / 10) if law == "heavy" else drawn


def alarms(law: str, normals: list[float], alarm: float) -> float:
    """Compute how often a normal scan has p up to `alarm` with these held-out scores."""
    low, high = min(normals) / 10, max(normals) * 10
    for _ in range(30):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if case_p_value(middle, normals) <= alarm else (middle, high)
    if high > 9.9 * max(normals):
        return 0.0  # no score is high enough
    return float(LAWS[law].sf(10 * np.log(high) if law == "heavy" else high))


def case_row(law: str, normals: int, random: np.random.Generator) -> dict[str, float]:
    """Measure the p-values of cases."""
    rates, rare, passed = [], [], []
    for cohort in scores_of(law, (COHORTS, normals + FRESH), random).tolist():
        known, fresh = cohort[:normals], cohort[normals:]
        rates.append(alarms(law, known, 0.05))
        rare.append(alarms(law, known, 0.01))
        p = [case_p_value(score, known) for score in fresh]
        passed.append(stats.kstest(p, "uniform").pvalue > 0.01)
    low, high = np.quantile(rates, (0.05, 0.95))
    return {
        "0.05": np.mean(rates), "0.01": np.mean(rare), "low": low, "high": high,
        "passed": np.mean(passed),
    }  # fmt: skip


def draw(path: Path, rates: dict, cases: dict) -> None:
    """Draw both tables as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for world, color in zip(WORLDS, COLORS, strict=True):
        counts = [n for w, n in rates if w == world]
        rows = [rates[world, n] for n in counts]
        left.fill_between(
            counts, [r["low"] for r in rows], [r["high"] for r in rows], color=color, alpha=0.18,
            label=f"scans {world}" if world != "rims" else "scans with rims",
        )  # fmt: skip
        for end in ("low", "high"):
            left.plot(counts, [r[end] for r in rows], color=color, linewidth=1)
    left.axhline(1, color="black", linewidth=0.8)
    left.set(xscale="log", yscale="log", ylim=(0.05, 100), xlabel="held-out normal scans",
             ylabel="mean rate on new normals / rate asked",
             title="95 % interval of the false-positive rate")  # fmt: skip
    left.legend(frameon=False)
    for law, color in zip(LAWS, COLORS, strict=True):
        counts = [n for w, n in cases if w == law]
        rows = [cases[law, n] for n in counts]
        right.plot(counts, [r["0.05"] for r in rows], "o-", color=color, label=law)
        right.fill_between(
            counts, [r["low"] for r in rows], [r["high"] for r in rows], color=color, alpha=0.12
        )
    right.axhline(0.05, color="black", linewidth=0.8)
    right.set(xscale="log", ylim=(0, 0.3), xlabel="held-out normal scans",
              ylabel="normal scans with case p ≤ 0.05",
              title="All models (dots), nine of ten (band)")  # fmt: skip
    right.legend(frameon=False, title="case scores")
    for axes in (left, right):
        axes.set_xticks(NORMALS, [str(n) for n in NORMALS])
        axes.minorticks_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print both tables; draw them on request."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path)
    picture = parser.parse_args().picture
    random = np.random.default_rng(0)
    rates, cases = {}, {}
    print("| scans | held-out normals | one scan inside | mean inside | interval / rate "
          "| new / asked | above 1.5 | pooled: new / asked | above 1.5 |")  # fmt: skip
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for world in WORLDS:
        for normals in NORMALS:
            row = rates[world, normals] = rate_row(world, normals, random)
            print(f"| {world} | {normals} | {row['one']:.2f} | {row['mean']:.2f} "
                  f"| {row['low']:.2g} to {row['high']:.2g} "
                  f"| {row['others']:.2f} | {row['others above']:.2f} "
                  f"| {row['plain']:.2f} | {row['plain above']:.2f} |", flush=True)  # fmt: skip
    print()
    print("| case scores | held-out normals | p ≤ 0.05 | 9 of 10 models | p ≤ 0.01 | KS passed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for law in LAWS:
        for normals in NORMALS[1:]:
            row = cases[law, normals] = case_row(law, normals, random)
            print(f"| {law} | {normals} | {row['0.05']:.3f} "
                  f"| {row['low']:.3f} to {row['high']:.3f} "
                  f"| {row['0.01']:.3f} | {row['passed']:.2f} |", flush=True)  # fmt: skip
    if picture is not None:
        draw(picture, rates, cases)


if __name__ == "__main__":
    main()
