"""A model's calibration and network in words, for the command line and the reports."""

from SpatialARAnomalyLib.engine.cards.calibration import (
    ENOUGH_NORMALS,
    MIN_NORMALS,
    Calibration,
    least_case_p,
)
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset, Variance

SHOWN_RATES = (0.1, 0.01, 0.001, 0.0001)
"""False-positive rates that a card is shown with."""

PAPERS = (Preset.STANDARD, Preset.DILATED)
"""The presets of Erdil et al. (arXiv 2603.02974)."""

_VARIANCE_WORDS = {
    Variance.FIXED: "one variance for all channels",
    Variance.CHANNEL: "a variance for each channel",
    Variance.FULL: "full covariance of the channels",
}


def count_normals(calibration: Calibration) -> str:
    """Return `1 held-out normal scan`, `12 held-out normal scans`."""
    return f"{calibration.volumes} held-out normal scan{'' if calibration.volumes == 1 else 's'}"


def rates_text(calibration: Calibration) -> str:
    """Return the interval of each shown rate in new normal scans, or why it is unknown."""
    if not calibration.volume_shares:
        return "unknown: the model was made before the spread between scans was kept"
    if calibration.volumes < 2:
        return "unknown: needs 2 held-out normal scans; found 1"
    lines = []
    for rate in SHOWN_RATES:
        interval = calibration.rate_interval(rate)
        if interval is not None:
            scan, mean = (
                f"{low:.2g} to {high:.2g}" for low, high in (interval.scan, interval.mean)
            )
            lines.append(f"{rate:g}: {mean} on average, {scan} in one scan")
    return "\n".join(lines) or "unknown: too few tokens in the held-out normal scans"


def case_basis(calibration: Calibration) -> str:
    """Return the basis of case p-values, or why there are none."""
    if not calibration.case_scores:
        return "none: the model was made before case scores were kept"
    if calibration.volumes < MIN_NORMALS:
        return f"none: needs {MIN_NORMALS} held-out normal scans; found {calibration.volumes}"
    rough = f", rough below {ENOUGH_NORMALS}" if calibration.is_rough else ""
    least = least_case_p(calibration.volumes)
    return f"from {count_normals(calibration)}{rough}; never less than {least:.2g}"


def case_text(calibration: Calibration, p_value: float | None) -> str:
    """Return `Case: p = 0.03 (12 held-out normal scans)…`, or why there is no p-value."""
    if p_value is None:
        return f"Case p-value: {case_basis(calibration)}."
    least = p_value <= least_case_p(calibration.volumes)
    rough = f", rough below {ENOUGH_NORMALS}" if calibration.is_rough else ""
    return (
        f"Case: p {'≤' if least else '='} {p_value:.2g} ({count_normals(calibration)}{rough}): "
        "how often a normal scan is, as a whole, at least as unusual."
    )


def preset_text(spec: AutoregressiveSpec) -> str:
    """Return `balanced`, `standard (the paper's)`, … whatever the variance, or `no preset`."""
    for preset in Preset:
        if AutoregressiveSpec.from_preset(preset, spec.variance) == spec:
            return f"{preset} (the paper's)" if preset in PAPERS else preset.value
    return "no preset"


def network_text(spec: AutoregressiveSpec) -> str:
    """Return a network's preset and layers."""
    dilations = " ".join(map(str, spec.dilations))
    return (
        f"{preset_text(spec)}: {len(spec.dilations)} layers of dilation {dilations}, "
        f"{spec.hidden_channels} channels"
    )


def likelihood_text(spec: AutoregressiveSpec) -> str:
    """Return the switches of the likelihood that are on."""
    directions = ""
    if spec.directions > 1:
        directions = f"the mean of {spec.directions} raster directions"
    words = (
        _VARIANCE_WORDS[spec.variance],
        "whitened tokens" if spec.whitened else "",
        "position of the token in the body as input" if spec.position else "",
        "more variance where normal scans differ more" if spec.position_variance else "",
        directions,
    )
    return "; ".join(word for word in words if word)
