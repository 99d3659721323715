"""What a model's calibration promises, in words for a terminal."""

from ..engine.calibration import ENOUGH_NORMALS, Calibration
from ..engine.case_p import MIN_NORMALS, least_case_p

TOLD_RATES = (0.1, 0.01, 0.001, 0.0001)
"""Rates that a card tells of."""


def count_normals(calibration: Calibration) -> str:
    """`1 held-out normal scan`, `12 held-out normal scans`."""
    return f"{calibration.volumes} held-out normal scan{'' if calibration.volumes == 1 else 's'}"


def rates_text(calibration: Calibration) -> str:
    """What share of voxels new normal scans may show at each told rate, or why that is unknown."""
    if not calibration.volume_shares:
        return "unknown: the model was made before the spread between scans was kept"
    if calibration.volumes < 2:
        return "unknown: one held-out normal scan tells nothing of others"
    lines = []
    for rate in TOLD_RATES:
        interval = calibration.rate_interval(rate)
        if interval is not None:
            scan, mean = (
                f"{low:.2g} to {high:.2g}" for low, high in (interval.scan, interval.mean)
            )
            lines.append(f"{rate:g}: {mean} on average, {scan} in one scan")
    return "\n".join(lines) or "unknown: too few tokens in the held-out normal scans"


def case_basis(calibration: Calibration) -> str:
    """What case p-values rest on, or why there are none."""
    if not calibration.case_scores:
        return "none: the model was made before case scores were kept"
    if calibration.volumes < MIN_NORMALS:
        return f"none: needs {MIN_NORMALS} held-out normal scans; found {calibration.volumes}"
    rough = f", rough below {ENOUGH_NORMALS}" if calibration.is_rough else ""
    least = least_case_p(calibration.volumes)
    return f"from {count_normals(calibration)}{rough}; never less than {least:.2g}"


def case_text(calibration: Calibration, p_value: float | None) -> str:
    """`Case: p = 0.03 (12 held-out normal scans)`, or why there is no p-value."""
    if p_value is None:
        return f"Case p-value: {case_basis(calibration)}."
    least = p_value <= least_case_p(calibration.volumes)
    rough = f", rough below {ENOUGH_NORMALS}" if calibration.is_rough else ""
    return (
        f"Case: p {'≤' if least else '='} {p_value:.2g} ({count_normals(calibration)}{rough}): "
        "how often a normal scan is as unlikely as this one as a whole."
    )
