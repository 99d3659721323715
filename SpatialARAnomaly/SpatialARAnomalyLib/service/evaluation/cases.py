"""The scans of an evaluation with their truths, from a table or a folder."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from SpatialARAnomalyLib.engine.errors import (
    InputError,
    ModelError,
)
from SpatialARAnomalyLib.engine.volumes.files import (
    has_volume_suffix,
    read_volume_file,
    volume_name,
)
from SpatialARAnomalyLib.engine.volumes.geometry import (
    grids_apart_mm,
    same_grid,
)
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable
from SpatialARAnomalyLib.engine.volumes.volume import (
    Volume,
    check_scan,
)

TRUTH_ENDING = "_truth"
"""What follows a scan's name in that of its truth, in a folder of cases."""

COLUMNS = ("scan", "truth", "patient")
"""Of a table of cases; the last may be missing."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan of an evaluation."""

    number: int
    """From 1: what reports call it by."""
    scan: Path
    truth: Path | None
    """None for a scan without a lesion."""
    patient: str
    """Only its being the same for two scans matters; goes into no report."""

    def read(self) -> tuple[Volume, Bool[np.ndarray, "k j i"]]:
        """The scan, and which of its voxels are lesion.

        Raises `InputError`, naming the case, where one cannot be read, or the
        truth does not lie on the scan's voxels.
        """
        with self.named():
            volume = read_volume_file(self.scan)
            check_scan(volume)
            if self.truth is None:
                return volume, np.zeros(volume.voxels.shape, dtype=bool)
            truth = read_volume_file(self.truth, labels=True)
            check_on_grid(volume, truth)
            return volume, truth.voxels > 0

    @contextmanager
    def named(self) -> Iterator[None]:
        """Errors in this block say which case they are of."""
        try:
            yield
        except (InputError, ModelError) as error:
            raise type(error)(
                error.code,
                f"Case {self.number} ({self.scan.name}): {error.message}",
                error.hint,
                **error.facts,
            ) from None


def check_on_grid(volume: Volume, truth: Volume) -> None:
    """Raise `InputError` unless both have the same voxels in the same places."""
    if truth.voxels.shape != volume.voxels.shape:
        found, expected = (" × ".join(map(str, one.voxels.shape[::-1])) for one in (truth, volume))
        raise InputError(
            "truth-size", f"The truth must have the scan's {expected} voxels; it has {found}."
        )
    shape = volume.voxels.shape
    if not same_grid(volume.ras_from_voxel, truth.ras_from_voxel, shape):
        apart_mm = grids_apart_mm(volume.ras_from_voxel, truth.ras_from_voxel, shape)
        raise InputError(
            "truth-place",
            f"The truth must lie on the scan's voxels; it lies up to {apart_mm:.3g} mm from them.",
        )
    if not np.isfinite(truth.voxels).all():
        raise InputError("truth-values", "The truth must hold labels; it holds NaN.")


def find_cases(path: Path) -> list[Case]:
    """The cases of a CSV table (columns scan, truth, patient) or of a folder, in their order.

    In a table, paths count from its folder, and a scan with an empty truth has
    no lesion; without a column patient, every scan is a patient's only one. In
    a folder, `X_truth.nii.gz` is the truth of `X.nii.gz`. Raises `InputError`
    where there is none, or one is not there.
    """
    try:
        found = _from_folder(path) if path.is_dir() else _from_table(path)
        missing = [
            file.name
            for pair in found
            for file in pair[:2]
            if file is not None and not file.is_file()
        ]
    except OSError as error:
        raise unreadable(error) from None
    if not found:
        raise InputError("cases-none", f"Expected scans to evaluate; {path.name!r} names none.")
    if missing:
        raise InputError(
            "cases-missing",
            f"Every scan and truth must be there; {len(missing)} are not, first {missing[0]!r}.",
        )
    scans = [os.path.realpath(scan) for scan, _, _ in found]
    if len(set(scans)) < len(scans):
        twice = next(name for place, name in enumerate(scans) if name in scans[:place])
        raise InputError(
            "cases-twice", f"Every scan may be named once; {Path(twice).name!r} is named again."
        )
    return [
        Case(number=number, scan=scan, truth=truth, patient=patient or f"scan {number}")
        for number, (scan, truth, patient) in enumerate(found, start=1)
    ]


_Found = list[tuple[Path, Path | None, str]]
"""Scan, truth and patient ("" where it is not told)."""


def _from_folder(folder: Path) -> _Found:
    files = {
        volume_name(file): file
        for file in sorted(folder.iterdir())
        if has_volume_suffix(file) and not file.name.startswith(".") and file.is_file()
    }
    truths = {name for name in files if name.endswith(TRUTH_ENDING)}
    lone = sorted(name for name in truths if name.removesuffix(TRUTH_ENDING) not in files)
    if lone:
        raise InputError(
            "cases-lone-truth",
            f"Every truth must lie beside its scan; {files[lone[0]].name!r} has none.",
            ending=TRUTH_ENDING,
        )
    return [
        (file, files.get(name + TRUTH_ENDING), "")
        for name, file in files.items()
        if name not in truths
    ]


def _from_table(path: Path) -> _Found:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            # Spreadsheets of many countries part cells by semicolons.
            delimiter = ";" if ";" in first and "," not in first else ","
            file.seek(0)
            reader = csv.DictReader(file, delimiter=delimiter, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error):
        raise _no_table("it is no CSV in UTF-8") from None
    except FileNotFoundError:
        raise InputError("input-missing", f"{path.name!r} does not exist.") from None
    if not {"scan", "truth"} <= set(columns) <= set(COLUMNS) or len(set(columns)) < len(columns):
        raise _no_table(f"its first line is {', '.join(columns)[:80]!r}")
    found: _Found = []
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise _no_table(f"row {line} has another number of cells")
        scan, truth, patient = ((row.get(name) or "").strip() for name in COLUMNS)
        if not scan:
            raise _no_table(f"row {line} names no scan")
        found.append((path.parent / scan, path.parent / truth if truth else None, patient))
    return found


def _no_table(found: str) -> InputError:
    return InputError(
        "cases-table",
        f"Expected a table of cases with the columns scan, truth and, if wished, patient; {found}.",
    )
