"""How findings and their label map leave the worker."""

from pathlib import Path
from typing import Any

import numpy as np

from ..engine.findings import Finding
from ..engine.label_box import LabelBox
from .finding_terms import finding_row

LABELS_FILE = "labels.npy"


def finding_values(finding: Finding) -> dict[str, Any]:
    """A finding's row, with the voxel of its peak."""
    return finding_row(finding) | {"peak_ijk": list(finding.peak_ijk)}


def label_names(box: LabelBox | None) -> list[str]:
    """The files that `write_labels` writes."""
    return [] if box is None else [LABELS_FILE]


def write_labels(folder: Path, box: LabelBox | None) -> None:
    """Write the part of the label map that holds all findings, if there are any."""
    if box is not None:
        np.save(folder / LABELS_FILE, box.labels, allow_pickle=False)


def label_values(folder: Path, box: LabelBox | None) -> tuple[str | None, list[int] | None]:
    """Where that file is, and where in the volume its part begins (k, j, i)."""
    if box is None:
        return None, None
    return str(folder / LABELS_FILE), list(box.start_kji)
