"""Reading of a DICOM series as a volume, and checks of where its slices lie."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Real

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.dicom_frames import Frame, list_frames
from SpatialARAnomalyLib.engine.volumes.dicom_headers import DicomFile
from SpatialARAnomalyLib.engine.volumes.dicom_pixels import damaged_error, read_frames
from SpatialARAnomalyLib.engine.volumes.dicom_positions import PlacedFrames, place_frames
from SpatialARAnomalyLib.engine.volumes.dicom_series import (
    KINDS,
    LOCALIZER,
    UNKNOWN,
    DicomSeries,
    choose_series,
    list_series,
)
from SpatialARAnomalyLib.engine.volumes.dicom_volumes import choose_volume, split_volumes
from SpatialARAnomalyLib.engine.volumes.volume import SliceSource, Volume

NAMED_APART_MM = 0.1
"""Distance of slices from their even grid that is named."""


def read_series(
    series: DicomSeries,
    check_cancelled: Callable[[], None] = lambda: None,
    *,
    volume: int | None = None,
    allow_gaps: bool = False,
) -> Volume:
    """Read a series as a volume, with rescale slope and intercept (0028,1053 and 1052) applied.

    Args:
        series: From `list_series`.
        check_cancelled: Called for every image; may raise to stop.
        volume: Number of the volume from 1, where the series holds several (times, echoes).
        allow_gaps: Read a series in which a few slices are missing. They are `outside`.

    Raises:
        InputError: Another Modality (0008,0060) than MR or CT; color; a mosaic; several volumes
            and no number; missing or unevenly spaced slices; images that cannot be placed or
            decoded.
    """
    modality = _modality(series)
    placed, notices = _place(series, volume, allow_gaps)
    frames = placed.frames
    inverted = _is_inverted(frames)
    rows, columns = frames[0].file.size
    voxels: Float32[np.ndarray, "k j i"] = np.empty((0, 0, 0), np.float32)
    outside: Bool[np.ndarray, "k j i"] | None = None
    for place, pixels in read_frames(frames):
        check_cancelled()
        if voxels.size == 0:  # allocated by a decoded image, not by what a header promises
            voxels = np.zeros((placed.depth, rows, columns), np.float32)
        index, (slope, intercept) = placed.slices[place], frames[place].rescale
        with np.errstate(over="ignore"):  # infinite voxels are background
            voxels[index] = pixels * slope + intercept
        padding = _padding(frames[place].file, pixels)
        if padding is not None and padding.any():
            if outside is None:
                outside = np.zeros(voxels.shape, bool)
            outside[index] = padding
    if placed.apart_mm > NAMED_APART_MM:
        notices.append(
            ("slices-uneven", f"Slices lie up to {placed.apart_mm:.2f} mm off their even grid.")
        )
    if inverted and modality is not Modality.CT:  # Hounsfield units are what they are
        highest = voxels.max() if outside is None else voxels[~outside].max(initial=0)
        np.subtract(highest, voxels, out=voxels)
        notices.append(
            ("inverted", "The images are MONOCHROME1 (high is dark): they were read inverted.")
        )
    if placed.missing:
        outside = np.zeros(voxels.shape, bool) if outside is None else outside
        outside[list(placed.missing)] = True
        voxels[list(placed.missing)] = min(voxels[index].min() for index in placed.slices)
        notices.append(
            (
                "gaps-allowed",
                f"In the series, {placed.describe_missing()}: no scores there. Results "
                "are on a grid with these slices, so that they lie where the scan lies.",
            )
        )
    if outside is not None and outside.all():
        outside = None
    return Volume(
        voxels,
        placed.ras_from_voxel,
        modality=modality,
        outside=outside,
        notices=tuple(notices),
        sources=tuple(
            SliceSource(frame.file.path, frame.index, index)
            for frame, index in zip(frames, placed.slices, strict=True)
        ),
    )


def check_positions(
    paths: Iterable[Path],
    check_cancelled: Callable[[], None] = lambda: None,
    *,
    volume: int | None = None,
) -> PlacedFrames:
    """Return where the slices of one volume lie, from the headers of its DICOM files.

    For the files of a volume that another program has loaded (3D Slicer), which may show gaps
    as thick slices, and several times as several slices. About 2 ms a file.

    Args:
        paths: The files of the volume, in any order; of a study, its one scan is taken.
        check_cancelled: Called before every file; may raise to stop.
        volume: Number of the volume from 1, where the files hold several.

    Returns:
        `ras_from_voxel` and `depth` of the true grid, and `tilt_degrees` of the gantry.

    Raises:
        InputError: "dicom-gap" for missing or unevenly spaced slices, with where they are;
            "dicom-4d" for repeats, and "dicom-mixed" for several orientations, with the
            `volumes` in its facts; "dicom-mosaic", "dicom-geometry", "modality-unsupported"
            and others as `read_series`; "input-empty" where no file is DICOM.
    """
    series = choose_series(list_series(paths, check_cancelled), None)
    _modality(series)
    return _place(series, volume, allow_gaps=False)[0]


def list_volumes(series: DicomSeries) -> list[str]:
    """Return what sets the volumes of a series apart, in the order of their numbers from 1."""
    stacks, _ = split_volumes(_scan_frames(series)[0])
    return [str(stack) for stack in stacks]


def volume_files(series: DicomSeries, volume: int) -> tuple[list[DicomFile], int | None]:
    """Return the files that hold a volume of a series, and its number among those of the files.

    The number is None where the files hold nothing else. Raises `InputError` as `read_series`.
    """
    frames = choose_volume(_scan_frames(series)[0], volume).frames
    files = list(dict.fromkeys(frame.file for frame in frames))
    parts = split_volumes(list_frames(files))[0]
    if len(parts) == 1:
        return files, None
    wanted = {(frame.file, frame.index) for frame in frames}
    for number, part in enumerate(parts, start=1):
        if {(frame.file, frame.index) for frame in part.frames} == wanted:
            return files, number
    return list(series.files), volume  # the files alone are split in another way


def _place(
    series: DicomSeries, volume: int | None, allow_gaps: bool
) -> tuple[PlacedFrames, list[tuple[str, str]]]:
    frames, notices = _scan_frames(series)
    return place_frames(choose_volume(frames, volume), allow_gaps), notices


def _scan_frames(series: DicomSeries) -> tuple[list[Frame], list[tuple[str, str]]]:
    """Return the frames of a series' scan, without localizers, and notices of what was left."""
    _check_images(series)
    localizers = {file for file in series.files if "LOCALIZER" in file.image_type}
    if not 0 < len(localizers) < len(series.files):
        return list_frames(series.files), []
    left = sum(file.frames for file in localizers)
    notice = "localizer-left-out", f"The series holds {left} localizer images, which are left out."
    return list_frames(file for file in series.files if file not in localizers), [notice]


def _modality(series: DicomSeries) -> Modality | None:
    """Return the series' modality; None if its attribute is empty. Raises `InputError`."""
    if series.uid == UNKNOWN:
        raise InputError(
            "dicom-no-image",
            f"Expected DICOM images; found {len(series.files)} that look like DICOM and lack the "
            "attributes of an image (damaged files, or of another kind).",
        )
    if not series.modality:
        return None
    if series.modality not in set(Modality):
        kind = KINDS.get(series.modality)
        raise InputError(
            "modality-unsupported",
            f"Expected a DICOM series of modality MR or CT; found {series.modality!r}"
            f"{f' ({kind})' if kind else ''}.",
        )
    return Modality(series.modality)


def _check_images(series: DicomSeries) -> None:
    """Raise `InputError` unless all images are gray slices with pixels."""
    if series.modality == Modality.CT and series.not_a_scan == LOCALIZER:
        raise InputError(
            "dicom-localizer", "Expected slices; a CT localizer is a projection (a scout image)."
        )
    for file in series.files:
        if file.pixel_bytes == 0 or min(file.size) < 1:
            raise damaged_error("holds no pixels")
        if file.value("ModalityLUTSequence"):
            raise InputError(
                "dicom-lut",
                "Expected values that a slope and intercept rescale; those of the DICOM series "
                "are the indices of a table (Modality LUT Sequence).",
            )
        kind = file.text("PhotometricInterpretation") or "MONOCHROME2"
        if file.integer("SamplesPerPixel") not in (None, 1) or not kind.startswith("MONOCHROME"):
            raise InputError(
                "volume-color", "Expected one gray value per pixel; the DICOM series is in color."
            )
        if "MOSAIC" in file.image_type:
            raise InputError(
                "dicom-mosaic",
                "Expected one slice per image; these are Siemens mosaics, pictures of many small "
                "slices side by side.",
            )


def _is_inverted(frames: Iterable[Frame]) -> bool:
    """Return True for MONOCHROME1; raises `InputError` where only some images are."""
    kinds = {frame.file.text("PhotometricInterpretation") for frame in frames}
    if len(kinds & {"MONOCHROME1"}) and len(kinds) > 1:
        raise InputError(
            "dicom-inverted",
            "The images of a series must all be MONOCHROME1 or all MONOCHROME2; these are mixed.",
        )
    return kinds == {"MONOCHROME1"}


def _padding(file: DicomFile, pixels: Real[np.ndarray, "j i"]) -> Bool[np.ndarray, "j i"] | None:
    """Return the pixels of Pixel Padding Value (0028,0120), or up to its limit (0028,0121)."""
    if file.pixel_kind != "u":
        value = file.numbers("Double" * (file.pixel_kind == "f8") + "FloatPixelPaddingValue")
        return None if value is None else np.asarray(pixels == value.astype(pixels.dtype))
    tags = "PixelPaddingValue", "PixelPaddingRangeLimit"
    ends = [end for tag in tags if (end := _padding_end(file, tag)) is not None]
    if not ends:
        return None
    return np.asarray((pixels >= min(ends)) & (pixels <= max(ends)))


def _padding_end(file: DicomFile, tag: str) -> int | None:
    """Return a padding value as the pixels are stored: some devices write it without sign."""
    value = file.value(tag)
    if isinstance(value, bytes):
        value = int.from_bytes(value[:2], "big" if file.swapped else "little")
    try:
        word = int(value) & 0xFFFF
    except (TypeError, ValueError):
        return None
    signed = file.integer("PixelRepresentation") == 1
    return word - 0x10000 if signed and word > 0x7FFF else word
