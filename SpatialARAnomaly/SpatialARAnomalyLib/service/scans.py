"""Scans in files, in DICOM folders, or in arrays that the panel wrote, and how they are read."""

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
from SpatialARAnomalyLib.engine.volumes.refusals import unreadable
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan
from SpatialARAnomalyLib.service.array_files import Affine, affine_array, read_voxels


@dataclass(frozen=True, kw_only=True)
class ScanSource(Spec):
    """Where one scan is, in code and in JSON: `path` (and `series`), or `voxels` and `affine`."""

    path: Path | None = None
    """A volume file, or a folder with a DICOM series."""
    series: str | None = None
    """Number or UID of the series, where the folder holds several."""
    voxels: Path | None = None
    """A `.npy` file of an array [k, j, i], for a scan of Slicer's scene."""
    affine: Affine | None = None
    """`ras_from_voxel` of the array."""
    name: str | None = None
    """What messages call the array."""
    modality: Modality | None = None
    """Modality of the array, where it is known."""

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
        """What messages call the scan."""
        return self.name or "scan" if self.path is None else self.path.name

    def read(self, check_cancelled: Callable[[], None] = lambda: None) -> tuple[str, Volume]:
        """A name for the scan's results, and the checked volume; an array is memory-mapped.

        `check_cancelled` is called before every file that is read, and may raise to stop.
        Raises `InputError` for anything that is not one readable scan.
        """
        if self.voxels is not None and self.affine is not None:
            check_cancelled()
            volume = Volume(read_voxels(self.voxels), affine_array(self.affine), self.modality)
            check_scan(volume)
            return self.label, volume
        path = self.path or Path()
        if not path.is_dir():
            check_cancelled()
            volume = read_volume_file(path)
            check_scan(volume)
            return volume_name(path), volume
        series = list_series(path, check_cancelled)
        chosen = choose_series(series, self.series)
        volume = read_series(chosen, check_cancelled)
        check_scan(volume)
        name = path.resolve().name
        if len(series) > 1 and chosen.number is not None:
            name = f"{name}_series{chosen.number}"
        return name, volume

    def to_dict(self) -> dict[str, Any]:
        """The scan in the types JSON knows, with absolute paths and without what is not set."""
        values = super().to_dict()
        for name in ("path", "voxels"):
            if values[name] is not None:
                values[name] = os.path.abspath(values[name])
        return {key: value for key, value in values.items() if value is not None}


def find_inputs(
    path: Path, series: str | None = None, check_cancelled: Callable[[], None] = lambda: None
) -> list[ScanSource]:
    """The scans a path stands for: a file, a DICOM series, or every volume file of a folder.

    `check_cancelled` is called before every file of the folder, and may raise to stop.
    Raises `InputError` where there is none, or where `series` makes no sense.
    """
    try:
        exists, is_folder = path.exists(), path.is_dir()
        entries = sorted(path.iterdir()) if is_folder else []
        files = []
        for one in entries:
            check_cancelled()
            if _is_volume_file(one):
                files.append(one)
    except OSError as error:
        raise unreadable(error) from None
    if not exists:
        raise InputError("input-missing", f"{_shown_name(path)!r} does not exist.")
    if not is_folder:
        if series is not None:
            raise InputError(
                "series-of-file",
                f"A series can be chosen in a DICOM folder only; {_shown_name(path)!r} is a file.",
            )
        return [ScanSource(path=path)]
    if files and series is None:
        return [ScanSource(path=one) for one in files]
    if not entries:
        raise InputError("input-empty", f"The folder {_shown_name(path)!r} is empty.")
    return [ScanSource(path=path, series=series)]


def _is_volume_file(path: Path) -> bool:
    # macOS leaves hidden companions (._scan.nii) on drives of other systems.
    return has_volume_suffix(path) and not path.name.startswith(".") and path.is_file()


def _shown_name(path: Path) -> str:
    """The path's last part as the user wrote it; "." and ".." as the folder they stand for."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def find_one_input(
    path: Path, series: str | None = None, check_cancelled: Callable[[], None] = lambda: None
) -> ScanSource:
    """The only scan a path stands for; raises `InputError` where there are several."""
    inputs = find_inputs(path, series, check_cancelled)
    if len(inputs) == 1:
        return inputs[0]
    raise InputError(
        "input-several",
        f"Expected one scan; the folder {_shown_name(path)!r} holds {len(inputs)} volume files "
        f"({', '.join(one.label for one in inputs[:5])}"
        f"{', …' if len(inputs) > 5 else ''}).",
    )
