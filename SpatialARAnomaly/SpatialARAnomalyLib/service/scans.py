"""Scans in volume files, DICOM folders or arrays of the panel: finding and reading them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.errors import InputError, SpecError
from SpatialARAnomalyLib.engine.specs import Modality, Spec
from SpatialARAnomalyLib.engine.volumes.dicom import choose_series, list_series, read_series
from SpatialARAnomalyLib.engine.volumes.files import (
    has_volume_suffix,
    read_volume_file,
    volume_name,
)
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable_error
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan
from SpatialARAnomalyLib.service.array_files import Affine, affine_array, read_voxels


@dataclass(frozen=True, kw_only=True)
class ScanSource(Spec):
    """The place of one scan: `path` (and `series`), or `voxels` and `affine`."""

    path: Path | None = None
    """A volume file, or a folder with a DICOM series."""
    series: str | None = None
    """Number or UID of the series, where the folder holds several."""
    voxels: Path | None = None
    """A `.npy` file of an array [k, j, i], for a scan of Slicer's scene."""
    affine: Affine | None = None
    """`ras_from_voxel` of the array."""
    name: str | None = None
    """Name of the array in messages."""
    modality: Modality | None = None
    """Modality of the array; None where it is unknown."""
    patient: str | None = None
    """Word that the scans of one patient share (`service.training.patients`)."""

    def __post_init__(self) -> None:
        of_file = self.path and not (self.voxels or self.affine or self.name or self.modality)
        of_array = self.voxels and self.affine and not (self.path or self.series)
        if not (of_file or of_array):
            raise SpecError(
                "spec-value",
                "A scan must be given by path (and series), or by voxels and affine (and name and "
                "modality); found another set of these.",
            )

    @property
    def label(self) -> str:
        """Name of the scan in messages."""
        return self.name or "scan" if self.path is None else self.path.name

    def read(self, check_cancelled: Callable[[], None] = lambda: None) -> tuple[str, Volume]:
        """Read and check the scan; return a name for its results, and the volume.

        An array is memory-mapped. `check_cancelled` is called before every file that is read,
        and may raise. Raises `InputError` unless this is one readable scan.
        """
        path = self.path or Path()
        if self.voxels is not None and self.affine is not None:
            check_cancelled()
            name = self.label
            volume = Volume(read_voxels(self.voxels), affine_array(self.affine), self.modality)
        elif path.is_dir():
            series = list_series(path, check_cancelled)
            chosen = choose_series(series, self.series)
            name = path.resolve().name
            if len(series) > 1 and chosen.number is not None:
                name = f"{name}_series{chosen.number}"
            volume = read_series(chosen, check_cancelled)
        else:
            check_cancelled()
            name, volume = volume_name(path), read_volume_file(path)
        check_scan(volume)
        return name, volume

    def to_dict(self) -> dict[str, Any]:
        """Return the values that are set, as JSON types and with absolute paths."""
        values = super().to_dict()
        for name in ("path", "voxels"):
            if values[name] is not None:
                values[name] = os.path.abspath(values[name])
        return {key: value for key, value in values.items() if value is not None}


def find_scans(
    path: Path, series: str | None = None, check_cancelled: Callable[[], None] = lambda: None
) -> list[ScanSource]:
    """Return the scans of a path: a file, a DICOM series, or every volume file of a folder.

    `check_cancelled` is called before every file of the folder, and may raise.
    Raises `InputError` where there is no scan, or `series` is given for a file.
    """
    try:
        exists, is_folder = path.exists(), path.is_dir()
        entries = sorted(path.iterdir()) if is_folder else []
        files = []
        for one in entries:
            check_cancelled()
            # macOS leaves hidden companions (._scan.nii) on drives of other systems.
            if has_volume_suffix(one) and not one.name.startswith(".") and one.is_file():
                files.append(one)
    except OSError as error:
        raise unreadable_error(error) from None
    name = shown_name(path)
    if not exists:
        raise InputError("input-missing", f"{name!r} does not exist.")
    if not is_folder and series is not None:
        raise InputError(
            "series-of-file", f"A series can be chosen in a DICOM folder only; {name!r} is a file."
        )
    if files and series is None:
        return [ScanSource(path=one) for one in files]
    if is_folder and not entries:
        raise InputError("input-empty", f"The folder {name!r} is empty.")
    return [ScanSource(path=path, series=series)]


def find_one_scan(
    path: Path, series: str | None = None, check_cancelled: Callable[[], None] = lambda: None
) -> ScanSource:
    """Return the only scan of a path; raises `InputError` where there are several."""
    scans = find_scans(path, series, check_cancelled)
    if len(scans) == 1:
        return scans[0]
    names = [one.label for one in scans[:5]] + ["…"] * (len(scans) > 5)
    raise InputError(
        "input-several",
        f"Expected one scan; the folder {shown_name(path)!r} holds {len(scans)} volume files "
        f"({', '.join(names)}).",
    )


def read_volume(path: Path | str, series: str | None = None) -> Volume:
    """Read a scan: a NIfTI, NRRD or MetaImage file, or a folder with a DICOM series.

    Args:
        path: The file or folder.
        series: Number or UID of the series, where the folder holds several.

    Raises:
        InputError: The path does not hold exactly one readable scan.
    """
    _, volume = find_one_scan(Path(path), series).read()
    return volume


def shown_name(path: Path) -> str:
    """Return the last part of a path; for "." and ".." the name of the folder itself."""
    return path.name if path.name not in ("", "..") else path.resolve().name
