"""A survey of scans to learn from: which can be used, and why the others cannot.

No bad file stops it. Scans are read one after another (`ScanReader` says what stays in memory).
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from SpatialARAnomalyLib.engine.errors import Cancelled, SpatialARError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.service.training.candidates import Candidate, NormalScan, ScanReader
from SpatialARAnomalyLib.service.training.request import TrainSpec

MAX_SCANS = 1000
"""Scans that are read; the tokens of more would fill a disk."""

MIN_SLICES = 3
"""A scan with fewer slices that hold some of the body is no volume."""

MIN_TOKENS = 2.0
"""A body narrower than so many tokens may lie between their centers."""

MAX_FACTOR = 2.0
"""A spacing is another one if it differs from the usual one by more than this factor."""

USUAL_PATCH_PX = 16
"""Patch of a DINOv3 ViT in pixels, where the encoder is not known."""

FOV_MARGIN = 1.1
"""The default field of view is this many times the largest body of the normal scans."""

FOV_STEP_MM = 10.0
"""The default field of view is rounded up to a multiple of this."""


def default_fov_mm(extents_mm: Iterable[tuple[float, float]]) -> float:
    """The side in mm of a square that holds every body, given their heights and widths."""
    largest = max(max(extent) for extent in extents_mm)
    return math.ceil(FOV_MARGIN * largest / FOV_STEP_MM) * FOV_STEP_MM


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The scans that can be used, and what a model of them would be."""

    used: Sequence[NormalScan]
    modality: Modality | None
    fov_mm: float | None
    """None where no scan can be used."""


def read_candidates(candidates: Sequence[Candidate], reader: ScanReader, report: Reporter) -> None:
    """Read every candidate once; those that cannot be read are excluded with the reason.

    Raises `Cancelled` through `report`, and nothing else for a bad file.
    """
    for done, candidate in enumerate(candidates, start=1):
        report.check_cancelled()
        if candidate.code is None and done > MAX_SCANS:
            candidate.exclude("too-many", f"Only the first {MAX_SCANS} scans are read.")
        elif candidate.code is None:
            _read(candidate, reader, report)
        candidate.series = None  # thousands of headers need not stay in memory
        report.progress(done, len(candidates), "volume")


def _read(candidate: Candidate, reader: ScanReader, report: Reporter) -> None:
    try:
        candidate.scan = reader.read(candidate.source, report.check_cancelled, candidate.series)
    except Cancelled:
        raise
    except SpatialARError as error:
        other = error.code == "modality-unsupported"
        candidate.exclude("other-modality" if other else "unreadable", error.message)
    except MemoryError:
        candidate.exclude("unreadable", "The scan is too large for the memory of this machine.")
    except Exception as error:  # readers raise what they like on what they do not expect
        candidate.exclude("unreadable", f"The scan cannot be read ({type(error).__name__}).")


def select_usable(
    candidates: Sequence[Candidate], spec: TrainSpec, patch_px: int = USUAL_PATCH_PX
) -> Survey:
    """Exclude candidates that do not fit the others; the usable ones and their field of view.

    The modality is the user's or that of most scans, the field of view the
    user's or the default for the scans that are used.
    """
    scans = _without_copies(candidates)
    modality = spec.modality or _majority(one.stated or one.looks for one in scans)
    if modality is not None:
        trust = _is_trusted(scans, spec.modality)
        _exclude_other_modality(candidates, modality, trust=trust)
    for candidate, scan in _left(candidates):
        if scan.body_slices < MIN_SLICES:
            candidate.exclude(
                "too-small",
                f"Only {scan.body_slices} of its slices hold some of the body; at least "
                f"{MIN_SLICES} are needed.",
            )
    _exclude_other_spacing(candidates)
    left = _left(candidates)
    if not left:
        return Survey(used=(), modality=modality, fov_mm=None)
    fov_mm = spec.fov_mm or default_fov_mm(scan.extent_mm for _, scan in left)
    token_mm = spec.slices(fov_mm).pixel_mm * patch_px
    for candidate, scan in left:
        if min(scan.extent_mm) < MIN_TOKENS * token_mm:
            candidate.exclude(
                "too-small",
                f"The body must be wider than {MIN_TOKENS:g} tokens of {token_mm:.3g} mm; it "
                f"has {min(scan.extent_mm):.3g} mm.",
            )
    used = [scan for _, scan in _left(candidates)]
    return Survey(used=used, modality=modality, fov_mm=fov_mm if used else None)


def _left(candidates: Iterable[Candidate]) -> list[tuple[Candidate, NormalScan]]:
    """The candidates that were read and are not excluded."""
    return [(one, one.scan) for one in candidates if one.code is None and one.scan is not None]


def _without_copies(candidates: Sequence[Candidate]) -> list[NormalScan]:
    first: dict[str, Candidate] = {}
    scans = []
    for candidate, scan in _left(candidates):
        earlier = first.setdefault(scan.sha256, candidate)
        if earlier is candidate:
            scans.append(scan)
        else:
            candidate.exclude("duplicate", f"It has the same content as {earlier.name}.")
    return scans


def _majority(modalities: Iterable[Modality]) -> Modality | None:
    counted = Counter(modalities).most_common(1)  # of equals the first that was met
    return counted[0][0] if counted else None


def _is_trusted(scans: Sequence[NormalScan], asked: Modality | None) -> bool:
    """Whether what the user says counts more than what files without a header look like.

    It does where most look otherwise (MR phase images have values as low as CT);
    where most look as said, one that does not is another.
    """
    return asked is not None and _majority(
        one.looks for one in scans if one.stated is None
    ) not in (None, asked)


def _exclude_other_modality(
    candidates: Sequence[Candidate], modality: Modality, *, trust: bool
) -> None:
    for candidate, scan in _left(candidates):
        found = scan.stated or (modality if trust else scan.looks)
        if found is not modality:
            how = "is" if scan.stated is not None else "looks like"
            candidate.exclude("other-modality", f"It {how} {found}; the others are {modality}.")


def _exclude_other_spacing(candidates: Sequence[Candidate]) -> None:
    left = _left(candidates)
    if not left:
        return
    # A value that occurs, so that of two different scans one is the usual.
    pixel_mm = statistics.median_low([mm for _, one in left for mm in one.pixel_mm])
    slice_mm = statistics.median_low([one.slice_mm for _, one in left])
    for candidate, scan in left:
        measures = [("Pixels", mm, pixel_mm) for mm in scan.pixel_mm]
        for what, found, usual in (*measures, ("Slices", scan.slice_mm, slice_mm)):
            if candidate.code is None and not usual / MAX_FACTOR <= found <= usual * MAX_FACTOR:
                candidate.exclude(
                    "other-spacing",
                    f"{what} are {found:.3g} mm apart; most scans have {usual:.3g} mm.",
                )
