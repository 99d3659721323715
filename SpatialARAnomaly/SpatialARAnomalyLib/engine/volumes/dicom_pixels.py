"""Pixels of DICOM frames, as they are stored: read here if native, by GDCM if compressed."""

import io
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.dicom_frames import Frame
from SpatialARAnomalyLib.engine.volumes.dicom_headers import ENCAPSULATED, DicomFile, open_dicom
from SpatialARAnomalyLib.engine.volumes.formats import check_gzip
from SpatialARAnomalyLib.engine.volumes.itk import native_stderr_silenced

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax whose data set is compressed as a whole (DICOM PS3.5 A.5)."""

_DECODED = tuple(
    f"1.2.840.10008.1.2.{end}"
    for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")
)
"""Compressed transfer syntaxes that GDCM decodes: JPEG, JPEG-LS, JPEG 2000 and RLE."""


def damaged_error(reason: str) -> InputError:
    """Make the error of an image that is truncated or cannot be decoded."""
    return InputError("input-damaged", f"An image of the DICOM series {reason}.")


def read_frames(frames: Sequence[Frame]) -> Iterator[tuple[int, Integer[np.ndarray, "j i"]]]:
    """Read frames file by file; yield the place of each in `frames`, and its stored values.

    Raises `InputError` for pixels that are missing, truncated or cannot be decoded.
    """
    by_file: dict[DicomFile, dict[int, int]] = defaultdict(dict)
    for place, frame in enumerate(frames):
        by_file[frame.file][frame.index] = place
    with tempfile.TemporaryDirectory() as folder:
        for file, places in by_file.items():
            try:
                for index, pixels in _read_file(file, sorted(places), Path(folder, "frame.dcm")):
                    yield places.pop(index), pixels
            except InputError:
                raise
            except Exception:  # pydicom and SimpleITK raise anything for damaged files
                raise damaged_error("cannot be decoded") from None
            if places:
                raise damaged_error("has fewer frames than it states")


def _read_file(
    file: DicomFile, indices: list[int], scratch: Path
) -> Iterator[tuple[int, Integer[np.ndarray, "j i"]]]:
    if file.pixel_bytes == 0 or min(file.size) < 1:
        raise damaged_error("holds no pixels")
    with warnings.catch_warnings(action="ignore"), open_dicom(file.path) as stream:
        if stream is None:
            raise damaged_error("is no longer there")
        if file.pixel_bytes == ENCAPSULATED:
            yield from _decode(file, stream, indices, scratch)
        else:
            yield from _read_native(file, stream, indices)
        check_gzip(stream)


def _read_native(
    file: DicomFile, stream: Any, indices: list[int]
) -> Iterator[tuple[int, Integer[np.ndarray, "j i"]]]:
    import pydicom

    rows, columns = file.size
    bits = file.integer("BitsAllocated")
    if bits not in (8, 16, 32):
        raise damaged_error(f"has {bits} bits per pixel")
    count = rows * columns * bits // 8
    start = file.pixels_at
    if file.syntax == DEFLATED:
        stream, start = io.BytesIO(pydicom.dcmread(stream, force=True).PixelData), 0
    dtype = np.dtype(f"{'>' if file.swapped else '<'}u{bits // 8}")
    for index in indices:
        stream.seek(start + index * count)
        data = stream.read(count)
        if len(data) < count or (index + 1) * count > file.pixel_bytes:
            raise damaged_error("is truncated")
        if bits == 8 and file.swapped and count % 2 == 0:  # words of two pixels
            data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
        words = np.frombuffer(data, dtype).reshape(rows, columns)
        yield index, _stored_values(file, words, file.integer("HighBit"))


def _stored_values(
    file: DicomFile, words: Integer[np.ndarray, "j i"], high_bit: int | None
) -> Integer[np.ndarray, "j i"]:
    """Return the stored bits of words as numbers, without overlays in the other bits."""
    size = words.dtype.itemsize * 8
    words = words.astype(words.dtype.newbyteorder("="), copy=False)
    stored = file.integer("BitsStored") or size
    low = 0 if high_bit is None else high_bit + 1 - stored
    if not (0 < stored <= size and 0 <= low <= size - stored):
        stored, low = size, 0
    if stored < size:
        words = words << (size - stored - low)  # to the top of the word, and back with the sign
    values = words.view(f"i{size // 8}") if file.integer("PixelRepresentation") == 1 else words
    return values >> (size - stored) if stored < size else values


def _decode(
    file: DicomFile, stream: Any, indices: list[int], scratch: Path
) -> Iterator[tuple[int, Integer[np.ndarray, "j i"]]]:
    """Decode compressed frames by GDCM, each in a file of its own without other attributes.

    GDCM would apply the rescaling of one frame to all, and search long in a damaged file.
    """
    import SimpleITK as sitk
    from pydicom.encaps import generate_frames
    from pydicom.uid import UID

    if file.syntax not in _DECODED:
        name = UID(file.syntax).name or "unknown"
        raise InputError(
            "dicom-compression", f"The images are compressed as {name}, which cannot be decoded."
        )
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(scratch))
    stream.seek(file.pixels_at)
    encoded = generate_frames(stream, number_of_frames=file.frames)
    for index, data in enumerate(islice(encoded, indices[-1] + 1)):
        if index in indices:
            _write_frame(file, data, scratch)
            with native_stderr_silenced():
                (pixels,) = sitk.GetArrayFromImage(reader.Execute())
            if pixels.shape != file.size:
                raise damaged_error("cannot be decoded")
            yield index, _stored_values(file, pixels.view(f"u{pixels.itemsize}"), None)


def _write_frame(file: DicomFile, data: bytes, path: Path) -> None:
    """Write one compressed frame as a DICOM file that holds nothing else."""
    import pydicom
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, MRImageStorage

    image = pydicom.Dataset()
    image.file_meta = pydicom.dataset.FileMetaDataset()
    image.file_meta.TransferSyntaxUID = UID(file.syntax)
    image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, "1.2.3"
    image.PhotometricInterpretation, image.SamplesPerPixel = "MONOCHROME2", 1
    for tag in (
        "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    ):  # fmt: skip
        setattr(image, tag, file.integer(tag) or 0)
    image.PixelData = encapsulate([data])
    image["PixelData"].VR = "OB"
    image.save_as(path, enforce_file_format=True)
