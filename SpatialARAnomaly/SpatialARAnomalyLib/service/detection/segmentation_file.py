"""Slicer's segmentation format (.seg.nrrd): a label map and the segments of its values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt16

from SpatialARAnomalyLib.engine.specs import Spec
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS
from SpatialARAnomalyLib.service.detection.findings_table import TERMINOLOGY, rank_color

_PLACEHOLDER = "-"
"""Placeholder of a text that `_write_texts` replaces."""


@dataclass(frozen=True, kw_only=True)
class Segment(Spec):
    """One segment of a segmentation."""

    value: int
    """Value in the label map."""
    id: str
    name: str
    color: tuple[float, float, float]
    """RGB in [0, 1]."""

    def __post_init__(self) -> None:
        self._require(0 < self.value <= np.iinfo(np.uint16).max, "value must lie in [1, 65535]")
        self._require(bool(self.id.strip()), "id must not be empty")
        self._require(all(0 <= one <= 1 for one in self.color), "color must lie in [0, 1]")


def finding_segment(rank: int) -> Segment:
    """Return the segment of a finding."""
    return Segment(value=rank, id=f"Finding_{rank}", name=f"Finding {rank}", color=rank_color(rank))


def write_segmentation(
    path: Path,
    labels: UInt16[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    segments: Sequence[Segment],
) -> None:
    """Write a label map with its segments, all with the terminology of a finding.

    Raises `OSError` where the disk is full or the folder not writable.
    """
    import slicerio

    size_ijk = labels.shape[::-1]
    segmentation = {
        "voxels": labels.T,
        "ijkToLPS": LPS_FROM_RAS @ ras_from_voxel,
        "containedRepresentationNames": ["Binary labelmap"],
        "segments": [
            {
                "id": _PLACEHOLDER,
                "name": _PLACEHOLDER,
                "color": list(segment.color),
                "labelValue": segment.value,
                "layer": 0,
                "extent": [bound for size in size_ijk for bound in (0, size - 1)],
                "terminology": TERMINOLOGY,
            }
            for segment in segments
        ],
    }
    slicerio.write_segmentation(str(path), segmentation)
    _write_texts(path, segments)


def _write_texts(path: Path, segments: Sequence[Segment]) -> None:
    """Write ids and names into the header in UTF-8, as Slicer does; pynrrd writes ASCII only.

    Its comment with the time goes, so that the same labels make the same file.
    """
    header, end, voxels = path.read_bytes().partition(b"\n\n")
    lines = [line for line in header.split(b"\n") if not line.startswith(b"# on ")]
    for number, segment in enumerate(segments):
        for key, text in (("ID", segment.id), ("Name", segment.name)):
            place = lines.index(f"Segment{number}_{key}:={_PLACEHOLDER}".encode())
            lines[place] = f"Segment{number}_{key}:={_in_one_line(text)}".encode()
    path.write_bytes(b"\n".join(lines) + end + voxels)


def _in_one_line(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text).strip() or _PLACEHOLDER
