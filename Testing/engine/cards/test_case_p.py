"""The case p-value is uniform on normal scans, also with few of them, and falls with the score."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from SpatialARAnomalyLib.engine.cards.calibration import (
    MIN_NORMALS,
    PRIOR_SCANS,
    case_p_value,
    least_case_p,
)

DRAWS = {
    "log-normal": lambda random, size: np.exp(random.normal(0.0, 0.3, size)),
    "normal": lambda random, size: random.normal(10.0, 1.0, size),
    "skewed": lambda random, size: random.gamma(4.0, size=size),
    "heavy-tailed": lambda random, size: np.exp(0.1 * random.standard_t(4, size)),
    "bounded": lambda random, size: random.uniform(1.0, 2.0, size),
}
COHORTS = 600
ALPHA = 0.001
"""Of every single test: all of them together err in 2 %, and seeds are fixed."""


def p_values(scores: np.ndarray) -> np.ndarray:
    """The last of each row against the others."""
    rows = [(row[-1], row[:-1]) for row in scores.tolist()]
    return np.array([case_p_value(fresh, normals) for fresh, normals in rows])


@pytest.mark.parametrize("normals", [3, 5, 8, 20, 60])
def test_it_is_uniform_on_log_normal_scores(normals):
    """Many cohorts, one fresh normal each: what holds for whoever trains a model."""
    random = np.random.RandomState(normals)
    p = p_values(DRAWS["log-normal"](random, (COHORTS, normals + 1)))
    floor = least_case_p(normals)
    # What is held at the floor is spread below it, where no p may be.
    p = np.where(p == floor, floor * random.uniform(size=p.size), p)
    assert stats.kstest(p, "uniform").pvalue > ALPHA


@pytest.mark.parametrize("law", DRAWS)
@pytest.mark.parametrize("normals", [5, 20])
def test_whatever_the_scores_are_like_it_is_nearly_uniform(law, normals):
    """Off by at most 0.05 anywhere, beyond the noise of so many cohorts."""
    random = np.random.RandomState(100 + normals)
    p = np.sort(p_values(DRAWS[law](random, (COHORTS, normals + 1))))
    off = np.abs(np.arange(1, COHORTS + 1) / COHORTS - p).max()
    noise = stats.kstwo.ppf(1 - ALPHA, COHORTS)
    assert off < 0.05 + noise
    for alarm in (0.05, 0.1):
        assert np.mean(p <= alarm) < alarm + 0.01 + 3 * np.sqrt(alarm / COHORTS)


def test_it_is_uniform_on_fresh_normals_of_a_model_with_many_held_out():
    random = np.random.RandomState(8)
    normals = DRAWS["skewed"](random, 400).tolist()
    p = [case_p_value(one, normals) for one in DRAWS["skewed"](random, 200).tolist()]
    assert stats.kstest(p, "uniform").pvalue > 0.01


NORMALS = np.exp(np.random.RandomState(2).normal(0, 0.4, 12)).tolist()


def test_it_falls_with_the_score_without_a_jump():
    scores = np.linspace(0.01, 8.0, 800).tolist()
    values = [case_p_value(score, NORMALS) for score in scores]
    steps = [before - after for before, after in pairwise(values)]
    assert min(steps) >= -1e-12
    assert max(steps) < 0.03
    assert (values[0], values[-1]) == (pytest.approx(1.0, abs=1e-3), least_case_p(12))


def test_the_unit_of_the_score_does_not_matter():
    for score in (0.3, 0.9, 1.7, 3.0):
        scaled = case_p_value(7 * score, [7 * one for one in NORMALS])
        assert scaled == pytest.approx(case_p_value(score, NORMALS), rel=1e-9)
        assert case_p_value(score, NORMALS[::-1]) == case_p_value(score, NORMALS)


def test_at_a_held_out_score_it_is_the_weighted_mean_of_t_and_rank():
    """By scipy's t, of one more observation."""
    logs = np.log(NORMALS)
    spread = logs.std(ddof=1) * np.sqrt(1 + 1 / 12)
    for score in sorted(NORMALS)[:-1]:
        student = stats.t.sf((np.log(score) - logs.mean()) / spread, 11)
        rank = sum(one >= score for one in NORMALS) / 13
        expected = (PRIOR_SCANS * student + 13 * rank) / (PRIOR_SCANS + 13)
        assert case_p_value(score, NORMALS) == pytest.approx(expected, rel=1e-9)


def test_the_fewer_normals_the_wider():
    """The same mean and spread from more scans: the same high score is rarer."""
    score = 2.0
    values = []
    for normals in (3, 5, 9, 17, 33):
        logs = stats.norm.ppf((np.arange(normals) + 0.5) / normals)
        logs = 0.3 * logs / logs.std(ddof=1)
        values.append(case_p_value(score, np.exp(logs).tolist()))
    assert all(after < before for before, after in pairwise(values))
    assert values[0] > 0.08
    assert values[-1] < 0.03


@pytest.mark.parametrize("normals", range(MIN_NORMALS))
def test_with_too_few_normals_there_is_none(normals):
    assert case_p_value(5.0, [1.0] * normals) is None


def test_without_spread_scans_are_counted():
    assert case_p_value(2.0, [1.0] * 4) == 1 / 5
    assert case_p_value(1.0, [1.0] * 4) == 1.0
    assert case_p_value(0.5, [1.0] * 4) == 1.0
    assert case_p_value(3.0, [0.0, 1.0, 2.0]) == 1 / 4
    assert case_p_value(-1.0, NORMALS) == 1.0


def test_equal_scores_count_as_reached():
    tied = [1.0, 2.0, 2.0, 2.0, 3.0]
    assert case_p_value(2.0 - 1e-9, tied) >= case_p_value(2.0, tied)
    assert case_p_value(2.0, tied) > case_p_value(2.0 + 1e-9, tied) + 0.07
