"""What the calibration promises of a threshold and of a whole scan, in the user's words."""

from slicer.i18n import tr as _

from SpatialARAnomalyLib.engine.cards.calibration import (
    ENOUGH_NORMALS,
    MIN_NORMALS,
    Calibration,
    least_case_p,
)
from SpatialARAnomalyLib.service.text import size_number


def caseText(calibration: Calibration, score: float | None) -> str:
    """`p = 0.03 (12 normal scans)`, or why there is none."""
    if score is None or not calibration.case_scores:
        return _("no p-value: made before case scores were kept")
    p = calibration.case_p_value(score)
    if p is None:
        return _(
            "no p-value: the model has {count} held-out normal scans, it takes {least}"
        ).format(count=calibration.volumes, least=MIN_NORMALS)
    sign = "≤" if p <= least_case_p(calibration.volumes) else "="
    text = _("p {sign} {p} ({count} normal scans)").format(
        sign=sign, p=f"{p:.2g}", count=calibration.volumes
    )
    return f"{text} · {_('rough')}" if calibration.is_rough else text


def caseTip(calibration: Calibration) -> str:
    """What the case p-value means."""
    tip = _(
        "How often a normal scan is, as a whole, at least as unlikely as this one: its highest "
        "hundredth of voxels is compared with that of {count} normal scans the model was not "
        "trained on. p = 0.03 means 3 in 100 normal scans. It says nothing of where or what; a "
        "small finding can be real with any p, and another scanner makes p small, too."
    ).format(count=calibration.volumes)
    return f"{tip} {_fewNormals(calibration)}".strip()


def rateTip(calibration: Calibration, rate: float) -> str:
    """What share of voxels new normal scans may show at the threshold of a rate."""
    interval = calibration.rate_interval(rate)
    if interval is None:
        if calibration.volumes < 2:
            return _("How much other normal scans show is unknown: one scan tells nothing of them.")
        return _("How much other normal scans show at this threshold is unknown.")
    tip = _(
        "A new normal scan shows between {low} and {high} of its voxels, on average between "
        "{meanLow} and {meanHigh} (95 % sure)."
    ).format(
        low=share(interval.scan[0]),
        high=share(interval.scan[1]),
        meanLow=share(interval.mean[0]),
        meanHigh=share(interval.mean[1]),
    )
    return f"{tip} {_fewNormals(calibration)}".strip()


def cardText(calibration: Calibration) -> str:
    """What a model's card says of its calibration."""
    interval = calibration.rate_interval(0.01)
    parts = []
    if interval is not None:
        parts.append(
            _("At a rate of 1 % new normal scans show {low} to {high} on average.").format(
                low=share(interval.mean[0]), high=share(interval.mean[1])
            )
        )
    few = _fewNormals(calibration)
    return " ".join([*parts, few] if few else parts)


def share(value: float) -> str:
    """`0.12 %`."""
    return f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %"


def _fewNormals(calibration: Calibration) -> str:
    if not calibration.is_rough:
        return ""
    return _("Rates and p-values are rough with fewer than {enough} held-out normal scans.").format(
        enough=ENOUGH_NORMALS
    )


def durationText(seconds: float) -> str:
    """A time, as exact as an estimate is."""
    if seconds < 90:
        return _("{number} s").format(number=max(1, round(seconds)))
    if seconds < 5400:
        return _("{number} min").format(number=round(seconds / 60))
    return _("{number} h").format(number=f"{seconds / 3600:.1f}")


def sizeText(sizeBytes: float, approximate: bool = False) -> str:
    """A size in the unit that fits: `86.4 MB`."""
    number, unit = size_number(sizeBytes)
    text = {"GB": _("{number} GB"), "MB": _("{number} MB")}[unit].format(number=number)
    return f"~{text}" if approximate else text
