"""The panel says how unusual a scan is as a whole, from how many normal scans, or why not."""

import dataclasses

import numpy as np
import pytest
from slicerapp.results import CASE_SCORE, add_result, calibration


@pytest.fixture
def words():
    from SpatialARAnomalyLib.slicerapp.wording import Calibration

    return Calibration


def shown(module, result) -> tuple[str, str]:
    module.widget.panel._parameters.resultVolume = result.volume
    from Harness.waiting import run_events

    run_events()
    label = module.ui.caseValueLabel
    return label.text, label.toolTip


def test_the_review_says_the_case_p_value(opened):
    result = add_result()
    assert result.caseScore == CASE_SCORE
    text, tip = shown(opened, result)
    p = calibration().case_p_value(CASE_SCORE)
    assert text == f"{100 * p:.2g} % of normal scans look as unusual (rough estimate)"
    assert "no probability of disease" in tip
    assert "compared with 3 held-out normal scans" in tip
    tip = opened.ui.thresholdValueLabel.toolTip
    interval = calibration().rate_interval(0.01)
    assert interval.is_wide == ("between" not in tip)
    assert "NLL of at least 2.000 nats per channel." in tip
    assert "Rough estimate from 3 normal scans; train on more, until 20 are held out." in tip


def test_a_result_of_before_says_that_it_has_none(opened):
    result = add_result()
    result.volume.RemoveAttribute("SpatialARAnomaly.CaseScore")
    text, _tip = shown(opened, result)
    assert text == "unknown: the model has no case scores"


def test_a_finding_is_told_by_those_of_normal_scans(opened, words):
    result = add_result()
    shown(opened, result)
    panel = opened.widget.panel.review
    row = panel._row(1)
    expected = calibration().findings.expected(row["strength"], 0.01)
    assert row["per_normal_scan"] == pytest.approx(expected, rel=1e-3)
    cell = opened.ui.findingsTable.item(panel.view.rowOf(1), 2)
    assert float(cell.text().strip("< ")) == pytest.approx(expected, rel=0.5)
    tip = cell.toolTip()
    assert "stronger at this threshold (rough estimate from 3 normal scans)" in tip
    assert "peak 4.500" in cell.toolTip()
    old = dataclasses.replace(calibration(), findings=None)
    assert words.expectedCell(old, None) == ""
    assert "Train it again." in words.findingTip(old, {**row, "per_normal_scan": None})


def test_words_follow_the_number_of_scans(words):
    few = dataclasses.replace(calibration(), volumes=2, volume_shares=(), case_scores=(1.0, 2.0))
    assert words.caseText(few, 1.5) == ("unknown: 2 held-out normal scans, at least 3 are needed")
    scores = tuple(np.linspace(1, 2, 20).tolist())
    many = dataclasses.replace(calibration(), volumes=20, volume_shares=(), case_scores=scores)
    assert words.caseText(many, 99.0) == "at most 0.48 % of normal scans look as unusual"
    assert "ough" not in words.caseTip(many)
    assert "unknown" in words.rateTip(many, 0.01)
    alone = dataclasses.replace(calibration(), volumes=1, volume_shares=(), case_scores=())
    assert "Rough estimate from 1 normal scan;" in words.rateTip(alone, 0.01)
    assert "Rough estimate from 1 normal scan;" in words.cardText(alone)
    assert words.cardText(many) == ""


def test_the_review_shows_the_cautions_of_a_result(opened):
    result = add_result(cautions=("scan-unlike", "case-least"))
    shown(opened, result)
    label = opened.ui.cautionsLabel
    assert label.text == "⚠ Text of scan-unlike.\n⚠ Text of case-least."
    assert label.isVisibleTo(opened.ui.reviewSection)
    other = add_result()
    shown(opened, other)
    assert not label.isVisibleTo(opened.ui.reviewSection)
