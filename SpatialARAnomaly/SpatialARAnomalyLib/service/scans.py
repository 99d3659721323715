"""Scans in volume files, DICOM folders or arrays of the panel: finding and reading them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from SpatialARAnomalyLib.engine.errors import InputError, SpecError
from SpatialARAnomalyLib.engine.progress import Reporter, SilentReporter
from SpatialARAnomalyLib.engine.specs import Modality, Orientation, Spec
from SpatialARAnomalyLib.engine.volumes.dicom import read_series
from SpatialARAnomalyLib.engine.volumes.dicom_headers import is_dicom
from SpatialARAnomalyLib.engine.volumes.dicom_series import (
    UNKNOWN,
    DicomSeries,
    choose_series,
    list_series,
)
from SpatialARAnomalyLib.engine.volumes.files import (
    has_volume_suffix,
    read_volume_file,
    volume_name,
)
from SpatialARAnomalyLib.engine.volumes.formats import count_text, other_formats
from SpatialARAnomalyLib.engine.volumes.geometry import same_grid
from SpatialARAnomalyLib.engine.volumes.refusals import format_error, unreadable_error
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan
from SpatialARAnomalyLib.service.array_files import (
    Affine,
    affine_array,
    read_mask_array,
    read_voxels,
)


@dataclass(frozen=True, kw_only=True)
class ScanSource(Spec):
    """The place of one scan: `path` (and which scan in it), or `voxels` and `affine`."""

    path: Path | None = None
    """A volume file, a DICOM file, or a folder with a DICOM series."""
    series: str | None = None
    """Number or UID of the series, where the folder holds several."""
    files: tuple[str, ...] = ()
    """The files of the series, as paths within the folder, where they are known and it holds
    others, which then are not read."""
    volume: int | None = None
    """Number of the volume from 1, where the series or file holds several (times, echoes)."""
    allow_gaps: bool = False
    """Read a DICOM series with a few missing slices."""
    orientation: Orientation | None = None
    """The form of a NIfTI file that counts, where its two disagree."""
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
    mask: Path | None = None
    """Mask of the scan: a label map file, or a `.npy` file for an array."""

    def __post_init__(self) -> None:
        of_file = self.path and not (self.voxels or self.affine or self.name or self.modality)
        of_array = self.voxels and self.affine and not (self.path or self.series)
        if not (of_file or of_array):
            raise SpecError(
                "spec-value",
                "A scan must be given by path (and series), or by voxels and affine (and name and "
                "modality), each with or without a mask; found another set of these.",
            )

    @property
    def label(self) -> str:
        """Name of the scan in messages."""
        return self.name or "scan" if self.path is None else self.path.name

    def read(
        self,
        check_cancelled: Callable[[], None] = lambda: None,
        report: Reporter = SilentReporter(),
    ) -> tuple[str, Volume]:
        """Read and check the scan; return a name for its results, and the volume.

        An array is memory-mapped. `check_cancelled` is called before every file that is read,
        and may raise; `report` receives a notice where the mask is on another grid. Raises
        `InputError` unless this is one readable scan, and its mask fits it.
        """
        path = self.path or Path()
        if self.voxels is not None and self.affine is not None:
            check_cancelled()
            name = self.label
            volume = Volume(read_voxels(self.voxels), affine_array(self.affine), self.modality)
        elif path.is_dir() or is_dicom(path):
            series = self.list_series(check_cancelled)
            if not series:
                raise _no_images_error(path)
            chosen = choose_series(series, self.series)
            # The root of a disc has no name.
            name = (path.resolve().name or "scan") if path.is_dir() else path.stem
            if (len(series) > 1 or self.files) and chosen.number is not None:
                name = f"{name}_series{chosen.number}"
            volume = read_series(
                chosen, check_cancelled, volume=self.volume, allow_gaps=self.allow_gaps
            )
            unread = sum(len(one.files) for one in series if one.uid == UNKNOWN)
            if unread and chosen.uid != UNKNOWN:
                text = (
                    f"Files that look like DICOM and are damaged or empty: {unread}. Slices may be "
                    "missing."
                )
                volume = volume.noted("files-unread", text)
            if len(volume.voxels) == 1 and not path.is_dir():
                text = "The file holds one image: give its folder for the whole series."
                volume = volume.noted("one-image", text)
            if self.orientation is not None:
                text = "DICOM states one orientation: the one chosen has no effect."
                volume = volume.noted("choice-unused", text)
        else:
            check_cancelled()
            name = volume_name(path)
            volume = read_volume_file(path, volume=self.volume, orientation=self.orientation)
            if self.allow_gaps:
                text = "Gaps are allowed in DICOM series only: the file's slices are evenly spaced."
                volume = volume.noted("choice-unused", text)
        return name, self.masked(check_scan(volume), report)

    def list_series(self, check_cancelled: Callable[[], None]) -> list[DicomSeries]:
        """List the series of a DICOM file, of a folder, or of those of its files that are given."""
        path = self.path or Path()
        if self.files:
            return list_series([path / name for name in self.files], check_cancelled)
        return list_series(path if path.is_dir() else [path], check_cancelled)

    def masked(self, volume: Volume, report: Reporter) -> Volume:
        """Return the scan's volume with its mask, if it has one; raises as `read` does."""
        if self.mask is None:
            return volume
        if self.voxels is not None:
            return volume.masked(read_mask_array(self.mask))
        return read_mask(self.mask, volume, report, self.orientation)

    def to_dict(self) -> dict[str, Any]:
        """Return the values that are set, as JSON types and with absolute paths."""
        values = super().to_dict()
        for name in ("path", "voxels", "mask"):
            if values[name] is not None:
                values[name] = os.path.abspath(values[name])
        return {key: value for key, value in values.items() if value not in (None, [])}


def _is_volume_file(path: Path) -> bool:
    # macOS leaves hidden companions (._scan.nii) on drives of other systems.
    is_named = has_volume_suffix(path) and not path.name.startswith(".")
    return is_named and path.is_file() and not is_dicom(path)


def _no_images_error(folder: Path) -> InputError:
    if not folder.is_dir():
        return InputError(
            "input-empty", "Expected images; found the directory of a disc (DICOMDIR)."
        )
    files = [path for path in folder.rglob("*") if path.is_file()]
    kinds = other_formats(files)
    kinds.update(
        "volume file in a subfolder"
        for path in files
        if path.parent != folder and _is_volume_file(path)
    )
    return InputError(
        "input-empty",
        "Expected a folder with volume files or DICOM images; found no DICOM images in it"
        f"{f', but {count_text(kinds)}' if kinds else ''}.",
    )


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
            if _is_volume_file(one):
                files.append(one)
    except OSError as error:
        raise unreadable_error(error) from None
    name = shown_name(path)
    if not exists:
        raise InputError("input-missing", f"{name!r} does not exist.")
    if not is_folder and not path.is_file():
        raise format_error("a pipe or a device, which cannot be read twice")
    if not is_folder and series is not None:
        raise InputError(
            "series-of-file", f"A series can be chosen in a DICOM folder only; {name!r} is a file."
        )
    if len(files) == 1 and series is None:
        for one in path.rglob("*"):
            check_cancelled()
            if one not in files and one.is_file() and is_dicom(one):
                raise InputError(
                    "input-mixed",
                    f"Expected one scan; the folder {name!r} holds {files[0].name!r} beside "
                    "DICOM images.",
                )
    if files and series is None:
        return [ScanSource(path=one) for one in files]
    if is_folder and not entries:
        raise InputError("input-empty", f"The folder {name!r} is empty.")
    return [ScanSource(path=path, series=series)]


def find_one_scan(
    path: Path,
    series: str | None = None,
    mask: Path | None = None,
    check_cancelled: Callable[[], None] = lambda: None,
) -> ScanSource:
    """Return the only scan of a path; raises `InputError` where there are several."""
    scans = find_scans(path, series, check_cancelled)
    if len(scans) == 1:
        return replace(scans[0], mask=mask)
    names = [one.label for one in scans[:5]] + ["…"] * (len(scans) > 5)
    raise InputError(
        "input-several",
        f"Expected one scan; the folder {shown_name(path)!r} holds {len(scans)} volume files "
        f"({', '.join(names)}).",
    )


def read_volume(
    path: Path | str,
    series: str | None = None,
    *,
    volume: int | None = None,
    allow_gaps: bool = False,
    orientation: Orientation | str | None = None,
    mask: Path | str | None = None,
    report: Reporter = SilentReporter(),
) -> Volume:
    """Read a scan: a NIfTI, NRRD, MetaImage or DICOM file, or a folder with a DICOM series.

    Args:
        path: The file or folder.
        series: Number or UID of the series, where the folder holds several.
        volume: Number of the volume from 1, where the series or file holds several.
        allow_gaps: Read a DICOM series with a few missing slices.
        orientation: The form of a NIfTI file that counts, where its two disagree.
        mask: A label map file: where to look. Any label counts (`read_mask`).
        report: Receives a notice where the mask is on another grid.

    Raises:
        InputError: The path does not hold exactly one readable scan, or the mask does not fit it.
    """
    source = replace(
        find_one_scan(Path(path), series, None if mask is None else Path(mask)),
        volume=volume,
        allow_gaps=allow_gaps,
        orientation=None if orientation is None else Orientation(orientation),
    )
    return source.read(report=report)[1]


MIN_MASK_INSIDE = 0.5
"""Share of a mask's voxels that must lie in the scan; less is the mask of another scan."""


def read_mask(
    path: Path, volume: Volume, report: Reporter, orientation: Orientation | None = None
) -> Volume:
    """Return the volume with the mask of a label map file, whose labels all count.

    A mask on another grid is resampled to the nearest voxel, with a notice; what it does not
    cover is outside the mask.

    Raises:
        InputError: The file cannot be read, holds no labels, or lies elsewhere.
    """
    labels = read_volume_file(path, labels=True, orientation=orientation)
    for code, text in labels.notices:
        report.notice(code, f"The mask: {text}")
    inside = labels.masked(labels.voxels).mask
    assert inside is not None
    shape = volume.voxels.shape
    if inside.shape == shape and same_grid(volume.ras_from_voxel, labels.ras_from_voxel, shape):
        return volume.masked(inside)
    resampled, share = resample_mask(inside, labels.ras_from_voxel, volume)
    if share < MIN_MASK_INSIDE:
        raise InputError(
            "mask-place",
            f"The mask must lie in the scan; {100 * share:.0f} % of its voxels do.",
        )
    report.notice(
        "mask-resampled",
        "The mask is on another grid: each voxel of the scan takes the nearest one of the mask.",
    )
    return volume.masked(resampled)


def resample_mask(
    mask: Bool[np.ndarray, "K J I"], ras_from_voxel: Float[np.ndarray, "4 4"], volume: Volume
) -> tuple[Bool[np.ndarray, "k j i"], float]:
    """Return a mask on a volume's grid, and the share of its voxels that lie in the volume."""
    to_volume = np.linalg.inv(volume.ras_from_voxel) @ ras_from_voxel
    places = to_volume[:3, :3] @ np.argwhere(mask)[:, ::-1].T + to_volume[:3, 3:]
    size = np.array(volume.voxels.shape[::-1])[:, None]
    share = float(((places > -0.5) & (places < size - 0.5)).all(axis=0).mean())
    to_mask = np.linalg.inv(to_volume)
    resampled = ndimage.affine_transform(
        mask.astype(np.uint8),
        to_mask[2::-1, 2::-1],
        to_mask[2::-1, 3],
        output_shape=volume.voxels.shape,
        order=0,
        mode="grid-constant",
    )
    return resampled > 0, share


def shown_name(path: Path) -> str:
    """Return the last part of a path; for "." and ".." the name of the folder itself."""
    return path.name if path.name not in ("", "..") else path.resolve().name
