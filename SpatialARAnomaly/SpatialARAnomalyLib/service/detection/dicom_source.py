"""The DICOM images of a scan as sources of DICOM results: what is copied from them, and checks."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Float64

from SpatialARAnomalyLib.engine.errors import InputError, SetupError
from SpatialARAnomalyLib.engine.volumes.dicom_frames import list_frames
from SpatialARAnomalyLib.engine.volumes.dicom_headers import DicomFile, open_dicom
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS
from SpatialARAnomalyLib.engine.volumes.volume import Volume

PATIENT_AND_STUDY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "IssuerOfPatientID",
    "PatientIdentityRemoved", "DeidentificationMethod", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Attributes that results copy from the scan, so that an archive files them in its study."""

_REFERENCED = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID",
    "PositionReferenceIndicator", "Modality", "Rows", "Columns", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "SpacingBetweenSlices", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "SpecificCharacterSet", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)  # fmt: skip
"""Attributes by which results refer to the images and lie where they lie."""

_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")

_SINGLE_FRAME = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4")
"""SOP classes of single CT and MR images."""

_MULTI_FRAME = (
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
    "1.2.840.10008.5.1.4.1.1.4.1",
    "1.2.840.10008.5.1.4.1.1.4.4",
)
"""SOP classes of Enhanced and Legacy Converted Enhanced CT and MR images."""

_ELSEWHERE_MM = 1e6
"""Distance at which frames of an object's other volumes are put, so that none is referred to."""


@dataclass(frozen=True, eq=False)
class SourceImages:
    """Headers of the images of a scan, and the places of its slices."""

    images: list[Any]
    """Single images in the order of the slices, or one multi-frame object; without pixels."""
    slices: list[int]
    """Index (k) of every slice that has an image."""
    positions: list[list[float]]
    """Center of the first pixel of those slices, LPS mm."""
    orientation: list[float]
    """Directions of a row and a column."""
    spacing: list[float]
    """Distance of rows, then of columns in mm."""
    step_mm: float
    """Distance of slices along their normal."""
    thickness_mm: float
    identity: tuple[str, ...]
    """SOP Instance UID and frame number of every slice."""


def require_dicom_packages(packages: Sequence[str] = ("highdicom", "dicomweb_client")) -> None:
    """Raise `SetupError` if packages of the extra `dicomweb` are not installed."""
    for package in packages:
        if find_spec(package) is None:
            raise SetupError(
                "dicomweb-missing",
                f"DICOM results and DICOMweb need the Python package {package!r}; it is not "
                "installed.",
            )


def read_source(volume: Volume) -> SourceImages:
    """Read what DICOM results need of the images of a scan.

    Raises `InputError` for a scan of another format, or whose images no result can refer to.
    """
    if not volume.sources:
        raise InputError(
            "dicom-source",
            "DICOM results need a scan in DICOM; this one is a file of another kind.",
        )
    headers = {path: _read(path) for path in dict.fromkeys(one.path for one in volume.sources)}
    frames = [list_frames([headers[one.path]])[one.frame] for one in volume.sources]
    images = [one.header for one in headers.values()]
    _check(images, len(frames))
    multi_frame = str(images[0].SOPClassUID) in _MULTI_FRAME
    orientation = _stated(frames[0].orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    step = (LPS_FROM_RAS @ volume.ras_from_voxel)[:3, 2]
    source = SourceImages(
        images=images,
        slices=[one.slice_index for one in volume.sources],
        positions=[_stated(one.position) for one in frames],
        orientation=orientation,
        spacing=_stated(frames[0].spacing),
        step_mm=float(abs(step @ normal)),
        thickness_mm=frames[0].thickness_mm or float(abs(step @ normal)),
        identity=tuple(
            f"{frame.file.text('SOPInstanceUID')}#{frame.index if multi_frame else 0}"
            for frame in frames
        ),
    )
    for one in images:
        _complete(one)
    if multi_frame:
        _place_multi_frame(source, [one.frame for one in volume.sources], normal)
    else:
        _place_single_frames(source)
    return source


def _read(path: Any) -> DicomFile:
    from pydicom import dcmread

    with warnings.catch_warnings(action="ignore"), open_dicom(path) as stream:
        assert stream is not None
        header = dcmread(
            stream,
            stop_before_pixels=True,
            force=True,
            specific_tags=[*PATIENT_AND_STUDY, *_REFERENCED],
        )
        header.decode()
    return DicomFile(path, header, syntax="")


def _stated(values: Float64[np.ndarray, " n"] | None) -> list[float]:
    assert values is not None, "the scan was read by its positions"
    return [float(one) for one in values]


def _check(images: list[Any], slices: int) -> None:
    """Raise `InputError` where results could not refer to the images."""

    def refuse(reason: str) -> InputError:
        return InputError("dicom-reference", f"DICOM results must refer to the images; {reason}.")

    for tag in _NEEDED:
        if not all(str(one.get(tag) or "").strip() for one in images):
            raise refuse(f"they lack {tag}")
    for tag in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID"):
        found = {str(one.get(tag)) for one in images}
        if len(found) > 1:
            raise refuse(f"they have {len(found)} different {tag}s")
    if len({str(one.SOPInstanceUID) for one in images}) < len(images):
        raise refuse("several have one SOPInstanceUID")
    kind = str(images[0].get("SOPClassUID"))
    if kind in _MULTI_FRAME and len(images) == 1:
        return
    if kind not in _SINGLE_FRAME or len(images) != slices:
        raise refuse("they are neither CT or MR images nor one multi-frame object of such")


def _complete(image: Any) -> None:
    """Add empty attributes that results must have, and empty those that are not valid."""
    from pydicom.valuerep import DA, TM

    for tag in ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName"):
        if image.get(tag) is None:
            setattr(image, tag, "")
    for tag, kind in (
        ("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)
    ):  # fmt: skip
        try:
            valid = kind(str(image.get(tag) or ""))
        except ValueError:
            valid = None
        setattr(image, tag, str(valid or ""))
    image.SpecificCharacterSet = "ISO_IR 192"  # of what `decode` made Unicode
    sex = str(image.get("PatientSex") or "").strip()
    image.PatientSex = sex if sex in ("M", "F", "O") else ""


def _place_single_frames(source: SourceImages) -> None:
    for image in source.images:
        image.ImageOrientationPatient = _texts(source.orientation)
        image.PixelSpacing = _texts(source.spacing)
        image.SliceThickness, image.SpacingBetweenSlices = _texts(
            [source.thickness_mm, source.step_mm]
        )


def _place_multi_frame(
    source: SourceImages, chosen: list[int], normal: Float64[np.ndarray, " 3"]
) -> None:
    """State the places of the frames of this volume in the way that every reader knows."""
    from highdicom import PixelMeasuresSequence, PlaneOrientationSequence, PlanePositionSequence
    from pydicom.dataset import Dataset

    (image,) = source.images
    shared = Dataset()
    shared.PlaneOrientationSequence = PlaneOrientationSequence("PATIENT", source.orientation)
    shared.PixelMeasuresSequence = PixelMeasuresSequence(
        source.spacing, source.thickness_mm, source.step_mm
    )
    places = dict(zip(chosen, source.positions, strict=True))
    frames = []
    for index in range(int(image.NumberOfFrames or 1)):
        frame = Dataset()
        elsewhere = (np.array(source.positions[0]) + (_ELSEWHERE_MM + index) * normal).tolist()
        frame.PlanePositionSequence = PlanePositionSequence("PATIENT", places.get(index, elsewhere))
        frames.append(frame)
    image.SharedFunctionalGroupsSequence = [shared]
    image.PerFrameFunctionalGroupsSequence = frames


def _texts(values: Any) -> list[str]:
    from pydicom.valuerep import format_number_as_ds

    return [format_number_as_ds(float(one)) for one in values]
