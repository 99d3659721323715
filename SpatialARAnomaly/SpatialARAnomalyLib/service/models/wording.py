"""What a model's calibration promises, in words for a terminal."""

from SpatialARAnomalyLib.engine.cards.calibration import (
    ENOUGH_NORMALS,
    MIN_NORMALS,
    Calibration,
    least_case_p,
)
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset, Variance

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


PAPERS = (Preset.STANDARD, Preset.DILATED)
"""The presets that are Erdil et al.'s (arXiv 2603.02974)."""

_VARIANCE_WORDS = {
    Variance.FIXED: "one variance for all channels",
    Variance.CHANNEL: "a variance for each channel",
    Variance.FULL: "full covariance of the channels",
}


def preset_of(spec: AutoregressiveSpec) -> Preset | None:
    """The preset that a network is of, whatever its variance; None of a network of its own."""
    for preset in Preset:
        if AutoregressiveSpec.from_preset(preset, spec.variance) == spec:
            return preset
    return None


def preset_text(spec: AutoregressiveSpec) -> str:
    """`balanced`, `standard (the paper's)`, or that it is none of the presets."""
    preset = preset_of(spec)
    if preset is None:
        return "none of the presets"
    return f"{preset} (the paper's)" if preset in PAPERS else preset.value


def network_text(spec: AutoregressiveSpec) -> str:
    """Its preset and layers."""
    dilations = " ".join(map(str, spec.dilations))
    return (
        f"{preset_text(spec)}: {len(spec.dilations)} layers of dilation {dilations}, "
        f"{spec.hidden_channels} channels"
    )


def likelihood_text(spec: AutoregressiveSpec) -> str:
    """Every switch of how it judges tokens, with those that are off left out."""
    directions = ""
    if spec.directions > 1:
        directions = f"the mean of {spec.directions} raster directions"
    words = (
        _VARIANCE_WORDS[spec.variance],
        "whitened tokens" if spec.whitened else "",
        "told where in the body a token lies" if spec.position else "",
        "more variance where normal scans differ more" if spec.position_variance else "",
        directions,
    )
    return "; ".join(word for word in words if word)
