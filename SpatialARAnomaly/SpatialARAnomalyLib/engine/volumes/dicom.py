"""DICOM series of a study folder: list them, choose one, read it as a volume."""

import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS
from SpatialARAnomalyLib.engine.volumes.itk import native_stderr_silenced
from SpatialARAnomalyLib.engine.volumes.refusals import unicode_name
from SpatialARAnomalyLib.engine.volumes.volume import Volume

POSITION_TOLERANCE = 0.1
"""Largest deviation of a slice's position, as a share of the slice distance (rounding)."""

SAME_POSITION_MM = 1e-3
"""Largest distance of images at one position."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines, and share of the spacing, within one series."""

UNIT_TOLERANCE = 1e-2
"""Largest error of the length and angle of direction cosines (some devices round them)."""

PIXEL_DATA = 0x7FE00010
"""Tag of Pixel Data (7FE0,0010)."""

ENCAPSULATED = 0xFFFFFFFF
"""Length of compressed Pixel Data (DICOM PS3.5 A.4)."""

_TAGS = (
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "SOPInstanceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "Rows", "Columns", "BitsAllocated", "SamplesPerPixel",
    "PhotometricInterpretation", "NumberOfFrames", "PatientID",
)  # fmt: skip

_SALT = os.urandom(16)
"""Random salt of this process: hashes of patient IDs cannot be compared outside of it."""


@dataclass(frozen=True)
class _Instance:
    path: Path
    header: Any
    stored_bytes: int
    """Length of the pixel data in bytes; `ENCAPSULATED` if they are compressed."""

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; 0 if missing."""
        return self.integer("Rows") or 0, self.integer("Columns") or 0

    def text(self, tag: str) -> str:
        return str(self._value(tag) or "")

    def integer(self, tag: str) -> int | None:
        """Return the attribute as an integer; None if it is missing or not an integer."""
        try:
            return int(self._value(tag))
        except (TypeError, ValueError, OverflowError):
            return None

    def numbers(self, tag: str, *shape: int) -> Float64[np.ndarray, "..."] | None:
        """Return the attribute as an array; None unless it has that shape and is finite."""
        try:
            values = np.array(self._value(tag), dtype=np.float64)
        except (TypeError, ValueError):
            return None
        return values if values.shape == shape and np.all(np.isfinite(values)) else None

    def _value(self, tag: str) -> Any:
        try:
            with warnings.catch_warnings(action="ignore"):
                return self.header.get(tag)
        except Exception:  # pydicom converts values on access, and raises anything
            return None


def _read_header(path: Path) -> _Instance:
    from pydicom.filereader import read_partial
    from pydicom.tag import BaseTag, Tag

    lengths = [0]

    def is_pixel_data(tag: BaseTag, _vr: str | None, length: int) -> bool:
        if found := bool(tag == PIXEL_DATA):
            lengths.append(length)
        return found

    with warnings.catch_warnings(action="ignore"), path.open("rb") as stream:
        header = read_partial(stream, is_pixel_data, specific_tags=[Tag(tag) for tag in _TAGS])
    return _Instance(path, header, stored_bytes=lengths[-1])


@dataclass(frozen=True)
class DicomSeries:
    """Images that share a Series Instance UID (0020,000E)."""

    uid: str
    number: int | None
    description: str
    modality: str
    instances: tuple[_Instance, ...]

    def __str__(self) -> str:
        number = "–" if self.number is None else str(self.number)
        return f"{number}: {self.modality} {self.description!r}, {len(self.instances)} images"

    @property
    def patient_hash(self) -> str | None:
        """Salted hash of the Patient ID (0010,0020), to compare within this process.

        None where it is missing, empty or not the same in all images.
        """
        ids = {one.text("PatientID").strip() for one in self.instances}
        if len(ids) > 1 or not max(ids):
            return None
        return hashlib.sha256(_SALT + ids.pop().encode()).hexdigest()

    @property
    def image_names(self) -> frozenset[str]:
        """SOP Instance UIDs (0008,0018) of the images."""
        return frozenset(one.text("SOPInstanceUID") or str(one.path) for one in self.instances)

    def merge(self, other: "DicomSeries") -> "DicomSeries":
        """Return the series with the images of another part of it added."""
        return replace(self, instances=self.instances + other.instances)


def list_series(
    source: Path | Iterable[Path], check_cancelled: Callable[[], None] = lambda: None
) -> list[DicomSeries]:
    """List the image series of a folder or of some files by number, ignoring other files.

    `check_cancelled` is called before every file, and may raise to stop.
    """
    files = sorted(source.rglob("*")) if isinstance(source, Path) else source
    groups: dict[str, list[_Instance]] = defaultdict(list)
    seen: set[str] = set()
    for path in files:
        check_cancelled()
        try:
            if not path.is_file():
                continue
            instance = _read_header(path)
        except Exception:  # noqa: S112 - pydicom raises anything on what is not DICOM, or half of it
            continue
        uid = instance.text("SeriesInstanceUID")
        # Exports often hold copies of an image, which are not further slices.
        name = instance.text("SOPInstanceUID") or str(path)
        if not uid or name in seen:
            continue
        seen.add(name)
        groups[uid].append(instance)
    series = [
        DicomSeries(
            uid=uid,
            number=instances[0].integer("SeriesNumber"),
            description=instances[0].text("SeriesDescription"),
            modality=instances[0].text("Modality"),
            instances=tuple(instances),
        )
        for uid, instances in groups.items()
        if any(one.integer("Rows") for one in instances)
    ]
    return sorted(series, key=lambda one: (one.number is None, one.number or 0, one.uid))


def choose_series(series: list[DicomSeries], wanted: str | None) -> DicomSeries:
    """Return the series of the wanted number or UID, or the only series if none is wanted.

    Raises `InputError` with a list of the series if the choice is ambiguous.
    """
    if not series:
        raise InputError(
            "input-empty", "Expected a folder with a DICOM series; found no DICOM images in it."
        )
    listing = "; ".join(str(one) for one in series)
    if wanted is None:
        if len(series) == 1:
            return series[0]
        raise InputError(
            "series-ambiguous",
            f"Expected one DICOM series; the folder holds {len(series)} ({listing}).",
        )
    chosen = [
        one
        for one in series
        if wanted == one.uid or (one.number is not None and wanted == str(one.number))
    ]
    if not chosen:
        raise InputError(
            "series-missing",
            f"No series has the number or UID {wanted}; the folder holds {listing}.",
        )
    if len(chosen) > 1:
        raise InputError(
            "series-ambiguous",
            f"Series number {wanted} stands for {len(chosen)} series "
            f"({', '.join(one.uid for one in chosen)}).",
        )
    return chosen[0]


def _damaged_error() -> InputError:
    return InputError(
        "input-damaged", "An image of the DICOM series is truncated or cannot be decoded."
    )


def read_series(series: DicomSeries, check_cancelled: Callable[[], None] = lambda: None) -> Volume:
    """Read a series as a volume, with rescale slope and intercept (0028,1053 and 1052) applied.

    Voxel axes are the image's columns and rows and the order of slices along
    their normal (DICOM PS3.3 C.7.6.2.1.1); a tilted gantry gives a sheared grid.
    `check_cancelled` is called before every image, and may raise to stop.
    Raises `InputError` for another Modality (0008,0060) than MR or CT, color, inverted
    or multi-frame images, images of several sizes or orientations, missing, doubled or
    unevenly spaced slices, or pixels that cannot be decoded.
    """
    import SimpleITK as sitk

    modality = _modality(series)
    _check_images(series)
    lps_from_voxel, order = _place(series)
    voxels = np.empty((0, 0, 0), dtype=np.float32)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    with native_stderr_silenced():
        for k, index in enumerate(order):
            check_cancelled()
            image = _read_pixels(series.instances[index], reader)
            if k == 0:  # allocated by the decoded image, not by what a header promises
                voxels = np.empty((len(order), *image.shape), dtype=np.float32)
            voxels[k] = image
    return Volume(voxels, LPS_FROM_RAS @ lps_from_voxel, modality=modality)


def _modality(series: DicomSeries) -> Modality | None:
    """Return the series' modality; None if its attribute is empty."""
    if not series.modality:
        return None
    if series.modality not in set(Modality):
        raise InputError(
            "modality-unsupported",
            f"Expected a DICOM series of modality MR or CT; found {series.modality!r}.",
        )
    return Modality(series.modality)


def _check_images(series: DicomSeries) -> None:
    """Raise `InputError` unless all images are single gray slices of one size."""
    for one in series.instances:
        rows, columns = one.size
        needed = rows * columns * (one.integer("BitsAllocated") or 0) // 8
        # GDCM would leave missing pixels unset. (`ENCAPSULATED` exceeds every size.)
        if one.stored_bytes < max(needed, 1) or min(one.size) < 1:
            raise _damaged_error()
    if any((one.integer("NumberOfFrames") or 1) != 1 for one in series.instances):
        raise InputError(
            "dicom-multiframe", "Expected one image per DICOM file; found multi-frame images."
        )
    sizes = {one.size for one in series.instances}
    if len(sizes) > 1:
        found = ", ".join(sorted(f"{rows} × {columns}" for rows, columns in sizes))
        raise InputError(
            "dicom-size", f"All images of a series must have one size; found {found} pixels."
        )
    for one in series.instances:
        kind = one.text("PhotometricInterpretation") or "MONOCHROME2"
        if one.integer("SamplesPerPixel") not in (None, 1) or not kind.startswith("MONOCHROME"):
            raise InputError(
                "volume-color", "Expected one gray value per pixel; the DICOM series is in color."
            )
        if kind != "MONOCHROME2":
            raise InputError(
                "dicom-inverted",
                "Expected images whose high values are bright (MONOCHROME2); "
                f"the DICOM series is {kind}.",
            )


def _is_whole(path: Path) -> bool:
    """Return True if compressed pixel data have an end, for which GDCM would search long."""
    import pydicom

    try:
        with warnings.catch_warnings(action="ignore"):
            return "PixelData" in pydicom.dcmread(path, specific_tags=["PixelData"])
    except Exception:  # pydicom raises anything on damaged files
        return False


def _read_pixels(instance: _Instance, reader: Any) -> Float32[np.ndarray, "j i"]:
    import SimpleITK as sitk

    if instance.stored_bytes == ENCAPSULATED and not _is_whole(instance.path):
        raise _damaged_error()
    try:
        reader.SetFileName(unicode_name(instance.path))
        pixels = sitk.GetArrayFromImage(reader.Execute())
    except (RuntimeError, MemoryError):
        raise _damaged_error() from None
    if pixels.shape != (1, *instance.size):
        raise _damaged_error()
    return np.asarray(pixels[0], np.float32)


def _stacked(series: DicomSeries, tag: str, count: int) -> Float64[np.ndarray, "n m"]:
    """Return an attribute of `count` numbers of every image, one row each."""
    rows = [one.numbers(tag, count) for one in series.instances]
    found = [row for row in rows if row is not None]
    if len(found) < len(rows):
        raise InputError(
            "dicom-geometry",
            f"Every image of a series must have {tag} ({count} numbers); "
            f"{len(rows) - len(found)} of {len(rows)} do not.",
        )
    return np.stack(found)


def _place(series: DicomSeries) -> tuple[Float[np.ndarray, "4 4"], list[int]]:
    """Return `lps_from_voxel` and the order of the instances along the slice normal."""
    positions = _stacked(series, "ImagePositionPatient", 3)
    orientations = _stacked(series, "ImageOrientationPatient", 6)
    spacings = _stacked(series, "PixelSpacing", 2)
    if spacings.min() <= 0:
        raise InputError(
            "spacing-zero", f"PixelSpacing must be positive; found {spacings.min():g} mm."
        )
    if (
        np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE
        or np.ptp(spacings, axis=0).max() > ORIENTATION_TOLERANCE * spacings.max()
    ):
        raise InputError(
            "dicom-geometry", "All images of a series must have one orientation and pixel spacing."
        )
    along_row, along_column = orientations[0, :3], orientations[0, 3:]
    products = [along_row @ along_row, along_column @ along_column, along_row @ along_column]
    if not np.allclose(products, [1, 1, 0], rtol=0, atol=UNIT_TOLERANCE):
        raise InputError(
            "dicom-geometry",
            "ImageOrientationPatient must hold two perpendicular unit vectors; it does not.",
        )
    normal = np.cross(along_row, along_column)
    heights = positions @ normal
    order: list[int] = np.argsort(heights, kind="stable").tolist()
    positions, heights = positions[order], heights[order]
    single = len(order) == 1
    step = normal * _thickness_mm(series.instances[0]) if single else _step(positions, heights)
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, 0] = along_row * spacings[0, 1]  # PixelSpacing: rows first
    lps_from_voxel[:3, 1] = along_column * spacings[0, 0]
    lps_from_voxel[:3, 2] = step
    lps_from_voxel[:3, 3] = positions[0]
    return lps_from_voxel, order


def _thickness_mm(instance: _Instance) -> float:
    """Return the extent of a single slice along its normal."""
    for tag in ("SpacingBetweenSlices", "SliceThickness"):
        thickness = instance.numbers(tag)
        if thickness:
            return abs(float(thickness))  # nuclear medicine allows negative spacing
    raise InputError(
        "dicom-geometry", "A series of one image must have its SliceThickness; it has none."
    )


def _step(
    positions: Float64[np.ndarray, "n 3"], heights: Float64[np.ndarray, " n"]
) -> Float64[np.ndarray, " 3"]:
    """Return the vector from one slice to the next in mm, for positions sorted by height."""
    last = len(heights) - 1
    step: Float64[np.ndarray, " 3"] = (positions[-1] - positions[0]) / last
    distance = float(heights[-1] - heights[0]) / last
    gaps = np.diff(heights)
    if gaps.min() <= SAME_POSITION_MM:
        raise InputError(
            "dicom-4d",
            f"Expected one image per position; several of the {last + 1} images of the series "
            "share one (a series over time, or of several contrasts).",
        )
    even = positions[0] + np.arange(last + 1)[:, None] * step
    if np.linalg.norm(positions - even, axis=1).max() > POSITION_TOLERANCE * distance:
        raise InputError(
            "dicom-gap",
            f"Slices must be evenly spaced; their distances reach from {gaps.min():.2f} to "
            f"{gaps.max():.2f} mm (a slice may be missing).",
        )
    return step
