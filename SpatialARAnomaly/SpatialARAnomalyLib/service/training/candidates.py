"""Scans that training may use: found by name and header (`Candidate`), then read (`NormalScan`)."""

import hashlib
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SpatialARAnomalyLib.engine.cards.suitability import Look
from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.scoring.suitability_fit import measure_volume
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Modality, Orientation, Plane, Region
from SpatialARAnomalyLib.engine.volumes.dicom import read_series
from SpatialARAnomalyLib.engine.volumes.dicom_headers import is_dicom
from SpatialARAnomalyLib.engine.volumes.dicom_series import (
    DicomSeries,
    choose_series,
    list_series,
)
from SpatialARAnomalyLib.engine.volumes.formats import (
    VOLUME_SUFFIXES,
    Format,
    count_text,
    has_volume_suffix,
    other_formats,
)
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable_error
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan, infer_modality
from SpatialARAnomalyLib.service import scan_table
from SpatialARAnomalyLib.service.scans import ScanSource, shown_name
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
        series: DicomSeries | None = None,
    ) -> NormalScan:
        """Read and hash a scan for the first time; raises whatever readers raise for bad files.

        The body mask depends on the modality: the one stated by the file, else by the user,
        else inferred from the values. `series` are the headers of a DICOM series, if known.
        """
        begun_s = time.perf_counter()
        notices = _Notices()
        if series is None and source.path is not None and source.path.is_dir():
            series = choose_series(list_series(source.path, check_cancelled), source.series)
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
        self, scan: NormalScan, modality: Modality, check_cancelled: Callable[[], None]
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
class Candidate:
    """Something that may be a normal scan: found, then read, then used or excluded."""

    name: str
    """Path within the searched folder, or the file's or array's own name."""
    kind: str
    """`NIfTI`, `NRRD`, `MetaImage`, `DICOM`, `scene` or `folder`."""
    source: ScanSource
    folders: tuple[str, ...] = ()
    """Folders that hold the scan, from the searched one down; () where none was searched."""
    series: DicomSeries | None = None
    """Headers of a DICOM series until it is read."""
    scan: NormalScan | None = None
    """The scan, once it is read."""
    code: str | None = None
    """Why it is excluded (`ScanRow.code`)."""
    reason: str | None = None
    error: SpatialARError | None = None
    """The error of a scan that cannot be read."""
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
    """Return the candidates below all folders among the paths, then the files, then the sources.

    They are in order of their names, DICOM series after volume files. Other files in a folder
    are skipped; a notice counts those of known kinds. A folder that cannot be listed is an
    excluded candidate. A file may also be a table (CSV) with the columns `scan`, `patient` and
    `mask`; paths in it start at its own folder.
    """
    folders = [path for path in paths if os.path.isdir(path)]
    several = len(folders) > 1
    found: list[Candidate] = []
    others: list[tuple[Path, list[Path]]] = []
    for folder in folders:
        volumes, rest = _walk(folder, several, report)
        found += volumes
        others.append((folder, rest))
    total, done = sum(len(rest) for _, rest in others), 0

    def counted(paths: Iterable[Path]) -> Iterator[Path]:
        nonlocal done
        for path in paths:
            yield path
            done += 1
            report.progress(done, total, "file")

    skipped: Counter[str] = Counter()
    for folder, rest in others:
        found += _dicom_candidates(folder, rest, counted, several, report, skipped)
        skipped.update(other_formats(rest))
    if skipped:
        report.notice("files-skipped", f"Files of other kinds are left out: {count_text(skipped)}.")
    files = [path for path in paths if path not in folders]
    tables = [path for path in files if path.suffix.lower() == scan_table.SUFFIX]
    named = [Path(os.path.abspath(path)) for path in files if path not in tables]
    try:
        common = os.path.commonpath([path.parent for path in named])
    except ValueError:  # none, or on several drives
        common = ""
    for path in named:
        source = ScanSource(path=path)
        inside = path.relative_to(common).parts[:-1] if common else ()
        found.append(_candidate(source, source.label, ("", *inside)))
    return found + [_candidate(one, one.label) for one in (*_in_tables(tables, report), *sources)]


def _in_tables(tables: Iterable[Path], report: Reporter) -> list[ScanSource]:
    """Return the scans of tables; patients are numbered, as their names stay in the table."""
    numbers: dict[str, int] = {}
    found = []
    for table in tables:
        try:
            rows = scan_table.read_scan_table(table, ["scan"], ["patient", "mask"], report)
        except scan_table.TableProblem as problem:
            raise InputError(
                "scan-table",
                "Expected a table of scans with the columns scan and (optional) patient and mask; "
                f"{problem}.",
            ) from None
        for row in rows:
            name = row["patient"]
            patient = f"table {numbers.setdefault(name, len(numbers) + 1)}" if name else None
            mask = table.parent / row["mask"] if row["mask"] else None
            found.append(ScanSource(path=table.parent / row["scan"], patient=patient, mask=mask))
    return found


def _walk(folder: Path, several: bool, report: Reporter) -> tuple[list[Candidate], list[Path]]:
    """Return the volume files below a folder as candidates, and the other files."""
    found: list[Candidate] = []
    rest: list[Path] = []

    def add_unreadable(error: OSError) -> None:
        path = Path(error.filename or folder)
        name, source = _name_within(path, folder, several), ScanSource(path=path)
        found.append(Candidate(name=name, kind="folder", source=source))
        found[-1].exclude("unreadable", unreadable_error(error).message)

    for place, inside, names in os.walk(folder, onerror=add_unreadable):
        report.check_cancelled()
        inside.sort()
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith("."):
                continue  # macOS leaves hidden companions on drives of other systems
            if os.path.exists(path) and not os.path.isfile(path):
                continue  # a pipe or a device could be read for ever
            if has_volume_suffix(path) and not is_dicom(path):
                name = _name_within(path, folder, several)
                inside_folder = (str(folder), *path.relative_to(folder).parts[:-1])
                found.append(_candidate(ScanSource(path=path), name, inside_folder))
            else:
                rest.append(path)
    return found, rest


def _candidate(source: ScanSource, name: str, folders: tuple[str, ...] = ()) -> Candidate:
    """Return the candidate of a single scan."""
    suffix = "" if source.path is None else source.path.suffix.lower()
    kind = VOLUME_SUFFIXES.get(suffix, Format.NIFTI).value
    if source.path is None:
        kind = "scene"
    elif os.path.isdir(source.path) or is_dicom(source.path):
        kind = DICOM
    return Candidate(name=name, kind=kind, source=source, folders=folders)


def _dicom_candidates(
    folder: Path,
    files: Iterable[Path],
    counted: Callable[[Iterable[Path]], Iterator[Path]],
    several: bool,
    report: Reporter,
    skipped: Counter[str],
) -> list[Candidate]:
    """Return the series among the files, which are in order of their folders.

    A series that an archive spread over several folders is one candidate. A copy of it is
    another, which the survey excludes as a duplicate. `skipped` counts files without images.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        by_folder[path.parent].append(path)
    parts: dict[tuple[str, str], list[tuple[Path, DicomSeries]]] = {}
    for place, paths in by_folder.items():
        for series in list_series(counted(paths), report.check_cancelled):
            if not series.has_images:
                skipped[series.kind] += len(series.files)
                continue
            known = parts.setdefault((series.uid, series.modality), [])
            for number, (earlier_place, earlier) in enumerate(known):
                if not earlier.image_names & series.image_names:
                    common = Path(os.path.commonpath([earlier_place, place]))
                    known[number] = (common, earlier.merge(series))
                    break
            else:
                known.append((place, series))
    found = [one for known in parts.values() for one in known]
    candidates = []
    for place, series in sorted(found, key=lambda one: (str(one[0]), one[1].number or 0)):
        name = _name_within(place, folder, several)
        if sum(place == other for other, _ in found) > 1:
            name = f"{name}, series {series.uid if series.number is None else series.number}"
        source = ScanSource(path=place, series=series.uid)
        inside = place.relative_to(folder).parts if place.is_relative_to(folder) else ()
        candidates.append(
            Candidate(
                name=name, kind=DICOM, source=source, series=series, folders=(str(folder), *inside)
            )
        )
    return candidates


def _name_within(path: Path, folder: Path, several: bool) -> str:
    """Return the path within the folder, below the folder's own name where several are searched."""
    within = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    if within == ".":
        return shown_name(folder)
    return f"{shown_name(folder)}/{within}" if several else within
