"""Scans that training may use: found by name and header (`Candidate`), then read (`NormalScan`)."""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SpatialARAnomalyLib.engine.cards.suitability import Look
from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.scoring.suitability_fit import measure_volume
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Modality, Orientation, Plane, Region, Spec
from SpatialARAnomalyLib.engine.volumes.dicom import read_series
from SpatialARAnomalyLib.engine.volumes.dicom_series import choose_series
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan, infer_modality
from SpatialARAnomalyLib.service.scan_search import FoundScan, search_scans
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.training.request import ScanRow, TrainSpec

DICOM = "DICOM"

KEPT_BYTES = 1 << 26
"""Bytes of voxels and masks that a training keeps in memory once they are read.

64 MiB is less than a tenth of the memory of the smallest training, which must not grow with the
number of scans (`benchmarks.md`). Scans beyond it are read again to be embedded, which costs a
few percent of the embedding.
"""


@dataclass(frozen=True, kw_only=True)
class NormalScan:
    """A scan that training may use: its place and measures; `ScanReader.voxels` has its voxels."""

    source: ScanSource
    sha256: str
    """Hash of the content (`Volume.content_sha256`)."""
    patient_hash: str | None = None
    """Hash of the DICOM Patient ID (`DicomSeries.patient_hash`)."""
    stated: Modality | None
    """Modality that the file states."""
    inferred: Modality
    """Modality inferred from the values."""
    shape_kji: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    """Voxel spacing along i, j and k."""
    slice_mm: float
    """Distance between slices."""
    pixel_mm: tuple[float, float]
    """Distance between rows and between columns."""
    extent_mm: tuple[float, float]
    """Height and width of the body over all slices."""
    mask_sha256: str = ""
    """Hash of the mask; "" without one."""
    notices: tuple[tuple[str, str], ...] = ()
    """Notices about the region and the mask: code and sentence of each."""
    body_slices: int
    """Number of slices that hold voxels that count."""
    look: Look
    """Contrast and shape of the scan as a whole; its tokens are not known yet."""
    nbytes: int
    """Bytes of the voxels in memory."""
    seconds: float
    """Time that reading took."""

    @property
    def patient(self) -> str:
        """Word that the scans of one patient share."""
        return self.source.patient or self.sha256


@dataclass(frozen=True, kw_only=True)
class ScanContent(Spec):
    """A scan with the hashes of what a training read in it."""

    source: ScanSource
    sha256: str
    mask_sha256: str = ""


class ScanReader:
    """Reads scans, and keeps the voxels of the first ones up to `kept_bytes`."""

    def __init__(
        self,
        plane: Plane,
        modality: Modality | None,
        region: Region = Region.BODY,
        kept_bytes: int = 0,
        *,
        orientation: Orientation | None = None,
        allow_unstated_orientation: bool = False,
    ) -> None:
        self._plane, self._modality, self._region = plane, modality, region
        self.orientation, self._allows_unstated = orientation, allow_unstated_orientation
        self._free_bytes = kept_bytes
        self._kept: dict[str, PlaneVolume] = {}

    @classmethod
    def of(cls, spec: TrainSpec, kept_bytes: int = 0) -> "ScanReader":
        """Return the reader of a training's scans."""
        return cls(
            spec.plane,
            spec.modality,
            spec.region,
            kept_bytes,
            orientation=spec.orientation,
            allow_unstated_orientation=spec.allow_unstated_orientation,
        )

    def read(
        self,
        source: ScanSource,
        check_cancelled: Callable[[], None],
    ) -> NormalScan:
        """Read and hash a scan for the first time; raises whatever readers raise for bad files.

        The body mask depends on the modality: the one stated by the file, else by the user,
        else inferred from the values.
        """
        begun_s = time.perf_counter()
        notices = _Notices()
        series = None
        if source.path is not None and source.path.is_dir():
            series = choose_series(source.list_series(check_cancelled), source.series)
        if series is None:
            _, volume = source.read(check_cancelled, notices)
        else:
            volume = read_series(
                series, check_cancelled, volume=source.volume, allow_gaps=source.allow_gaps
            )
            volume = source.masked(check_scan(volume), notices)
        if not self._allows_unstated:
            check_oriented([volume])
        if self._region is Region.MASK and volume.mask is None:
            raise InputError("mask-missing", "Every normal scan must have a mask; it has none.")
        inferred = infer_modality(volume)
        modality = volume.modality or self._modality or inferred
        plane_volume = PlaneVolume(volume, self._plane, modality, self._region)
        slice_mm, row_mm, column_mm = plane_volume.spacing_mm
        depth, height, width = volume.voxels.shape
        scan = NormalScan(
            source=source,
            sha256=volume.content_sha256(),
            patient_hash=None if series is None else series.patient_hash,
            stated=volume.modality,
            inferred=inferred,
            shape_kji=(depth, height, width),
            spacing_mm=volume.spacing_mm,
            slice_mm=slice_mm,
            pixel_mm=(row_mm, column_mm),
            extent_mm=plane_volume.extent_mm,
            mask_sha256=_mask_sha256(volume),
            notices=(*notices.found, *plane_volume.notices),
            body_slices=len(plane_volume.counted_slices),
            look=Look(*measure_volume(plane_volume, modality)),
            nbytes=volume.voxels.nbytes,
            seconds=time.perf_counter() - begun_s,
        )
        size = plane_volume.voxels.nbytes + plane_volume.region.nbytes
        # An array is memory-mapped: a change of its file would change the kept voxels.
        if source.voxels is None and scan.sha256 not in self._kept and size <= self._free_bytes:
            self._free_bytes -= size
            self._kept[scan.sha256] = plane_volume
        return scan

    def voxels(
        self,
        scan: NormalScan | ScanContent,
        modality: Modality,
        check_cancelled: Callable[[], None],
    ) -> PlaneVolume:
        """Return the kept voxels or read the scan again; raises `InputError` if it changed."""
        kept = self._kept.get(scan.sha256)
        if kept is not None:
            return kept
        _, volume = scan.source.read(check_cancelled)
        if (volume.content_sha256(), _mask_sha256(volume)) != (scan.sha256, scan.mask_sha256):
            raise InputError(
                "normal-changed", f"{scan.source.label} changed while it was used for training."
            )
        return PlaneVolume(volume, self._plane, modality, self._region)

    def drop(self, scan: NormalScan) -> None:
        """Free the voxels of a scan."""
        self._kept.pop(scan.sha256, None)


def check_oriented(volumes: Iterable[Volume]) -> None:
    """Raise `InputError` for a scan whose file did not state its orientation."""
    if not all(volume.is_oriented for volume in volumes):
        raise InputError(
            "orientation-unstated",
            "The file does not state its orientation: left and right may be exchanged.",
        )


class _Notices(SilentReporter):
    """Collects notices, which the survey shows beside the scan."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def notice(self, code: str, text: str) -> None:
        """Keep a notice."""
        self.found.append((code, text))


def _mask_sha256(volume: Volume) -> str:
    if volume.mask is None:
        return ""
    return hashlib.sha256(np.packbits(volume.mask).tobytes()).hexdigest()


@dataclass(kw_only=True)
class Candidate(FoundScan):
    """Something that may be a normal scan: found, then read, then used or excluded."""

    scan: NormalScan | None = None
    """The scan, once it is read."""
    code: str | None = None
    """Why it is excluded (`ScanRow.code`)."""
    reason: str | None = None
    doubt: str | None = None
    """Why it might not be a scan like the others, though it is used."""

    def exclude(self, code: str, reason: str, error: SpatialARError | None = None) -> None:
        """Exclude the scan from the training."""
        self.code, self.reason, self.error = code, reason, error

    def refuse(self) -> None:
        """Raise the reason for which the scan is excluded, if it is."""
        if self.error is not None:
            text = f"{self.name}: {self.error.message}"
            raise type(self.error)(self.error.code, text, **self.error.facts)
        if self.code is not None:
            raise InputError("normal-unusable", f"{self.name}: {self.reason}")

    def row(self, modality: Modality | None) -> ScanRow:
        """Return the row that shows the candidate; `modality` is that of the used scans."""
        scan, used = self.scan, self.code is None
        row = ScanRow(
            name=self.name,
            source=self.source.to_dict(),
            kind=self.kind,
            status="used" if used else "excluded",
            code="unlike" if used and self.doubt is not None else self.code,
            reason=self.doubt if used else self.reason,
        )
        if scan is None:
            return row
        return replace(
            row,
            modality=(modality if used else None) or scan.stated or scan.inferred,
            shape_kji=scan.shape_kji,
            spacing_mm=scan.spacing_mm,
            slices=scan.body_slices,
            notes=tuple(text for _, text in scan.notices),
        )


def find_candidates(
    paths: Sequence[Path], sources: Sequence[ScanSource], report: Reporter
) -> list[Candidate]:
    """Return the scans of `search_scans` as candidates; a folder that cannot be listed is excluded.

    Raises as `search_scans` does.
    """
    candidates = []
    for found in search_scans(paths, sources, report):
        error, found.error = found.error, None
        candidates.append(Candidate(**vars(found)))
        if error is not None:
            candidates[-1].exclude("unreadable", error.message)
    return candidates
