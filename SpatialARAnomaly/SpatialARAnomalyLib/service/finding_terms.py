"""What findings are called: the table's columns and the segments' terms.

Readable without what finds them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine.findings import Finding

TERMINOLOGY: dict[str, Any] = {
    "contextName": "Segmentation category and type - DICOM master list",
    # SNOMED CT, DICOM PS3.16 CID 7150's carrier of what is not as it should be
    "category": ["SCT", "49755003", "Morphologically Altered Structure"],
    # DICOM PS3.16 annex D: says that a region is abnormal, and no more
    "type": ["DCM", "122451", "Abnormal Region"],
}
"""Neutral terms: a finding is never called more than is known of it."""

FINDING_COLUMNS = (
    "rank",
    "volume_ml",
    "peak_nll",
    "mean_nll",
    "p_value",
    "centroid_r_mm",
    "centroid_a_mm",
    "centroid_s_mm",
    "peak_r_mm",
    "peak_a_mm",
    "peak_s_mm",
    "voxels",
)
"""Of a table of findings: NLL in nats per channel, places in RAS mm."""


def finding_row(finding: "Finding") -> dict[str, float | int]:
    """A finding as a flat row of `FINDING_COLUMNS` (NLL in nats per channel, RAS mm)."""
    return dict(
        zip(
            FINDING_COLUMNS,
            (
                finding.rank,
                round(finding.volume_ml, 4),
                round(finding.peak_nll, 5),
                round(finding.mean_nll, 5),
                float(f"{finding.p_value:.4g}"),
                *(round(value, 3) for value in finding.centroid_ras),
                *(round(value, 3) for value in finding.peak_ras),
                finding.voxels,
            ),
            strict=True,
        )
    )
