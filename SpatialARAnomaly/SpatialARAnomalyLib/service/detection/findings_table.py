"""The table of findings: columns, colors, terminology, and CSV that is safe in a spreadsheet."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.scoring.findings import Finding

TERMINOLOGY: dict[str, Any] = {
    "contextName": "Segmentation category and type - DICOM master list",
    # SNOMED CT; a category of DICOM PS3.16 CID 7150
    "category": ["SCT", "49755003", "Morphologically Altered Structure"],
    # DICOM PS3.16 annex D
    "type": ["DCM", "122451", "Abnormal Region"],
}
"""Terminology of a finding's segment: an abnormal region, without a diagnosis."""

FINDING_COLUMNS = (
    *("rank", "per_normal_scan", "strength", "volume_ml"),
    *("peak_nll", "mean_nll", "peak_p_value"),
    *("centroid_r_mm", "centroid_a_mm", "centroid_s_mm"),
    *("peak_r_mm", "peak_a_mm", "peak_s_mm"),
    "voxels",
)
"""Columns of the table of findings: NLL in nats per channel, strength in nats per channel × mL,
positions in RAS mm; `engine.scoring.findings.Finding` explains them."""


def finding_row(finding: "Finding") -> dict[str, float | int | None]:
    """Return a finding as a row of `FINDING_COLUMNS`."""
    values = (
        finding.rank,
        None if finding.per_normal_scan is None else float(f"{finding.per_normal_scan:.4g}"),
        float(f"{finding.strength:.6g}"),
        round(finding.volume_ml, 4),
        round(finding.peak_nll, 5),
        round(finding.mean_nll, 5),
        float(f"{finding.peak_p_value:.4g}"),
        *(round(value, 3) for value in (*finding.centroid_ras, *finding.peak_ras)),
        finding.voxels,
    )
    return dict(zip(FINDING_COLUMNS, values, strict=True))


# Okabe and Ito's palette without black, distinct for color-blind readers and on gray; then those
# of CIELAB that lie farthest from all before them (at least 26 apart, lightness 45 to 92).
_PALETTE = (
    (0.835, 0.369, 0.000),
    (0.337, 0.706, 0.914),
    (0.000, 0.620, 0.451),
    (0.941, 0.894, 0.259),
    (0.800, 0.475, 0.655),
    (0.902, 0.624, 0.000),
    (0.000, 0.447, 0.698),
    (0.600, 0.100, 1.000),
    (0.000, 1.000, 0.000),
    (1.000, 0.000, 0.400),
    (1.000, 0.100, 0.800),
    (0.500, 0.400, 0.900),
    (0.000, 1.000, 0.600),
    (0.400, 0.500, 0.000),
    (0.000, 1.000, 1.000),
    (0.900, 0.700, 0.500),
    (0.200, 0.700, 0.000),
    (0.700, 0.900, 0.600),
    (1.000, 0.000, 0.100),
    (1.000, 0.500, 0.500),
)


def rank_color(rank: int) -> tuple[float, float, float]:
    """Return the RGB color, in [0, 1], of the finding of a rank."""
    return _PALETTE[(rank - 1) % len(_PALETTE)]
