"""DICOM series in a study folder: list them, choose one, read it as a volume."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from .errors import InputError
from .geometry import LPS_FROM_RAS
from .specs import Modality
from .volume import Volume

POSITION_TOLERANCE = 0.1
"""A slice may stand off its place by this share of the slice distance (scanners round)."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines within one series."""

_TAGS = [
    "SeriesInstanceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "SOPInstanceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
]


@dataclass(frozen=True)
class _Instance:
    path: Path
    header: Any


@dataclass(frozen=True)
class DicomSeries:
    """The images of one Series Instance UID (0020,000E)."""

    uid: str
    number: int | None
    description: str
    modality: str
    instances: tuple[_Instance, ...]

    def __str__(self) -> str:
        number = "–" if self.number is None else str(self.number)
        return f"{number}: {self.modality} {self.description!r}, {len(self.instances)} images"


def list_series(folder: Path) -> list[DicomSeries]:
    """The image series below a folder, by series number; other files are passed over."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    groups: dict[str, list[_Instance]] = defaultdict(list)
    seen: set[str] = set()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError):
            continue
        if "SeriesInstanceUID" not in header or "Rows" not in header:
            continue
        # A copy of an image (exports often hold two) is not a second slice.
        instance = str(header.get("SOPInstanceUID", path))
        if instance in seen:
            continue
        seen.add(instance)
        groups[str(header.SeriesInstanceUID)].append(_Instance(path, header))
    series = []
    for uid, instances in groups.items():
        first = instances[0].header
        number = first.get("SeriesNumber")
        series.append(
            DicomSeries(
                uid=uid,
                number=None if number is None else int(number),
                description=str(first.get("SeriesDescription", "")),
                modality=str(first.get("Modality", "")),
                instances=tuple(instances),
            )
        )
    return sorted(series, key=lambda one: (one.number is None, one.number or 0, one.uid))


def choose_series(series: list[DicomSeries], wanted: str | None) -> DicomSeries:
    """The series of that number or UID; without one, the only series there is.

    Raises `InputError` listing the series where the choice is not clear.
    """
    if not series:
        raise InputError(
            "input-empty",
            "Expected a folder with a DICOM series; found no DICOM images in it.",
            "Choose the folder that holds the images.",
        )
    listing = "; ".join(str(one) for one in series)
    if wanted is None:
        if len(series) == 1:
            return series[0]
        raise InputError(
            "series-ambiguous",
            f"Expected one DICOM series; the folder holds {len(series)} ({listing}).",
            "Choose one with --series NUMBER (or its UID).",
        )
    chosen = [one for one in series if wanted in (one.uid, str(one.number))]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise InputError(
            "series-ambiguous",
            f"Series number {wanted} stands for {len(chosen)} series.",
            f"Choose by UID: {', '.join(one.uid for one in chosen)}.",
        )
    raise InputError(
        "series-missing",
        f"No series has the number or UID {wanted}; the folder holds {listing}.",
        "Choose one of these with --series.",
    )


def _irregular(code: str, message: str) -> InputError:
    return InputError(code, message, "Export the series complete, or choose another series.")


def read_series(series: DicomSeries) -> Volume:
    """The series as a volume, rescale slope and intercept (0028,1053 and 1052) applied.

    Voxel axes are the image's columns and rows and the order of slices along
    their normal (DICOM PS3.3 C.7.6.2.1.1); a tilted gantry gives a sheared grid.
    Raises `InputError` for color or multi-frame images, missing, doubled or
    unevenly spaced slices, or pixels that cannot be decoded.
    """
    import SimpleITK as sitk  # noqa: N813

    first = series.instances[0].header
    if any(int(one.header.get("SamplesPerPixel") or 1) != 1 for one in series.instances):
        raise InputError(
            "volume-color",
            "Expected one gray value per pixel; the DICOM series is in color.",
            "Choose another series.",
        )
    if any(int(one.header.get("NumberOfFrames") or 1) != 1 for one in series.instances):
        raise InputError(
            "dicom-multiframe",
            "Expected one image per DICOM file; found multi-frame images.",
            "Convert the series to NIfTI or NRRD (for example with dcm2niix) and use that.",
        )
    lps_from_voxel, order = _place(series)
    size = (int(first.Rows), int(first.Columns))
    slices = []
    for index in order:
        try:
            image = sitk.ReadImage(str(series.instances[index].path), sitk.sitkFloat32)
        except RuntimeError:
            raise InputError(
                "input-damaged",
                "An image of the DICOM series cannot be decoded.",
                "Copy or export the series again.",
            ) from None
        pixels = sitk.GetArrayFromImage(image).reshape(-1, *image.GetSize()[1::-1])
        if pixels.shape != (1, *size):
            raise _irregular(
                "dicom-size", f"All images of a series must be {size[0]} × {size[1]} pixels."
            )
        slices.append(pixels[0])
    known = series.modality in set(Modality)
    return Volume(
        np.stack(slices),
        LPS_FROM_RAS @ lps_from_voxel,
        modality=Modality(series.modality) if known else None,
    )


def _place(series: DicomSeries) -> tuple[Float[np.ndarray, "4 4"], list[int]]:
    """`lps_from_voxel` of the series and the order of its instances along the normal."""
    headers = [one.header for one in series.instances]
    for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        if any(header.get(tag) is None for header in headers):
            raise _irregular("dicom-geometry", f"Every image of a series must have {tag}.")
    orientations = np.array([header.ImageOrientationPatient for header in headers], dtype=float)
    spacings = np.array([header.PixelSpacing for header in headers], dtype=float)
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    if np.ptp(orientations, axis=0).max() > ORIENTATION_TOLERANCE or (
        np.ptp(spacings) > 0
        and (np.ptp(spacings, axis=0).max() > ORIENTATION_TOLERANCE * spacings.max())
    ):
        raise _irregular(
            "dicom-geometry", "All images of a series must have one orientation and pixel spacing."
        )
    along_row, along_column = orientations[0, :3], orientations[0, 3:]
    normal = np.cross(along_row, along_column)
    heights = positions @ normal
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    positions, heights = positions[order], heights[order]
    count = len(order)
    if count == 1:
        thickness = headers[0].get("SpacingBetweenSlices") or headers[0].get("SliceThickness")
        step = normal * float(thickness or 1.0)
    else:
        step = (positions[-1] - positions[0]) / (count - 1)
        distance = float(heights[-1] - heights[0]) / (count - 1)
        gaps = np.diff(heights)
        if gaps.min() < POSITION_TOLERANCE * distance:
            raise _irregular(
                "dicom-4d",
                f"Expected one image per position; several of the {count} images of the series "
                "share one (a series over time, or of several contrasts).",
            )
        even = positions[0] + np.arange(count)[:, None] * step
        if np.linalg.norm(positions - even, axis=1).max() > POSITION_TOLERANCE * distance:
            raise _irregular(
                "dicom-gap",
                f"Slices must be evenly spaced; their distances reach from {gaps.min():.2f} to "
                f"{gaps.max():.2f} mm (a slice may be missing).",
            )
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, 0] = along_row * spacings[0, 1]  # PixelSpacing: between rows, columns
    lps_from_voxel[:3, 1] = along_column * spacings[0, 0]
    lps_from_voxel[:3, 2] = step
    lps_from_voxel[:3, 3] = positions[0]
    return lps_from_voxel, order
