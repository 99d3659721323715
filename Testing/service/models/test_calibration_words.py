"""The words for a calibration name its scans, how rough it is, and why something is missing."""

import dataclasses

import numpy as np
import pytest
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.calibration_fit import fit_calibration
from SpatialARAnomalyLib.service.detection.detect import report_few_normals
from SpatialARAnomalyLib.service.models.wording import case_basis, case_text, rates_text


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
    assert [line.split(":")[0] for line in lines] == ["0.1", "0.01", "0.001", "0.0001"][
        : len(lines)
    ]
    interval = of_twelve.rate_interval(0.01)
    assert f"{interval.mean[0]:.2g} to {interval.mean[1]:.2g} on average" in lines[1]
    assert f"{interval.scan[0]:.2g} to {interval.scan[1]:.2g} in one scan" in lines[1]


def test_the_case_is_told_with_its_scans():
    of_twelve = calibration(12)
    p = of_twelve.case_p_value(of_twelve.case_scores[-2])
    assert case_text(of_twelve, p).startswith(
        f"Case: p = {p:.2g} (12 held-out normal scans, rough below 20)"
    )
    assert case_text(of_twelve, of_twelve.case_p_value(1e9)).startswith("Case: p ≤ 0.0077 (12")
    assert "rough" not in case_text(calibration(20), 0.5)
    assert case_basis(calibration(20)) == "from 20 held-out normal scans; never less than 0.0048"


def test_what_is_missing_is_told_with_its_reason():
    alone = calibration(1)
    assert rates_text(alone) == "unknown: needs 2 held-out normal scans; found 1"
    assert case_text(alone, alone.case_p_value(5.0)) == (
        "Case p-value: none: needs 3 held-out normal scans; found 1."
    )
    old = dataclasses.replace(calibration(12), rates=(), volume_shares=(), case_scores=())
    assert "made before" in rates_text(old)
    assert "made before" in case_text(old, old.case_p_value(5.0))
    coarse = dataclasses.replace(calibration(12), tokens=12)
    assert rates_text(coarse) == "unknown: too few tokens in the held-out normal scans"


@pytest.mark.parametrize(("volumes", "notices"), [(1, 1), (19, 1), (20, 0)])
def test_few_normals_are_noticed(volumes, notices):
    reporter = Notices()
    report_few_normals(calibration(volumes), reporter)
    assert len(reporter.notices) == notices
    for code, text in reporter.notices:
        assert code == "few-normals"
        assert f"{volumes} held-out normal scan{'' if volumes == 1 else 's'}, fewer than 20" in text
