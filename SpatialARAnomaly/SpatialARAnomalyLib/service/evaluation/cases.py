"""Cases of an evaluation: scans with their ground truth, from a table, a folder or memory."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from SpatialARAnomalyLib.engine.errors import InputError, ModelError
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.specs import Orientation
from SpatialARAnomalyLib.engine.volumes.files import (
    has_volume_suffix,
    read_volume_file,
    volume_name,
)
from SpatialARAnomalyLib.engine.volumes.geometry import grids_apart_mm, lengths_text, same_grid
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable_error
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.scan_table import TableProblem, read_scan_table
from SpatialARAnomalyLib.service.scans import read_mask

TRUTH_ENDING = "_truth"
"""Ending of a ground truth's name, after the name of its scan, in a folder of cases."""


@dataclass(frozen=True, eq=False)
class Case:
    """A scan with its ground truth."""

    scan: Path | str | Volume
    truth: Path | str | Shaped[np.ndarray, "k j i"] | None = None
    """A label map, or an array on the scan's voxels; above zero is lesion. None: a normal scan."""
    patient: str = ""
    """Name that the scans of one patient share, used in no report; "": the patient's only scan."""
    mask: Path | str | None = None
    """A label map of where to look; None for the whole scan, or a volume with its own mask."""
    orientation: Orientation | None = None
    """The form of NIfTI files that counts, where two disagree."""

    def read(self, report: Reporter = SilentReporter()) -> tuple[Volume, Bool[np.ndarray, "k j i"]]:
        """Read the scan with its mask, and which of its voxels are lesion.

        Raises `InputError` where one cannot be read, or they do not have the same voxels;
        `report` receives a notice where the mask is on another grid.
        """
        if isinstance(self.scan, Volume):
            volume = self.scan
        else:
            volume = read_volume_file(Path(self.scan), orientation=self.orientation)
        if self.mask is not None:
            volume = read_mask(Path(self.mask), volume, report, self.orientation)
        if self.truth is None:
            return volume, np.zeros(volume.voxels.shape, dtype=bool)
        if isinstance(self.truth, np.ndarray):
            truth = Volume(np.asarray(self.truth, dtype=np.float32), volume.ras_from_voxel)
        else:
            with _named(f"The truth {Path(self.truth).name}: "):
                truth = read_volume_file(
                    Path(self.truth), labels=True, orientation=self.orientation
                ).turned(volume.ras_from_voxel)
        check_on_grid(volume, truth)
        return volume, truth.voxels > 0

    @property
    def name(self) -> str:
        """Name of the scan's file, without suffix; empty for a volume in memory."""
        return "" if isinstance(self.scan, Volume) else volume_name(Path(self.scan))

    def named(self, number: int) -> AbstractContextManager[None]:
        """Put the case's number (and file name) before the message of an error in the block."""
        file = "" if isinstance(self.scan, Volume) else f" ({Path(self.scan).name})"
        return _named(f"Case {number}{file}: ")


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put a name before the message of an error in the block."""
    try:
        yield
    except (InputError, ModelError) as error:
        raise type(error)(error.code, name + error.message, **error.facts) from None


def check_on_grid(volume: Volume, truth: Volume) -> None:
    """Raise `InputError` unless the ground truth has the scan's voxels, and finite values."""
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
            "The truth must lie on the scan's voxels; it lies up to "
            f"{lengths_text([apart_mm])} mm from them.",
        )
    if not np.isfinite(truth.voxels).all():
        raise InputError("truth-values", "The truth must hold labels; it holds NaN.")
    if truth.voxels.min() < 0:
        raise InputError("truth-values", "The truth must hold labels; it holds negative values.")


def find_cases(path: Path, report: Reporter = SilentReporter()) -> list[Case]:
    """Return the cases of a CSV table (columns scan, truth, patient, mask) or of a folder.

    In a table, paths are relative to its folder, and a scan with an empty truth is normal. In a
    folder, `X_truth.nii.gz` is the truth of `X.nii.gz`.

    Raises:
        InputError: There is no case, or one of the files does not exist.
    """
    try:
        found = _from_folder(path) if path.is_dir() else _from_table(path, report)
        missing = [
            file.name
            for scan, truth, _, mask in found
            for file in (scan, truth, mask)
            if file is not None and not file.is_file()
        ]
    except OSError as error:
        raise unreadable_error(error) from None
    if not found:
        raise InputError("cases-none", f"Expected scans to evaluate; {path.name!r} has none.")
    if missing:
        raise InputError(
            "cases-missing",
            f"Every scan, truth and mask must exist; missing: {len(missing)}, "
            f"first {missing[0]!r}.",
        )
    scans = [os.path.realpath(scan) for scan, *_ in found]
    if len(set(scans)) < len(scans):
        twice = next(name for place, name in enumerate(scans) if name in scans[:place])
        raise InputError(
            "cases-twice", f"Every scan may be named once; {Path(twice).name!r} is named again."
        )
    return [Case(*one) for one in found]


_Found = list[tuple[Path, Path | None, str, Path | None]]
"""Scan, truth, patient ("" where it is unknown) and mask."""


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
        (file, files.get(name + TRUTH_ENDING), "", None)
        for name, file in files.items()
        if name not in truths
    ]


def _from_table(path: Path, report: Reporter) -> _Found:
    try:
        rows = read_scan_table(path, ["scan", "truth"], ["patient", "mask"], report)
    except TableProblem as problem:
        raise InputError(
            "cases-table",
            "Expected a table of cases with the columns scan, truth and (optional) patient and "
            f"mask; {problem}.",
        ) from None
    return [
        (
            path.parent / row["scan"],
            path.parent / row["truth"] if row["truth"] else None,
            row["patient"],
            path.parent / row["mask"] if row["mask"] else None,
        )
        for row in rows
    ]
