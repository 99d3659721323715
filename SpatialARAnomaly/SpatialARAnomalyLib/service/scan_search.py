"""The search for scans: below folders, in tables (CSV), in files."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.volumes.dicom_headers import is_dicom
from SpatialARAnomalyLib.engine.volumes.dicom_series import UNKNOWN, list_series
from SpatialARAnomalyLib.engine.volumes.formats import (
    VOLUME_SUFFIXES,
    Format,
    count_text,
    has_volume_suffix,
    other_formats,
)
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable_error
from SpatialARAnomalyLib.service import scan_table
from SpatialARAnomalyLib.service.scans import ScanSource, shown_name

DICOM = "DICOM"


@dataclass(frozen=True)
class FoundSeries:
    """A DICOM series that was found, without its headers, which would fill the memory."""

    uid: str
    number: int | None
    is_scan: bool
    """False for what is not taken for a scan unless it is named (`DicomSeries.not_a_scan`)."""


@dataclass(kw_only=True)
class FoundScan:
    """Something that may be a scan, found by its name and header."""

    name: str
    """Path within the searched folder, or the file's or array's own name."""
    kind: str
    """`NIfTI`, `NRRD`, `MetaImage`, `DICOM`, `scene` or `folder`."""
    source: ScanSource
    folders: tuple[str, ...] = ()
    """Folders that hold the scan, from the searched one down; () where none was searched."""
    series: FoundSeries | None = None
    """The DICOM series, where a folder was searched."""
    error: SpatialARError | None = None
    """Why it cannot be read."""


def search_scans(
    paths: Sequence[Path], sources: Sequence[ScanSource], report: Reporter
) -> list[FoundScan]:
    """Return the scans below all folders among the paths, then the files, then the sources.

    They are in order of their names, DICOM series after volume files. Other files in a folder
    are skipped; a notice counts those of known kinds. A folder that cannot be listed is returned
    with its error. A file may also be a table (CSV) with the columns `scan`, `patient`,
    `mask` and `volume`; paths in it start at its own folder.
    """
    folders = [path for path in paths if os.path.isdir(path)]
    several = len(folders) > 1
    found: list[FoundScan] = []
    skipped: Counter[str] = Counter()
    total, done = 0, 0
    for folder in folders:
        for _, names in _walk(folder):
            report.check_cancelled()
            total += len(names)

    def counted(names: Iterable[str]) -> Iterator[str]:
        nonlocal done
        for name in names:
            report.check_cancelled()
            yield name
            done += 1
            report.progress(min(done, total), total, "file")  # more may have come since

    for folder in folders:
        found += _scans_below(folder, counted, several, report, skipped)
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
        found.append(_found(source, source.label, ("", *inside)))
    return found + [_found(one, one.label) for one in (*_in_tables(tables, report), *sources)]


def _in_tables(tables: Iterable[Path], report: Reporter) -> list[ScanSource]:
    """Return the scans of tables; patients are numbered, as their names stay in the table."""
    numbers: dict[str, int] = {}
    optional = ["patient", "mask", "volume"]
    found = []
    for table in tables:
        try:
            rows = scan_table.read_scan_table(table, ["scan"], optional, report)
            volumes = [scan_table.whole_number(row, "volume") for row in rows]
        except scan_table.TableProblem as problem:
            raise InputError(
                "scan-table",
                "Expected a table of scans with the columns scan and (optional) patient, mask and "
                f"volume; {problem}.",
            ) from None
        for row, volume in zip(rows, volumes, strict=True):
            name = row["patient"]
            patient = f"table {numbers.setdefault(name, len(numbers) + 1)}" if name else None
            mask = table.parent / row["mask"] if row["mask"] else None
            path = table.parent / row["scan"]
            found.append(ScanSource(path=path, patient=patient, mask=mask, volume=volume))
    return found


def _walk(
    folder: Path, onerror: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str]]]:
    """Yield all folders below one, and the names of the files in each, in order."""
    for place, inside, names in os.walk(folder, onerror=onerror):
        inside.sort()
        # macOS leaves hidden companions on drives of other systems.
        yield Path(place), sorted(name for name in names if not name.startswith("."))


def _scans_below(
    folder: Path,
    counted: Callable[[Iterable[str]], Iterator[str]],
    several: bool,
    report: Reporter,
    skipped: Counter[str],
) -> list[FoundScan]:
    """Return the scans below a folder, and those parts of it that cannot be listed.

    `skipped` counts other files by their kind.
    """
    found: list[FoundScan] = []
    series = _SeriesParts()

    def add_unreadable(error: OSError) -> None:
        path = Path(error.filename or folder)
        name, source = _name_within(path, folder, several), ScanSource(path=path)
        known = unreadable_error(error)
        found.append(FoundScan(name=name, kind="folder", source=source, error=known))

    for place, names in _walk(folder, add_unreadable):
        rest = []
        inside = (str(folder), *place.relative_to(folder).parts)
        for name in counted(names):
            path = place / name
            if os.path.exists(path) and not os.path.isfile(path):
                continue  # a pipe or a device could be read for ever
            if has_volume_suffix(path) and not is_dicom(path):
                name_within = _name_within(path, folder, several)
                found.append(_found(ScanSource(path=path), name_within, inside))
            else:
                rest.append(path)
        skipped.update(series.add(place, rest, report))
        skipped.update(other_formats(rest))
    return found + _dicom_scans(series.parts(), folder, several)


def _found(source: ScanSource, name: str, folders: tuple[str, ...] = ()) -> FoundScan:
    """Return a single scan."""
    suffix = "" if source.path is None else source.path.suffix.lower()
    kind = VOLUME_SUFFIXES.get(suffix, Format.NIFTI).value
    if source.path is None:
        kind = "scene"
    elif os.path.isdir(source.path) or is_dicom(source.path):
        kind = DICOM
    return FoundScan(name=name, kind=kind, source=source, folders=folders)


@dataclass(kw_only=True)
class _Part:
    """A series, or a part of one, as little of it as the search needs."""

    place: Path
    series: FoundSeries
    images: UInt64[np.ndarray, " n"]
    """Hashes of `DicomSeries.image_names`."""
    files: list[Path] | None
    """Its files, and damaged ones beside them; None where its folder holds no others."""


class _SeriesParts:
    """The series of several folders.

    A series that an archive spread over several folders is one scan. A copy of it is another.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], list[_Part]] = {}

    def add(self, place: Path, paths: Sequence[Path], report: Reporter) -> Counter[str]:
        """Add the series of a folder; return the numbers of files without images, by kind."""
        listed = list_series(paths, report.check_cancelled)
        damaged = [file.path for one in listed if one.uid == UNKNOWN for file in one.files]
        skipped: Counter[str] = Counter()
        for one in listed:
            if not one.has_images:
                skipped[one.kind] += len(one.files)
                continue
            files = [file.path for file in one.files] + damaged
            part = _Part(
                place=place,
                series=FoundSeries(one.uid, one.number, one.not_a_scan is None),
                images=np.array([hash(name) & _MASK for name in one.image_names], np.uint64),
                files=files if len(listed) > 1 else None,
            )
            known = self._known.setdefault((one.uid, one.modality), [])
            for number, earlier in enumerate(known):
                if not np.isin(earlier.images, part.images).any():
                    known[number] = _merge(earlier, part, files)
                    break
            else:
                known.append(part)
        return skipped

    def parts(self) -> list[_Part]:
        """Return all series, in the order in which they were found."""
        return [part for known in self._known.values() for part in known]


_MASK = (1 << 64) - 1


def _merge(earlier: _Part, later: _Part, files: list[Path]) -> _Part:
    """Return a series of two parts; `files` are those of the later one."""
    first = earlier.files
    if first is None:
        _, names = next(_walk(earlier.place), (earlier.place, []))
        first = [earlier.place / name for name in names]
    series = replace(earlier.series, is_scan=earlier.series.is_scan or later.series.is_scan)
    return _Part(
        place=Path(os.path.commonpath([earlier.place, later.place])),
        series=series,
        images=np.concatenate([earlier.images, later.images]),
        files=first + files,
    )


def _dicom_scans(parts: Sequence[_Part], folder: Path, several: bool) -> list[FoundScan]:
    """Return the series below a folder as scans, in order of their folders."""
    count = Counter(part.place for part in parts)
    scans = []
    for part in sorted(parts, key=lambda one: (str(one.place), one.series.number or 0)):
        place, series = part.place, part.series
        name = _name_within(place, folder, several)
        if count[place] > 1:
            name = f"{name}, series {series.uid if series.number is None else series.number}"
        files = tuple(path.relative_to(place).as_posix() for path in part.files or ())
        source = ScanSource(path=place, series=series.uid, files=files)
        inside = place.relative_to(folder).parts if place.is_relative_to(folder) else ()
        scans.append(
            FoundScan(
                name=name, kind=DICOM, source=source, series=series, folders=(str(folder), *inside)
            )
        )
    return scans


def _name_within(path: Path, folder: Path, several: bool) -> str:
    """Return the path within the folder, below the folder's own name where several are searched."""
    within = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    if within == ".":
        return shown_name(folder)
    return f"{shown_name(folder)}/{within}" if several else within
