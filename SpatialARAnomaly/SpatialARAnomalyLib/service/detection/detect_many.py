"""Detection in many scans: their list, and the columns of their table."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.file_names import comparable, make_file_name
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.volumes.files import has_volume_suffix, volume_name
from SpatialARAnomalyLib.service.batch.batch import BatchOutcome, BatchScan, run_batch
from SpatialARAnomalyLib.service.batch.places import Place, Work
from SpatialARAnomalyLib.service.batch.table import STATUS_FILE, Row
from SpatialARAnomalyLib.service.csv_files import cell
from SpatialARAnomalyLib.service.detection.result_files import RUN_FILE, ResultsSpec
from SpatialARAnomalyLib.service.scan_search import FoundScan, search_scans
from SpatialARAnomalyLib.service.scan_table import SUFFIX
from SpatialARAnomalyLib.service.scans import ScanSource, shown_name

_WITHOUT_EFFECT = ("model", "device", "encoder", "allow_download", "overwrite")
"""Settings that do not change the results; the model counts by the hash of its weights."""


def find_batch(paths: Sequence[Path], report: Reporter) -> list[FoundScan] | None:
    """Return the scans of several inputs, of a table, or of a folder that holds several.

    None where there is one input that is to be read as one scan: a file, a folder with a single
    volume file, or the images of one scan with or without its localizers and reports.

    Raises:
        InputError: A table is none, or one of the paths does not exist.
    """
    if len(paths) == 1 and not paths[0].is_dir() and paths[0].suffix.lower() != SUFFIX:
        return None
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        raise InputError("input-missing", f"{shown_name(missing[0])!r} does not exist.")
    report.stage("list", 1, 2)
    found = search_scans(paths, (), report)
    if len(paths) == 1 and paths[0].is_dir():
        series = [one.series for one in found if one.series is not None]
        scans = len(found) - len(series) + sum(one.is_scan for one in series)
        in_one_folder = all(one.source.path == paths[0] for one in found)
        if scans <= 1 or (series and in_one_folder):
            return None
    if not found:
        raise InputError("input-empty", "Expected scans; the inputs hold none.")
    return found


def detect_batch(
    paths: Sequence[Path],
    found: Sequence[FoundScan],
    source: ScanSource,
    spec: ResultsSpec,
    out: Path,
    place: Place,
    report: Reporter,
) -> BatchOutcome:
    """Detect anomalies in the scans that `find_batch` found among `paths`.

    Args:
        paths: The inputs.
        found: The scans.
        source: Which volume of each file, and how to read it; its path does not count.
        spec: Model and settings; `overwrite` and `name` do not count.
        out: Folder of the results, which repeats the tree of the input.
        place: Where to compute.
        report: Receives progress and notices, and may cancel.

    Raises as `run_batch` does, and `InputError` where the results lie among the scans.
    """
    for path in paths:
        if path.is_dir() and Path(os.path.realpath(out)).is_relative_to(os.path.realpath(path)):
            raise InputError(
                "input-in-output",
                f"The results must lie outside the folder {shown_name(path)!r} with the scans.",
            )
    spec = replace(spec, overwrite=True, name=None)
    card = read_card(spec.model)
    settings = {key: value for key, value in spec.to_dict().items() if key not in _WITHOUT_EFFECT}
    settings |= {
        "volume": source.volume,
        "allow_gaps": source.allow_gaps,
        "orientation": source.orientation,
        "weights": card.weights_sha256,
    }
    scans = []
    for one, name in zip(found, name_scans(found, paths), strict=True):
        at = one.source.path
        assert at is not None
        scan = replace(
            one.source,
            patient=None,
            volume=source.volume,
            allow_gaps=source.allow_gaps,
            orientation=None if one.series is not None else source.orientation,
        )
        files = (at,) if scan.mask is None else (at, scan.mask)
        scans.append(
            BatchScan(name=name, inputs=scan.to_dict(), files=files, inside=one.source.files)
        )
    report.stage("detect", 2, 2)
    return run_batch(
        Work(job="detect_scan", spec=spec.to_dict() | {"model": os.path.abspath(spec.model)}),
        scans,
        out,
        place,
        settings,
        report,
        columns=_columns,
        is_whole=lambda folder: (folder / RUN_FILE).is_file(),
    )


def _columns(values: dict[str, Any]) -> Row:
    findings = values["findings"]
    return {
        "findings": len(findings),
        "strongest": findings[0]["strength"] if findings else None,
        "case_p_value": values["case_p_value"],
    }


def find_named(paths: Sequence[Path], name: str, report: Reporter) -> tuple[str, ScanSource]:
    """Return the scan that a name in the table of a batch stands for, with its whole name.

    The name leads to its place in a folder, which is searched first. Raises `InputError` where
    no scan has the name.
    """
    searched = [list(paths)]
    if len(paths) == 1 and paths[0].is_dir():
        place = paths[0] / name
        within = place if place.is_dir() else place.parent
        if within.is_dir() and _absolute(within).is_relative_to(_absolute(paths[0])):
            searched.insert(0, [within])
    for some in searched:
        found = search_scans(some, (), report)
        for one, whole in zip(found, name_scans(found, paths), strict=True):
            if str(cell(whole)) == name:
                return whole, replace(one.source, patient=None)
    raise InputError("input-missing", f"{name!r} does not exist.")


def name_scans(found: Sequence[FoundScan], paths: Sequence[Path]) -> list[str]:
    """Return names for the scans: paths within the folder that holds all inputs, with `/`.

    A name lacks the suffix of its file, unless another scan beside it would have the same; that
    of one of several series in a folder has the series' number, or its UID where several have
    that number. What some system cannot hold in the name of a folder is replaced. Raises
    `InputError` where two scans would have the same name.
    """
    named = [path for path in paths if path.suffix.lower() != SUFFIX or path.is_dir()]
    roots = [one if one.is_dir() else one.parent for one in map(_absolute, named)]
    if len(named) < len(paths):
        roots += [_absolute(one.source.path or Path()).parent for one in found]
        roots += [_absolute(path).parent for path in paths if path not in named]
    try:
        root = os.path.commonpath(roots)
    except ValueError:  # on several drives
        raise InputError("batch-names", "The inputs must lie on one drive; they do not.") from None
    beside: Counter[Any] = Counter()
    for one in found:
        if one.series is not None:
            place = _absolute(one.source.path or Path())
            beside.update([place, (place, one.series.number)])
    names = []
    for one in found:
        place = _absolute(one.source.path or Path())
        within = place.relative_to(root)
        if one.series is not None and beside[place] > 1:
            number = one.series.number
            alone = number is not None and beside[place, number] == 1
            within = within / f"series {number if alone else one.series.uid}"
        elif within == Path():
            within = Path(shown_name(place))
        names.append(within)
    short = [
        path.with_name(volume_name(path)) if has_volume_suffix(path) else path for path in names
    ]
    counts = Counter(map(_folded, short))
    chosen = [
        long if counts[_folded(brief)] > 1 else brief
        for long, brief in zip(names, short, strict=True)
    ]
    for folded, count in Counter([*map(_folded, chosen), STATUS_FILE]).items():
        if count > 1:
            raise InputError(
                "batch-names",
                "Every scan needs a name of its own, also where case and special characters do not "
                f"count; {folded!r} is there twice.",
            )
    return [_as_folder(path) for path in chosen]


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _as_folder(path: Path) -> str:
    """Return a name as that of a folder which every system can hold."""
    return "/".join(map(make_file_name, path.parts))


def _folded(path: Path) -> str:
    """Return the name of the folder as file systems without case compare it."""
    return comparable(_as_folder(path))
