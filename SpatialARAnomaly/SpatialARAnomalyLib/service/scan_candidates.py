"""What in folders, files and the scene may be a scan: found by name and header, not yet read."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.dicom_series import DicomSeries, read_series, series_of_files
from ..engine.file_refusals import unreadable
from ..engine.itk_files import ITK_SUFFIXES
from ..engine.progress import Reporter
from ..engine.volume import Volume, check_scan
from ..engine.volume_files import has_volume_suffix
from .inputs import Input
from .sources import ArrayInput, Source

DICOM = "DICOM"


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Something that may be a normal scan."""

    name: str
    """As shown: the path within the folder asked for, a file's or an array's own name."""
    kind: str
    """`NIfTI`, `NRRD`, `MetaImage`, `DICOM` or `scene`."""
    source: Source
    series: DicomSeries | None = None
    problem: str | None = None
    """Why it cannot even be tried."""

    def read(self, check_cancelled: Callable[[], None]) -> Volume:
        """The checked volume; raises `InputError` where there is none, or anything for odd files.

        The headers of a DICOM series, which are known already, are not read again.
        """
        if self.series is None:
            return self.source.read(check_cancelled)[1]
        volume = read_series(self.series, check_cancelled)
        check_scan(volume)
        return volume


def find_candidates(
    paths: Sequence[Path], arrays: Sequence[ArrayInput], report: Reporter
) -> list[Candidate]:
    """The candidates below all folders among the paths, then the files, then the arrays.

    In order of their names; DICOM series come after the volume files. In a folder,
    files that are neither are passed over. What cannot be looked into is a
    candidate with a problem.
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
    found += [Candidate(name=array.name, kind="scene", source=array) for array in arrays]
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
                source=Input(place),
                problem=unreadable(error).message,
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
    return Candidate(name=name, kind=kind, source=Input(path))


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
        source = Input(place, series.uid)
        candidates.append(Candidate(name=name, kind=DICOM, source=source, series=series))
    return candidates


def _shown(path: Path, folder: Path, several: bool) -> str:
    """The path within the folder; with the folder's own name where several were asked for."""
    named = folder.name if folder.name not in ("", "..") else folder.resolve().name
    within = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
    if within == ".":
        return named
    return f"{named}/{within}" if several else within
