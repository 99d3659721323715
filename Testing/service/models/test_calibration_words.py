"""The words for a calibration name its scans, how rough it is, and why something is missing."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.cards.finding_counts import FindingCounts
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import fit_calibration
from SpatialARAnomalyLib.service.detection.detect import report_few_normals
from SpatialARAnomalyLib.service.models.wording import (
    case_basis,
    case_text,
    expected_text,
    findings_basis,
    rates_text,
)
from SpatialARAnomalyLib.service.text import number_text, rate_text


def calibration(volumes: int):
    random = np.random.RandomState(volumes)
    samples = [random.gamma(3.0, 1 + 0.1 * random.normal(), size=8000) for _ in range(volumes)]
    return fit_calibration(samples, samples)


class Notices(SilentReporter):
    def __init__(self) -> None:
        self.notices = []

    def notice(self, code: str, text: str) -> None:
        self.notices.append((code, text))


def test_rates_are_told_with_their_interval():
    of_twelve = calibration(12)
    lines = rates_text(of_twelve).splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == ["0.1", "0.01", "0.001"]
    assert lines[-1] == (
        "rough: 12 held-out normal scans; train on more normal scans, until 20 are held out"
    )
    interval = of_twelve.rate_interval(0.01)
    assert f"{interval.mean[0]:.2g} to {interval.mean[1]:.2g} on average" in lines[1]
    assert f"{interval.scan[0]:.2g} to {interval.scan[1]:.2g} in one scan" in lines[1]


def test_the_case_is_told_with_its_scans():
    of_twelve = calibration(12)
    p = of_twelve.case_p_value(of_twelve.case_scores[-2])
    assert case_text(of_twelve, p).startswith(
        f"Case: p = {p:.2g} (rough: 12 held-out normal scans)"
    )
    assert case_text(of_twelve, of_twelve.case_p_value(1e9)).startswith(
        "Case: p ≤ 0.0077 (rough: 12"
    )
    assert "rough" not in case_text(calibration(20), 0.5)
    assert case_basis(calibration(20)) == "from 20 held-out normal scans; never less than 0.0048"


def test_what_is_missing_is_told_with_its_reason():
    alone = calibration(1)
    assert rates_text(alone).startswith("rough: 1 held-out normal scan; train on more")
    assert case_text(alone, alone.case_p_value(5.0)) == (
        "Case p-value: none: needs 3 held-out normal scans; found 1."
    )
    old = dataclasses.replace(calibration(12), rates=(), volume_shares=(), case_scores=())
    assert "made before" in rates_text(old)
    assert "made before" in case_text(old, old.case_p_value(5.0))
    coarse = dataclasses.replace(calibration(12), tokens=12)
    assert rates_text(coarse) == "unknown: too few tokens in the held-out normal scans"


def test_an_interval_that_says_nothing_is_not_shown():
    of_two = calibration(2)
    random = np.random.RandomState(0)
    unlike = [random.gamma(3.0, scale, size=8000) for scale in (0.5, 2.0)]
    of_two = fit_calibration(unlike, unlike)
    assert of_two.rate_interval(0.01).is_wide
    assert rates_text(of_two).startswith("rough: 2 held-out normal scans; train on more")


def test_a_number_of_findings_is_told_as_exactly_as_it_is_known():
    texts = [
        number_text(one, 0.048) for one in (1e-9, 0.048, 0.0481, 0.16, 0.97, 1.44, 9.96, 213.4)
    ]
    assert texts == ["< 0.05", "< 0.05", "0.05", "0.2", "1", "1.4", "10", "213"]
    assert [rate_text(one) for one in (0.1, 0.003, 1e-5)] == ["1 in 10", "1 in 333", "1 in 100,000"]


def test_findings_of_a_model_of_before_are_not_calibrated():
    old = calibration(12)
    assert findings_basis(old) == "none: the model was made before they were counted; train again"
    counts = FindingCounts.of((0.1,), [[[1.0]]] * 12)
    now = dataclasses.replace(old, findings=counts)
    assert findings_basis(now) == "rough: 12 held-out normal scans"
    finding = SimpleNamespace(per_normal_scan=counts.expected(1.0, 0.1))
    assert expected_text(finding, now) == "1"
    assert expected_text(finding, old) == "unknown"


@pytest.mark.parametrize(("volumes", "notices"), [(1, 1), (19, 1), (20, 0)])
def test_few_normals_are_noticed(volumes, notices):
    reporter = Notices()
    report_few_normals(calibration(volumes), reporter)
    assert len(reporter.notices) == notices
    for code, text in reporter.notices:
        assert code == "few-normals"
        assert f"on {volumes} held-out normal scan{'' if volumes == 1 else 's'}; 20 are" in text
