"""Texts of the panel for calibrations, durations and sizes."""

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.cards.calibration import (
    ENOUGH_NORMALS,
    MIN_NORMALS,
    Calibration,
    least_case_p,
)
from SpatialARAnomalyLib.service.text import size_number


def caseText(calibration: Calibration, score: float | None) -> str:
    """Return `p = 0.03 (12 normal scans)`, or why there is no p-value."""
    if score is None or not calibration.case_scores:
        return _("no p-value: the model has no case scores")
    p = calibration.case_p_value(score)
    if p is None:
        text = _("no p-value: {count} held-out normal scans, at least {least} are needed")
        return text.format(count=calibration.volumes, least=MIN_NORMALS)
    sign = "≤" if p <= least_case_p(calibration.volumes) else "="
    text = _("p {sign} {p} ({count} normal scans)").format(
        sign=sign, p=f"{p:.2g}", count=calibration.volumes
    )
    return f"{text} · {_('rough')}" if calibration.is_rough else text


def caseTip(calibration: Calibration) -> str:
    """Explain the case p-value."""
    tip = _(
        "Share of normal scans whose case score is at least as high. The score is the mean NLL of "
        "the highest hundredth of voxels above the median, compared with {count} held-out normal "
        "scans. p = 0.03 means 3 in 100 normal scans. A small finding can be real with any p."
    ).format(count=calibration.volumes)
    return f"{tip} {_fewNormals(calibration)}".strip()


def rateTip(calibration: Calibration, rate: float) -> str:
    """Return the interval of the false-positive rate in new normal scans."""
    interval = calibration.rate_interval(rate)
    if interval is None:
        if calibration.volumes < 2:
            return _("The rate in other normal scans is unknown: there is one held-out scan.")
        return _("The rate in other normal scans at this threshold is unknown.")
    tip = _(
        "A new normal scan has between {low} and {high} of its voxels above the threshold, on "
        "average between {meanLow} and {meanHigh} (95 % intervals)."
    ).format(
        low=share(interval.scan[0]),
        high=share(interval.scan[1]),
        meanLow=share(interval.mean[0]),
        meanHigh=share(interval.mean[1]),
    )
    return f"{tip} {_fewNormals(calibration)}".strip()


def cardText(calibration: Calibration) -> str:
    """Summarize the calibration for a model's card."""
    interval = calibration.rate_interval(0.01)
    parts = []
    if interval is not None:
        parts.append(
            _("At a rate of 1 %, new normal scans have {low} to {high} on average.").format(
                low=share(interval.mean[0]), high=share(interval.mean[1])
            )
        )
    return " ".join(filter(None, [*parts, _fewNormals(calibration)]))


def share(value: float) -> str:
    """Return a share as `0.12 %`."""
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def _fewNormals(calibration: Calibration) -> str:
    if not calibration.is_rough:
        return ""
    return _("Rates and p-values are rough with fewer than {enough} held-out normal scans.").format(
        enough=ENOUGH_NORMALS
    )


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
