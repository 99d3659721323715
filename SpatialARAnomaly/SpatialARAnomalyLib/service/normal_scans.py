"""A survey of scans to learn from: what each is, and why some cannot be used.

No bad file stops it, and only one scan at a time is in memory.
"""

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.errors import Cancelled, SpatialARError
from ..engine.plane_volume import PlaneVolume
from ..engine.progress import Reporter
from ..engine.specs import Modality, Plane, SliceSpec
from ..engine.volume import Volume, infer_modality
from .field_of_view import default_fov_mm
from .scan_candidates import Candidate
from .sources import Source, source_values

MAX_SCANS = 1000
"""More are not looked at: their tokens would fill a disk."""

MIN_SLICES = 3
"""A scan with fewer slices that hold some of the body is no volume."""

MIN_TOKENS = 2.0
"""A body narrower than so many tokens may lie between their centers."""

MAX_FACTOR = 2.0
"""A spacing more than this many times the usual one, or as many times below it, is another."""

USUAL_PATCH_PX = 16
"""Of a DINOv3 ViT, where the encoder is not known."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a scan's own voxels say of it, in the plane asked for."""

    sha256: str
    stated: Modality | None
    """As the file says."""
    looks: Modality
    shape_kji: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    """Along i, j and k."""
    slice_mm: float
    pixel_mm: tuple[float, float]
    extent_mm: tuple[float, float]
    body_slices: int
    nbytes: int
    """Of its voxels in memory."""
    seconds: float
    """It took to read."""


@dataclass
class NormalScan:
    """A candidate, what is known of it, and whether it can be used."""

    name: str
    kind: str
    source: Source
    reading: Reading | None = None
    code: str | None = None
    """Why it is left out: `unreadable`, `duplicate`, `other-modality`, `other-spacing`,
    `too-small` or `too-many`; None if it is used."""
    reason: str | None = None

    def exclude(self, code: str, reason: str) -> None:
        """Leave it out."""
        self.code, self.reason = code, reason

    def to_dict(self, modality: Modality | None) -> dict[str, Any]:
        """The scan as a row in the types that JSON knows; `modality` is that of a used one."""
        row: dict[str, Any] = {
            "name": self.name,
            "source": source_values(self.source),
            "kind": self.kind,
            "modality": None,
            "shape_kji": None,
            "spacing_mm": None,
            "slices": None,
            "status": "used" if self.code is None else "excluded",
            "code": self.code,
            "reason": self.reason,
        }
        if self.reading is not None:
            found = self.reading.stated or self.reading.looks
            if self.code is None and modality is not None:
                found = modality
            row["modality"] = found.value
            row["shape_kji"] = list(self.reading.shape_kji)
            row["spacing_mm"] = list(self.reading.spacing_mm)
            row["slices"] = self.reading.body_slices
        return row


@dataclass(frozen=True, kw_only=True)
class Survey:
    """All scans, and what a model of those that can be used would be."""

    scans: Sequence[NormalScan]
    modality: Modality | None
    fov_mm: float | None
    """None where no scan can be used."""
    used: Sequence[NormalScan] = field(default_factory=tuple)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every scan as `NormalScan.to_dict` tells it."""
        return [scan.to_dict(self.modality) for scan in self.scans]


def read_scans(
    candidates: list[Candidate], plane: Plane, modality: Modality | None, report: Reporter
) -> list[NormalScan]:
    """Read every candidate once; those that cannot be read are left out with the reason.

    Empties the list on its way: the headers of thousands of DICOM images are not
    needed again. `modality` is what the user says they are. Raises `Cancelled` through
    `report`, and nothing else for a bad file.
    """
    total = len(candidates)
    candidates.reverse()
    scans: list[NormalScan] = []
    while candidates:
        report.check_cancelled()
        candidate = candidates.pop()
        scan = NormalScan(candidate.name, candidate.kind, candidate.source)
        scans.append(scan)
        if candidate.problem is not None:
            scan.exclude("unreadable", candidate.problem)
        elif len(scans) > MAX_SCANS:
            scan.exclude("too-many", f"Only the first {MAX_SCANS} scans are looked at.")
        else:
            _read(scan, candidate, plane, modality, report)
        report.progress(len(scans), total, "volume")
    return scans


def _read(
    scan: NormalScan,
    candidate: Candidate,
    plane: Plane,
    modality: Modality | None,
    report: Reporter,
) -> None:
    try:
        scan.reading = _reading(candidate, plane, modality, report)
    except Cancelled:
        raise
    except SpatialARError as error:
        other = error.code == "modality-unsupported"
        scan.exclude("other-modality" if other else "unreadable", error.message)
    except MemoryError:
        scan.exclude("unreadable", "The scan is too large for the memory of this machine.")
    except Exception as error:  # readers raise what they like on what they do not expect
        scan.exclude("unreadable", f"The scan cannot be read ({type(error).__name__}).")


def _reading(
    candidate: Candidate, plane: Plane, modality: Modality | None, report: Reporter
) -> Reading:
    begun_s = time.perf_counter()
    volume: Volume = candidate.read(report.check_cancelled)
    looks = infer_modality(volume)
    turned = PlaneVolume(volume, plane, volume.modality or modality or looks)
    slice_mm, row_mm, column_mm = turned.spacing_mm
    depth, height, width = volume.voxels.shape
    sha256 = volume.content_sha256()
    return Reading(
        sha256=sha256,
        stated=volume.modality,
        looks=looks,
        shape_kji=(depth, height, width),
        spacing_mm=volume.spacing_mm,
        slice_mm=slice_mm,
        pixel_mm=(row_mm, column_mm),
        extent_mm=turned.extent_mm,
        body_slices=len(turned.body_slices),
        nbytes=volume.voxels.nbytes,
        seconds=time.perf_counter() - begun_s,
    )


def judge(
    scans: Sequence[NormalScan],
    modality: Modality | None,
    fov_mm: float | None,
    size_px: int,
    patch_px: int = USUAL_PATCH_PX,
) -> Survey:
    """Leave out what does not suit the others; what is left and its field of view.

    The modality is the user's or that of most scans, the field of view the
    user's or the default of a training of those that are used.
    """
    readings = _without_copies(scans)
    asked, modality = modality, modality or _majority(one.stated or one.looks for one in readings)
    if modality is not None:
        _leave_out_other_modality(scans, modality, trust=_is_trusted(readings, asked))
    for scan, reading in _left(scans):
        if reading.body_slices < MIN_SLICES:
            scan.exclude(
                "too-small",
                f"Only {reading.body_slices} of its slices hold some of the body; at least "
                f"{MIN_SLICES} are needed.",
            )
    _leave_out_other_spacing(scans)
    left = _left(scans)
    if left and fov_mm is None:
        fov_mm = default_fov_mm(reading.extent_mm for _, reading in left)
    if fov_mm is not None:
        token_mm = SliceSpec(fov_mm=fov_mm, size_px=size_px).pixel_mm * patch_px
        for scan, reading in left:
            if min(reading.extent_mm) < MIN_TOKENS * token_mm:
                scan.exclude(
                    "too-small",
                    f"The body must be wider than {MIN_TOKENS:g} tokens of {token_mm:.3g} mm; it "
                    f"has {min(reading.extent_mm):.3g} mm.",
                )
    used = [scan for scan, _ in _left(scans)]
    return Survey(scans=scans, used=used, modality=modality, fov_mm=fov_mm if used else None)


def _left(scans: Iterable[NormalScan]) -> list[tuple[NormalScan, Reading]]:
    """The scans that nothing speaks against yet."""
    return [
        (scan, scan.reading) for scan in scans if scan.code is None and scan.reading is not None
    ]


def _without_copies(scans: Sequence[NormalScan]) -> list[Reading]:
    first: dict[str, NormalScan] = {}
    readings = []
    for scan, reading in _left(scans):
        earlier = first.setdefault(reading.sha256, scan)
        if earlier is scan:
            readings.append(reading)
        else:
            scan.exclude("duplicate", f"It has the same content as {earlier.name}.")
    return readings


def _majority(modalities: Iterable[Modality]) -> Modality | None:
    counted = Counter(modalities).most_common(1)  # of equals the first that was met
    return counted[0][0] if counted else None


def _is_trusted(readings: Sequence[Reading], asked: Modality | None) -> bool:
    """Whether what the user says counts more than what files without a header look like.

    It does where most look otherwise (MR phase images have values as low as CT);
    where most look as said, one that does not is another.
    """
    return asked is not None and _majority(
        one.looks for one in readings if one.stated is None
    ) not in (None, asked)


def _leave_out_other_modality(
    scans: Sequence[NormalScan], modality: Modality, *, trust: bool
) -> None:
    for scan, reading in _left(scans):
        found = reading.stated or (modality if trust else reading.looks)
        if found is not modality:
            how = "is" if reading.stated is not None else "looks like"
            scan.exclude("other-modality", f"It {how} {found}; the others are {modality}.")


def _leave_out_other_spacing(scans: Sequence[NormalScan]) -> None:
    left = _left(scans)
    if not left:
        return
    # A value that occurs, so that of two different scans one is the usual.
    pixel_mm = statistics.median_low([mm for _, one in left for mm in one.pixel_mm])
    slice_mm = statistics.median_low([one.slice_mm for _, one in left])
    for scan, reading in left:
        measures = [("Pixels", mm, pixel_mm) for mm in reading.pixel_mm]
        for what, found, usual in (*measures, ("Slices", reading.slice_mm, slice_mm)):
            if scan.code is None and not usual / MAX_FACTOR <= found <= usual * MAX_FACTOR:
                scan.exclude(
                    "other-spacing",
                    f"{what} are {found:.3g} mm apart; most scans have {usual:.3g} mm.",
                )
