"""A model's calibration and network in words, for the command line and the reports."""

import dataclasses
from typing import TYPE_CHECKING

from SpatialARAnomalyLib.engine.cards.calibration import (
    ENOUGH_NORMALS,
    MIN_NORMALS,
    Calibration,
    least_case_p,
)
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset
from SpatialARAnomalyLib.service.text import number_text

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.scoring.findings import Finding

SHOWN_RATES = (0.1, 0.01, 0.001, 0.0001)
"""False-positive rates that a card is shown with."""

PAPERS = (Preset.STANDARD, Preset.DILATED)
"""The presets of Erdil et al. (arXiv 2603.02974)."""

MORE_NORMALS = f"train on more normal scans, until {ENOUGH_NORMALS} are held out"
"""Advice where results are rough."""


def count_normals(calibration: Calibration) -> str:
    """Return `1 held-out normal scan`, `12 held-out normal scans`."""
    return f"{calibration.volumes} held-out normal scan{'' if calibration.volumes == 1 else 's'}"


def basis_text(calibration: Calibration) -> str:
    """Return `from 20 held-out normal scans`, or `rough: 2 held-out normal scans`."""
    return f"{'rough:' if calibration.is_rough else 'from'} {count_normals(calibration)}"


def rates_text(calibration: Calibration) -> str:
    """Return the interval of each shown rate in new normal scans, or why it is unknown."""
    if not calibration.volume_shares:
        return "unknown: the model was made before the spread between scans was kept"
    if calibration.volumes < 2:
        return f"{basis_text(calibration)}; {MORE_NORMALS}"
    intervals = {rate: calibration.rate_interval(rate) for rate in SHOWN_RATES}
    if all(interval is None for interval in intervals.values()):
        return "unknown: too few tokens in the held-out normal scans"
    lines = []
    for rate, interval in intervals.items():
        if interval is not None and not interval.is_wide:
            scan, mean = (
                f"{low:.2g} to {high:.2g}" for low, high in (interval.scan, interval.mean)
            )
            lines.append(f"{rate:g}: {mean} on average, {scan} in one scan")
    if calibration.is_rough:
        lines.append(f"{basis_text(calibration)}; {MORE_NORMALS}")
    return "\n".join(lines)


def expected_text(finding: "Finding", calibration: Calibration) -> str:
    """Return the number of findings like this in a normal scan: `< 0.05`, `0.2`, `unknown`."""
    if finding.per_normal_scan is None or calibration.findings is None:
        return "unknown"
    return number_text(finding.per_normal_scan, calibration.findings.least)


def findings_basis(calibration: Calibration) -> str:
    """Return the basis of the numbers of findings in normal scans, or why there are none."""
    if calibration.findings is None:
        return "none: the model was made before they were counted; train again"
    return basis_text(calibration)


def case_basis(calibration: Calibration) -> str:
    """Return the basis of case p-values, or why there are none."""
    if not calibration.case_scores:
        return "none: the model was made before case scores were kept"
    if calibration.volumes < MIN_NORMALS:
        return f"none: needs {MIN_NORMALS} held-out normal scans; found {calibration.volumes}"
    return f"{basis_text(calibration)}; never less than {least_case_p(calibration.volumes):.2g}"


def case_text(calibration: Calibration, p_value: float | None) -> str:
    """Return `Case: p = 0.03 (12 held-out normal scans)…`, or why there is no p-value."""
    if p_value is None:
        return f"Case p-value: {case_basis(calibration)}."
    least = p_value <= least_case_p(calibration.volumes)
    return (
        f"Case: p {'≤' if least else '='} {p_value:.2g} ({basis_text(calibration)}): "
        "how often a normal scan is, as a whole, at least as unusual."
    )


def preset_text(spec: AutoregressiveSpec) -> str:
    """Return `composite`, `standard (the paper's)`, … or `no preset`.

    A preset of another width keeps its name, but is not the paper's.
    """
    for preset in Preset:
        known = AutoregressiveSpec.from_preset(preset)
        if dataclasses.replace(known, hidden_channels=spec.hidden_channels) == spec:
            return f"{preset} (the paper's)" if preset in PAPERS and known == spec else preset.value
    return "no preset"


def network_text(spec: AutoregressiveSpec) -> str:
    """Return a network's preset and layers."""
    dilations = " and ".join(map(str, spec.dilations))
    return (
        f"{preset_text(spec)}: {spec.layers} layers of {spec.hidden_channels} channels, "
        f"dilation {dilations}, shrinkage {spec.shrinkage:g}"
    )
