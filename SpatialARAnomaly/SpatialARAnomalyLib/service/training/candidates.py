"""Scans that training may use: found by name and header (`Candidate`), then read (`NormalScan`)."""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import Modality, Plane
from SpatialARAnomalyLib.engine.volumes.dicom import DicomSeries, read_series, series_of_files
from SpatialARAnomalyLib.engine.volumes.files import has_volume_suffix
from SpatialARAnomalyLib.engine.volumes.itk import ITK_SUFFIXES
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable
from SpatialARAnomalyLib.engine.volumes.volume import check_scan, infer_modality
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.training.request import ScanRow

DICOM = "DICOM"

KEPT_BYTES = 1 << 26
"""Bytes of voxels and masks that a training keeps from its first reading of a scan to its last.

64 MiB, less than a tenth of what the smallest training takes: memory must not grow with the
number of scans (`benchmarks.md`). Scans beyond it are read and checked once more to be embedded,
which costs a few percent of the embedding.
"""


@dataclass(frozen=True, kw_only=True)
class NormalScan:
    """A scan that training may use: where it is and what its voxels say, in the training's plane.

    Training takes it as a survey read it; its voxels come from `ScanReader.voxels`.
    """

    source: ScanSource
    sha256: str
    """Hash of its content (`Volume.content_sha256`)."""
    stated: Modality | None
    """Modality that the file states."""
    looks: Modality
    """Modality that the values look like."""
    shape_kji: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    """Voxel spacing along i, j and k."""
    slice_mm: float
    """Distance between slices."""
    pixel_mm: tuple[float, float]
    """Distance between rows and between columns."""
    extent_mm: tuple[float, float]
    """Height and width of the body over all slices."""
    body_slices: int
    """Slices that hold some of the body."""
    nbytes: int
    """Bytes of its voxels in memory."""
    seconds: float
    """Seconds that reading took."""


class ScanReader:
    """Reads scans, and keeps the voxels of the first ones up to `kept_bytes`."""

    def __init__(self, plane: Plane, modality: Modality | None, kept_bytes: int = 0) -> None:
        self._plane, self._modality = plane, modality
        self._free_bytes = kept_bytes
        self._kept: dict[str, PlaneVolume] = {}

    def read(
        self,
        source: ScanSource,
        check_cancelled: Callable[[], None],
        series: DicomSeries | None = None,
    ) -> NormalScan:
        """Read and hash a scan for the first time.

        The body is found as that of the modality which the file states, else the user, else the
        values. `series` are the headers of a DICOM series, where they are known already.

        Raises:
            InputError: the scan cannot be used; readers may raise anything for odd files.

        """
        begun_s = time.perf_counter()
        if series is None:
            _, volume = source.read(check_cancelled)
        else:
            volume = read_series(series, check_cancelled)
            check_scan(volume)
        looks = infer_modality(volume)
        turned = PlaneVolume(volume, self._plane, volume.modality or self._modality or looks)
        slice_mm, row_mm, column_mm = turned.spacing_mm
        depth, height, width = volume.voxels.shape
        scan = NormalScan(
            source=source,
            sha256=volume.content_sha256(),
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
        size = turned.voxels.nbytes + turned.body.nbytes
        # An array is memory-mapped: a change of its file would change what was kept.
        if source.voxels is None and scan.sha256 not in self._kept and size <= self._free_bytes:
            self._free_bytes -= size
            self._kept[scan.sha256] = turned
        return scan

    def voxels(
        self, scan: NormalScan, modality: Modality, check_cancelled: Callable[[], None]
    ) -> PlaneVolume:
        """The kept voxels of a scan, or its file read again; raises `InputError` if it changed."""
        kept = self._kept.get(scan.sha256)
        if kept is not None:
            return kept
        _, volume = scan.source.read(check_cancelled)
        if volume.content_sha256() != scan.sha256:
            raise InputError(
                "normal-changed",
                f"{scan.source.label} changed while it was used for training.",
                "Start the training again.",
            )
        return PlaneVolume(volume, self._plane, modality)

    def drop(self, scan: NormalScan) -> None:
        """Keep the voxels of a scan no longer."""
        self._kept.pop(scan.sha256, None)


@dataclass(kw_only=True)
class Candidate:
    """Something that may be a normal scan: found, then read, then used or excluded."""

    name: str
    """Shown name: the path within the searched folder, or a file's or an array's own name."""
    kind: str
    """`NIfTI`, `NRRD`, `MetaImage`, `DICOM`, `scene` or `folder`."""
    source: ScanSource
    series: DicomSeries | None = None
    """Headers of a DICOM series until it is read."""
    scan: NormalScan | None = None
    """What was read of it."""
    code: str | None = None
    """Why it is excluded (`training_request.ScanRow.code`)."""
    reason: str | None = None

    def exclude(self, code: str, reason: str) -> None:
        """Do not use it."""
        self.code, self.reason = code, reason

    def row(self, modality: Modality | None) -> ScanRow:
        """The candidate as it is shown; `modality` is that of the used scans."""
        row = ScanRow(
            name=self.name,
            source=self.source.to_dict(),
            kind=self.kind,
            status="used" if self.code is None else "excluded",
            code=self.code,
            reason=self.reason,
        )
        if self.scan is None:
            return row
        return replace(
            row,
            modality=(modality if self.code is None else None)
            or self.scan.stated
            or self.scan.looks,
            shape_kji=self.scan.shape_kji,
            spacing_mm=self.scan.spacing_mm,
            slices=self.scan.body_slices,
        )


def find_candidates(
    paths: Sequence[Path], sources: Sequence[ScanSource], report: Reporter
) -> list[Candidate]:
    """The candidates below all folders among the paths, then the files, then single scans.

    In order of their names; DICOM series come after the volume files. In a folder,
    files that are neither are passed over. What cannot be listed is an excluded candidate.
    """
    folders = [path for path in paths if os.path.isdir(path)]
    files = [path for path in paths if path not in folders]
    found: list[Candidate] = []
    others: list[tuple[Path, list[Path]]] = []
    for folder in folders:
        volumes, rest = _walk(folder, several=len(folders) > 1, report=report)
        found += volumes
        others.append((folder, rest))
    total, done = sum(len(rest) for _, rest in others), 0
    for folder, rest in others:

        def counted(paths: Iterable[Path]) -> Iterator[Path]:
            nonlocal done
            for path in paths:
                yield path
                done += 1
                report.progress(done, total, "file")

        found += _dicom_candidates(folder, rest, counted, len(folders) > 1, report)
    found += [_of_file(file, file.name) for file in files]
    for source in sources:
        if source.path is None:
            found.append(Candidate(name=source.label, kind="scene", source=source))
        elif source.path.is_dir():
            found.append(Candidate(name=source.label, kind=DICOM, source=source))
        else:
            found.append(_of_file(source.path, source.label))
    return found


def _walk(folder: Path, several: bool, report: Reporter) -> tuple[list[Candidate], list[Path]]:
    """The volume files below a folder as candidates, and the other files."""
    found: list[Candidate] = []
    rest: list[Path] = []

    def note(error: OSError) -> None:
        place = Path(error.filename or folder)
        found.append(
            Candidate(
                name=_shown(place, folder, several),
                kind="folder",
                source=ScanSource(path=place),
                code="unreadable",
                reason=unreadable(error).message,
            )
        )

    for place, inside, names in os.walk(folder, onerror=note):
        report.check_cancelled()
        inside.sort()
        for name in sorted(names):
            path = Path(place, name)
            if name.startswith("."):
                continue  # macOS leaves hidden companions on drives of other systems
            if os.path.exists(path) and not os.path.isfile(path):
                continue  # a pipe or a device could be read for ever
            if has_volume_suffix(path):
                found.append(_of_file(path, _shown(path, folder, several)))
            else:
                rest.append(path)
    return found, rest


def _of_file(path: Path, name: str) -> Candidate:
    suffix = path.suffix.lower()
    kind = "NIfTI"
    if suffix in ITK_SUFFIXES:
        kind = "NRRD" if suffix in (".nrrd", ".nhdr") else "MetaImage"
    return Candidate(name=name, kind=kind, source=ScanSource(path=path))


def _dicom_candidates(
    folder: Path,
    files: Iterable[Path],
    counted: Callable[[Iterable[Path]], Iterator[Path]],
    several: bool,
    report: Reporter,
) -> list[Candidate]:
    """The series among the files, which are in order of their folders.

    A series in parts (some archives put so many files into a folder) is one; a
    copy in another folder is a candidate of its own, to be found out as such.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        by_folder[path.parent].append(path)
    parts: dict[str, list[tuple[Path, DicomSeries]]] = {}
    for place, paths in by_folder.items():
        for series in series_of_files(counted(paths), report.check_cancelled):
            known = parts.setdefault(series.uid, [])
            for number, (earlier_place, earlier) in enumerate(known):
                if not earlier.image_names & series.image_names:
                    common = Path(os.path.commonpath([earlier_place, place]))
                    known[number] = (common, earlier.joined(series))
                    break
            else:
                known.append((place, series))
    found = [one for known in parts.values() for one in known]
    candidates = []
    for place, series in sorted(found, key=lambda one: (str(one[0]), one[1].number or 0)):
        name = _shown(place, folder, several)
        if sum(place == other for other, _ in found) > 1:
            name = f"{name}, series {series.uid if series.number is None else series.number}"
        source = ScanSource(path=place, series=series.uid)
        candidates.append(Candidate(name=name, kind=DICOM, source=source, series=series))
    return candidates


def _shown(path: Path, folder: Path, several: bool) -> str:
    """The path within the folder; with the folder's own name where several were asked for."""
    named = folder.name if folder.name not in ("", "..") else folder.resolve().name
    within = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    if within == ".":
        return named
    return f"{named}/{within}" if several else within
