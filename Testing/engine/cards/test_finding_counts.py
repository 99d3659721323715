"""Expected numbers of findings are those of counting, fall with strength, and hold on new scans."""

import dataclasses
import json
import math

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.cards.finding_counts import BEYOND, FindingCounts
from SpatialARAnomalyLib.engine.errors import SpecError

RATES = (0.1, 0.01, 0.001)


def simulate(random: np.random.Generator, scans: int, mean: float = 3.0, spread: float = 0.0):
    """Log-normal strengths of every scan; scans differ in number and scale by `spread`."""
    numbers = random.poisson(mean * np.exp(spread * random.normal(size=scans) - spread**2 / 2))
    return [np.exp(1.2 * random.normal(size=n) + spread * random.normal()) for n in numbers]


def counts_of(scans) -> FindingCounts:
    """The counts of scans with the same findings at every rate."""
    return FindingCounts.of(RATES, [[one.tolist()] * len(RATES) for one in scans])


@pytest.fixture(scope="module")
def scans():
    return simulate(np.random.default_rng(0), 400)


@pytest.fixture(scope="module")
def counts(scans) -> FindingCounts:
    return counts_of(scans)


def test_with_many_normals_it_is_the_count(scans, counts):
    pooled = np.concatenate(scans)
    for strength in np.quantile(pooled, [0.0, 0.01, 0.3, 0.7, 0.95, 0.99]):
        exact = np.count_nonzero(pooled >= strength) / len(scans)
        assert counts.expected(float(strength), 0.01) == pytest.approx(
            exact, rel=0.05, abs=1.5 / 401
        )


def test_it_falls_with_strength_and_is_never_zero(counts):
    values = [counts.expected(one, 0.003) for one in np.logspace(-4, 8, 500).tolist()]
    assert (np.diff(values) <= 0).all()
    assert values[-1] == counts.least == 1 / (BEYOND * 401)
    assert counts.expected(0.0, 0.01) == values[0]
    strongest = counts.strengths[0][0]
    assert counts.expected(strongest, 0.01) == pytest.approx(1.5 / 401)
    assert counts.expected(strongest * 1.001, 0.01) == pytest.approx(1.5 / 401, rel=0.01)


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("held_out", [3, 8, 20])
def test_it_holds_on_new_normal_scans(held_out, spread):
    """A new normal scan has on average about x findings with an expected number of at most x."""
    random = np.random.default_rng(held_out)
    reached = {0.1: 0, 0.3: 0, 1.0: 0}
    models, fresh = 150, 4
    for _ in range(models):
        counts = counts_of(simulate(random, held_out, spread=spread))
        for scan in simulate(random, fresh, spread=spread):
            expected = [counts.expected(one, 0.01) for one in scan.tolist()]
            for x in reached:
                reached[x] += sum(one <= x for one in expected)
    for x, total in reached.items():
        assert x / 4 < total / (models * fresh) < 1.6 * x


def test_without_findings_it_is_what_so_many_scans_can_show():
    empty = counts_of([np.empty(0)] * 4)
    assert empty.expected(1.0, 0.01) == empty.expected(1e9, 1e-6) == 1 / 5
    assert counts_of([np.array([0.0, 2.0])]).ranks[0] == (1,)  # no strength, no finding


def test_between_rates_it_is_interpolated_and_beyond_them_the_nearest_counts():
    few, many = [8.0], np.linspace(1, 8, 30).tolist()
    counts = FindingCounts.of((0.1, 0.001), [[many, few], [many, few]])
    high, low = counts.expected(4.0, 0.1), counts.expected(4.0, 0.001)
    assert counts.expected(4.0, 0.01) == pytest.approx(math.sqrt(high * low))
    assert (counts.expected(4.0, 0.9), counts.expected(4.0, 1e-7)) == (high, low)


def test_the_table_stays_small_and_survives_json():
    random = np.random.default_rng(1)
    large = counts_of([random.pareto(1.0, 2000) for _ in range(3)])
    assert large.ranks[0][:12] == tuple(range(1, 13))
    assert large.ranks[0][-1] == 6000
    assert len(large.ranks[0]) < 90
    assert FindingCounts.from_dict(json.loads(json.dumps(large.to_dict()))) == large


@pytest.mark.parametrize(
    "change",
    [
        {"scans": 0},
        {"rates": (0.01, 0.1, 0.001)},
        {"rates": (0.1,)},
        {"ranks": ((1, 1), (), ()), "strengths": ((2.0, 1.0), (), ())},
        {"ranks": ((2,), (), ()), "strengths": ((2.0,), (), ())},
        {"ranks": ((1, 2), (), ()), "strengths": ((1.0, 2.0), (), ())},
        {"ranks": ((1,), (), ()), "strengths": ((0.0,), (), ())},
    ],
)
def test_impossible_tables_are_errors(change):
    empty = counts_of([np.empty(0)])
    with pytest.raises(SpecError):
        dataclasses.replace(empty, **change)
