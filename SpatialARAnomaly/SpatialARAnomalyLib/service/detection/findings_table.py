"""Findings as CSV that a spreadsheet can open without running what a user typed."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from SpatialARAnomalyLib.engine.errors import InputError

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.scoring.findings import Finding


_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins so may be taken for a formula."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows under the names of their columns; what a row lacks stays empty.

    A text that a spreadsheet would run gets an apostrophe before it. Raises
    `InputError` for a cell that is no text, number, truth value or None, and
    `OSError` where the disk is full or the folder not writable.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([_cell(column) for column in columns])
        for row in rows:
            writer.writerow([_cell(row.get(column)) for column in columns])


def _cell(value: Any) -> str | int | float:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    if not isinstance(value, str):
        raise InputError(
            "table-cell",
            f"A cell must be text, a number, true, false or nothing; found {type(value).__name__}.",
        )
    if value.startswith(_FORMULA) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


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


# Okabe & Ito's palette (told apart with color-blind eyes and on gray), without black.
_PALETTE = (
    (0.835, 0.369, 0.000),
    (0.337, 0.706, 0.914),
    (0.000, 0.620, 0.451),
    (0.941, 0.894, 0.259),
    (0.800, 0.475, 0.655),
    (0.902, 0.624, 0.000),
    (0.000, 0.447, 0.698),
)


def rank_color(rank: int) -> tuple[float, float, float]:
    """RGB in [0, 1] of the finding of that rank (from 1)."""
    return _PALETTE[(rank - 1) % len(_PALETTE)]
