"""The search for scans: below folders, in tables (CSV), in files."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from SpatialARAnomalyLib.engine.errors import InputError, SpatialARError
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.volumes.dicom_headers import is_dicom
from SpatialARAnomalyLib.engine.volumes.dicom_series import DicomSeries, list_series
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
    series: DicomSeries | None = None
    """Headers of a DICOM series until it is read."""
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
        found += _dicom_scans(folder, rest, counted, several, report, skipped)
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


def _walk(folder: Path, several: bool, report: Reporter) -> tuple[list[FoundScan], list[Path]]:
    """Return the volume files below a folder as scans, and the other files."""
    found: list[FoundScan] = []
    rest: list[Path] = []

    def add_unreadable(error: OSError) -> None:
        path = Path(error.filename or folder)
        name, source = _name_within(path, folder, several), ScanSource(path=path)
        known = unreadable_error(error)
        found.append(FoundScan(name=name, kind="folder", source=source, error=known))

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
                found.append(_found(ScanSource(path=path), name, inside_folder))
            else:
                rest.append(path)
    return found, rest


def _found(source: ScanSource, name: str, folders: tuple[str, ...] = ()) -> FoundScan:
    """Return a single scan."""
    suffix = "" if source.path is None else source.path.suffix.lower()
    kind = VOLUME_SUFFIXES.get(suffix, Format.NIFTI).value
    if source.path is None:
        kind = "scene"
    elif os.path.isdir(source.path) or is_dicom(source.path):
        kind = DICOM
    return FoundScan(name=name, kind=kind, source=source, folders=folders)


def _dicom_scans(
    folder: Path,
    files: Iterable[Path],
    counted: Callable[[Iterable[Path]], Iterator[Path]],
    several: bool,
    report: Reporter,
    skipped: Counter[str],
) -> list[FoundScan]:
    """Return the series among the files, which are in order of their folders.

    A series that an archive spread over several folders is one scan. A copy of it is
    another. `skipped` counts files without images.
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
    scans = []
    for place, series in sorted(found, key=lambda one: (str(one[0]), one[1].number or 0)):
        name = _name_within(place, folder, several)
        if sum(place == other for other, _ in found) > 1:
            name = f"{name}, series {series.uid if series.number is None else series.number}"
        source = ScanSource(path=place, series=series.uid)
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
