"""Texts of the panel for calibrations, durations and sizes."""

from collections.abc import Mapping
from typing import Any

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.cards.calibration import (
    ENOUGH_NORMALS,
    MIN_NORMALS,
    Calibration,
    least_case_p,
)
from SpatialARAnomalyLib.service.text import number_text, size_number


def caseText(calibration: Calibration, score: float | None) -> str:
    """Return `3 % of normal scans look as unusual`, or why no p-value is known."""
    if score is None or not calibration.case_scores:
        return _("unknown: the model has no case scores")
    p = calibration.case_p_value(score)
    if p is None:
        text = _("unknown: {count} held-out normal scans, at least {least} are needed")
        return text.format(count=calibration.volumes, least=MIN_NORMALS)
    text = _("{share} of normal scans look as unusual")
    if p <= least_case_p(calibration.volumes):
        text = _("at most {share} of normal scans look as unusual")
    text = text.format(share=share(p))
    return _("{text} (rough estimate)").format(text=text) if calibration.is_rough else text


def caseTip(calibration: Calibration) -> str:
    """Explain the case p-value."""
    tip = _(
        "Case p-value: share of normal scans whose case score is at least as high. The score is "
        "the mean NLL of the highest hundredth of voxels above the median, compared with {count} "
        "held-out normal scans. It is no probability of disease: a small finding can be real with "
        "any value."
    ).format(count=calibration.volumes)
    return f"{tip} {_fewNormals(calibration)}".strip()


def rateTip(calibration: Calibration, rate: float) -> str:
    """Return the threshold's NLL, and the interval of its rate in new normal scans."""
    nll = _("NLL of at least {nll} nats per channel.").format(
        nll=f"{calibration.threshold(rate):.3f}"
    )
    interval = calibration.rate_interval(rate)
    if interval is None or interval.is_wide:
        unknown = _("The rate in other normal scans at this threshold is unknown.")
        return f"{nll} {unknown} {_fewNormals(calibration)}".strip()
    tip = _(
        "A new normal scan has between {low} and {high} of its voxels above the threshold, on "
        "average between {meanLow} and {meanHigh} (95 % intervals)."
    ).format(
        low=share(interval.scan[0]),
        high=share(interval.scan[1]),
        meanLow=share(interval.mean[0]),
        meanHigh=share(interval.mean[1]),
    )
    return f"{nll} {tip} {_fewNormals(calibration)}".strip()


def expectedCell(calibration: Calibration, expected: float | None) -> float | str:
    """Return the findings in a normal scan for a table, in which they are sorted by number."""
    if expected is None or calibration.findings is None:
        return ""
    text = number_text(expected, calibration.findings.least)
    return text if text.startswith("<") else float(text)


def findingTip(calibration: Calibration, row: Mapping[str, Any]) -> str:
    """Explain a finding's number in normal scans, and give its NLL in nats."""
    if row["per_normal_scan"] is None or calibration.findings is None:
        known = _("Unknown: the model was made before findings were counted. Train it again.")
    else:
        known = _(
            "A normal scan has {number} findings like this or stronger at this threshold ({basis})."
        ).format(
            number=number_text(row["per_normal_scan"], calibration.findings.least),
            basis=basisText(calibration),
        )
    nll = _("NLL in nats per channel: peak {peak}, mean {mean}.").format(
        peak=f"{row['peak_nll']:.3f}", mean=f"{row['mean_nll']:.3f}"
    )
    return f"{known} {nll}"


def cardText(calibration: Calibration) -> str:
    """Summarize the calibration for a model's card."""
    interval = calibration.rate_interval(0.01)
    parts = []
    if interval is not None and not interval.is_wide:
        parts.append(
            _("At a rate of 1 %, new normal scans have {low} to {high} on average.").format(
                low=share(interval.mean[0]), high=share(interval.mean[1])
            )
        )
    return " ".join(filter(None, [*parts, _fewNormals(calibration)]))


def share(value: float) -> str:
    """Return a share as `0.12 %`."""
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def basisText(calibration: Calibration) -> str:
    """Return `from 20 normal scans`, or `rough estimate from 2 normal scans`."""
    if calibration.volumes == 1:
        return _("rough estimate from 1 normal scan")
    text = _("from {count} normal scans")
    if calibration.is_rough:
        text = _("rough estimate from {count} normal scans")
    return text.format(count=calibration.volumes)


def _fewNormals(calibration: Calibration) -> str:
    if not calibration.is_rough:
        return ""
    advice = _("train on more, until {enough} are held out").format(enough=ENOUGH_NORMALS)
    return f"{basisText(calibration).capitalize()}; {advice}."


def durationText(seconds: float) -> str:
    """Return a duration in s, min or h, rounded as an estimate."""
    if seconds < 90:
        return _("{number} s").format(number=max(1, round(seconds)))
    if seconds < 5400:
        return _("{number} min").format(number=round(seconds / 60))
    return _("{number} h").format(number=f"{seconds / 3600:.1f}")


def sizeText(sizeBytes: float, approximate: bool = False) -> str:
    """Return a size in MB or GB: `86.4 MB`."""
    number, unit = size_number(sizeBytes)
    text = {"GB": _("{number} GB"), "MB": _("{number} MB")}[unit].format(number=number)
    return f"~{text}" if approximate else text
