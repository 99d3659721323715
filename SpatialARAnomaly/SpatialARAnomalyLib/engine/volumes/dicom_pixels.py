"""Pixels of DICOM frames, as they are stored: read here if native, by GDCM if compressed."""

import io
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, Real, Shaped

from SpatialARAnomalyLib.engine.device import require_thread_memory
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.dicom_frames import Frame
from SpatialARAnomalyLib.engine.volumes.dicom_headers import (
    DEFLATED,
    ENCAPSULATED,
    DicomFile,
    open_dicom,
)
from SpatialARAnomalyLib.engine.volumes.formats import check_gzip
from SpatialARAnomalyLib.engine.volumes.itk import native_stderr_silenced

_KEYWORDS = {"u": "PixelData", "f4": "FloatPixelData", "f8": "DoubleFloatPixelData"}

BATCH_FRAMES = 16
"""Compressed frames that are decoded at a time."""

_DECODED = tuple(
    f"1.2.840.10008.1.2.{end}"
    for end in ("4.50", "4.51", "4.57", "4.70", "4.80", "4.81", "4.90", "4.91", "5")
)
"""Compressed transfer syntaxes that GDCM decodes: JPEG, JPEG-LS, JPEG 2000 and RLE."""


def damaged_error(reason: str) -> InputError:
    """Make the error of an image that is truncated or cannot be decoded."""
    return InputError("input-damaged", f"An image of the DICOM series {reason}.")


def read_frames(frames: Sequence[Frame]) -> Iterator[tuple[int, Real[np.ndarray, "j i"]]]:
    """Read frames file by file; yield the place of each in `frames`, and its stored values.

    Raises `InputError` for pixels that are missing, truncated or cannot be decoded.
    """
    by_file: dict[DicomFile, dict[int, int]] = defaultdict(dict)
    for place, frame in enumerate(frames):
        by_file[frame.file][frame.index] = place
    with tempfile.TemporaryDirectory() as folder:
        for file, places in by_file.items():
            try:
                for index, pixels in _read_file(file, sorted(places), Path(folder)):
                    yield places.pop(index), pixels
            except InputError:
                raise
            except Exception:  # pydicom and SimpleITK raise anything for damaged files
                raise damaged_error("cannot be decoded") from None
            if places:
                raise damaged_error("has fewer frames than it states")


def _read_file(
    file: DicomFile, indices: list[int], folder: Path
) -> Iterator[tuple[int, Real[np.ndarray, "j i"]]]:
    if file.pixel_bytes == 0 or min(file.size) < 1:
        raise damaged_error("holds no pixels")
    with warnings.catch_warnings(action="ignore"), open_dicom(file.path) as stream:
        if stream is None:
            raise damaged_error("is no longer there")
        if file.pixel_bytes == ENCAPSULATED:
            yield from _decode(file, stream, indices, folder)
        else:
            yield from _read_native(file, stream, indices)
        check_gzip(stream)


def _read_native(
    file: DicomFile, stream: Any, indices: list[int]
) -> Iterator[tuple[int, Real[np.ndarray, "j i"]]]:
    import pydicom

    rows, columns = file.size
    real = file.pixel_kind != "u"
    bits = 8 * int(file.pixel_kind[1]) if real else file.integer("BitsAllocated")
    if bits is None or bits not in (8, 16, 32, 64) or (bits == 64 and not real):
        raise damaged_error(f"has {bits} bits per pixel")
    count = rows * columns * bits // 8
    start = file.pixels_at
    if file.syntax == DEFLATED:
        pixels = pydicom.dcmread(stream, force=True)[_KEYWORDS[file.pixel_kind]].value
        stream, start = io.BytesIO(pixels), 0
    dtype = np.dtype(f"{'>' if file.swapped else '<'}{file.pixel_kind[0]}{bits // 8}")
    for index in indices:
        stream.seek(start + index * count)
        data = stream.read(count)
        if len(data) < count or (index + 1) * count > file.pixel_bytes:
            raise damaged_error("is truncated")
        if bits == 8 and file.swapped and count % 2 == 0:  # words of two pixels
            data = np.frombuffer(data, ">u2").astype("<u2").tobytes()
        words = np.frombuffer(data, dtype).reshape(rows, columns)
        yield index, words if real else _stored_values(file, words, file.integer("HighBit"))


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
    file: DicomFile, stream: Any, indices: list[int], folder: Path
) -> Iterator[tuple[int, Integer[np.ndarray, "j i"]]]:
    """Decode compressed frames by GDCM, each in a file of its own without other attributes.

    GDCM would apply the rescaling of one frame to all, and search long in a damaged file. It
    decodes on all processors: SimpleITK releases Python's lock.
    """
    from pydicom.encaps import generate_frames
    from pydicom.uid import UID

    if file.syntax not in _DECODED:
        name = UID(file.syntax).name or "unknown"
        raise InputError(
            "dicom-compression", f"The images are compressed as {name}, which cannot be decoded."
        )
    start, end = _frame_file(file)
    wanted = set(indices)

    def decode(frame: tuple[int, bytes]) -> tuple[int, Integer[np.ndarray, "j i"]]:
        index, data = frame
        _check_codestream(data, file.size)
        path = folder / f"{index}.dcm"
        padded = data + b"\0" * (len(data) % 2)
        path.write_bytes(start + len(padded).to_bytes(4, "little") + padded + end)
        pixels = _decode_file(path)
        path.unlink()
        if pixels.shape != file.size:
            raise damaged_error("cannot be decoded")
        return index, _stored_values(file, pixels.view(f"u{pixels.itemsize}"), None)

    stream.seek(file.pixels_at)
    encoded = generate_frames(stream, number_of_frames=file.frames)
    frames = ((index, data) for index, data in enumerate(encoded) if index in wanted)
    require_thread_memory()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(islice(frames, min(BATCH_FRAMES, len(wanted)))):
            with native_stderr_silenced():
                decoded = list(pool.map(decode, batch))
            yield from decoded
            wanted.difference_update(index for index, _ in decoded)


def _check_codestream(data: bytes, size: tuple[int, int]) -> None:
    """Raise `InputError` for a JPEG 2000 image of another size, which would be allocated."""
    at = data.find(b"\xff\x4f\xff\x51")
    if at >= 0 and len(data) >= at + 24:
        width, height, left, top = (
            int.from_bytes(data[at + start : at + start + 4]) for start in (8, 12, 16, 20)
        )
        if (height - top, width - left) != size:
            raise damaged_error("cannot be decoded")


def _decode_file(path: Path) -> Shaped[np.ndarray, "j i"]:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    (pixels,) = sitk.GetArrayFromImage(reader.Execute())
    return np.asarray(pixels)


def _frame_file(file: DicomFile) -> tuple[bytes, bytes]:
    """Return the bytes before and after length and data of a frame in a file of its own."""
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
    image.PixelData = encapsulate([b"\0\0"])
    image["PixelData"].VR = "OB"
    written = io.BytesIO()
    image.save_as(written, enforce_file_format=True)
    whole = written.getvalue()
    end = 8  # the sequence's delimiter, after length (4 bytes) and data (2) of the only frame
    return whole[: -end - 6], whole[-end:]
