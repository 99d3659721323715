"""Headers of DICOM files, which are found by content: with or without preamble, or in gzip."""

import gzip
import io
import os
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float64

PIXEL_TAGS = {0x7FE00008: "f4", 0x7FE00009: "f8", 0x7FE00010: "u"}
"""Tags of Float Pixel Data, Double Float Pixel Data and Pixel Data, with their kind of numbers."""

FIRST_PIXEL_TAG = min(PIXEL_TAGS)
"""Headers end before the first of these."""

ENCAPSULATED = 0xFFFFFFFF
"""Length of compressed Pixel Data (DICOM PS3.5 A.4)."""

START_BYTES = 256
"""Bytes of a file in which its first data element is looked for."""

META_BYTES = 4096
"""Bytes of a file in which its transfer syntax is looked for."""

DEFLATED = "1.2.840.10008.1.2.1.99"
"""Transfer syntax whose data set is compressed as a whole (DICOM PS3.5 A.5)."""

UNPACKED_BYTES = 256 << 20
UNPACKED_RATIO = 100
"""A compressed file may unpack to so many bytes, or times its size: images are far below."""

TAGS: tuple[str | int, ...] = (
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "SOPInstanceUID",
    "SOPClassUID", "ImageType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "SpacingBetweenSlices", "Rows", "Columns", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation",
    "NumberOfFrames", "PatientID", "RescaleSlope", "RescaleIntercept", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "DoubleFloatPixelPaddingValue",
    "ModalityLUTSequence", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    # What tells images at one position apart; numbers are private tags of Siemens, GE, Philips.
    "InstanceNumber", "EchoTime", "EchoNumbers", "InversionTime", "FlipAngle", "DiffusionBValue",
    "DirectoryRecordSequence", "DiffusionGradientOrientation", "TemporalPositionIdentifier",
    "TriggerTime", "AcquisitionNumber", "ConvolutionKernel", "AcquisitionTime",
    "AcquisitionDateTime", "ContentTime", 0x0019100C, 0x0019100E, 0x00431039, 0x001910BB,
    0x001910BC, 0x001910BD, 0x20011003, 0x200510B0, 0x200510B1, 0x200510B2,
)  # fmt: skip
"""Attributes that are read."""

# The first data element of a file without preamble and meta header: group 0008 (0002 in a meta
# header without preamble) with a value representation, in either byte order.
_EXPLICIT_START = re.compile(
    rb"(?:[\x02\x08]\x00[\x00-\x20]\x00|\x00[\x02\x08]\x00[\x00-\x20])(?:UL|CS|UI|DA|TM|LO|SH|OB)"
)
# Or, implicit and thus little endian: two elements of group 0008, the first below 256 bytes.
_IMPLICIT_START = re.compile(rb"\x08\x00([\x00-\x20])\x00([\x00-\xff])\x00\x00\x00")


def _start(data: bytes) -> int | None:
    """Return where DICOM begins in the first bytes of a file; None if it is not DICOM."""
    if data[128:132] == b"DICM":
        return 0
    first = _IMPLICIT_START.match(data)
    if first is not None:
        second = _IMPLICIT_START.match(data, 8 + first[2][0])
        return 0 if second is not None and second[1] > first[1] else None
    found = _EXPLICIT_START.search(data)
    return None if found is None else found.start()


class _BoundedGzip(gzip.GzipFile):
    """A gzip stream that is not read into memory at once beyond a limit."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        super().__init__(fileobj=file)
        self._limit = limit

    def read(self, size: int | None = -1) -> bytes:
        """Read at most the limit; raises `EOFError` where that is not the end."""
        wanted = self._limit + 1 if size is None or size < 0 else min(size, self._limit + 1)
        data = super().read(wanted)
        if len(data) > self._limit:
            raise EOFError("the stream unpacks to more than an image")
        return data


def _check_deflated(stream: Any, start: int, limit: int) -> None:
    """Raise `EOFError` for a deflated data set of more bytes than an image.

    It follows the meta header at `start`, whose first element is its length (0002,0000).
    """
    stream.seek(start + 8)
    stream.seek(start + 12 + int.from_bytes(stream.read(4), "little"))
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    while (data := stream.read(1 << 16)) and not unpacker.eof:
        while data:
            limit -= len(unpacker.decompress(data, 1 << 20))
            data = unpacker.unconsumed_tail
            if limit < 0:
                raise EOFError("the data set unpacks to more than an image")


@contextmanager
def open_dicom(path: Path) -> Iterator[BinaryIO | None]:
    """Open a DICOM file, unpacked and from its first element on; None if it is not DICOM.

    Raises `OSError` where it cannot be opened, `EOFError` or `zlib.error` for damaged gzip.
    """
    with path.open("rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        limit = max(UNPACKED_BYTES, UNPACKED_RATIO * os.fstat(file.fileno()).st_size)
        stream: Any = _BoundedGzip(file, limit) if is_gzip else file
        head = stream.read(META_BYTES)
        start = _start(head[:START_BYTES])
        if start is not None and DEFLATED.encode() in head:
            _check_deflated(stream, start + (132 if head[128:132] == b"DICM" else 0), limit)
        if start is None:
            yield None
            return
        stream.seek(start)
        yield stream if start == 0 else io.BytesIO(stream.read())


def is_dicom(path: Path) -> bool:
    """Return True if a file is DICOM by its content."""
    try:
        with open_dicom(path) as stream:
            return stream is not None
    except (OSError, EOFError, zlib.error):
        return False


@dataclass(frozen=True, eq=False)
class DicomFile:
    """The header of a DICOM file, and where its pixels are."""

    path: Path
    header: Any
    syntax: str
    """Transfer Syntax UID; "" if the file has no meta header."""
    pixels_at: int = 0
    """Place of the first byte of Pixel Data in the stream of `open_dicom`."""
    pixel_bytes: int = 0
    """Length of Pixel Data; `ENCAPSULATED` if compressed, 0 if there are none."""
    swapped: bool = False
    """True if pixels are words in big-endian byte order."""
    pixel_kind: str = "u"
    """Kind of the pixels: "u" for integers, "f4" and "f8" for floating point."""

    @property
    def is_directory(self) -> bool:
        """True for a DICOMDIR, which lists other files."""
        return bool(read_value(self.header, "DirectoryRecordSequence"))

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns; 0 if missing."""
        return self.integer("Rows") or 0, self.integer("Columns") or 0

    @property
    def frames(self) -> int:
        """Number of frames, 1 for a single image."""
        return max(self.integer("NumberOfFrames") or 1, 1)

    @cached_property
    def image_type(self) -> tuple[str, ...]:
        """Values of Image Type (0008,0008) in upper case."""
        values = self.value("ImageType")
        found = [values] if isinstance(values, str) else list(values or ())
        return tuple(str(one).strip().upper() for one in found)

    def text(self, tag: str) -> str:
        """Return the attribute as text; '' if it is missing."""
        return str(self.value(tag) or "").strip()

    def integer(self, tag: str) -> int | None:
        """Return the attribute as an integer; None if it is missing or not an integer."""
        try:
            return int(self.value(tag))
        except (TypeError, ValueError, OverflowError):
            return None

    def numbers(self, tag: str, *shape: int) -> Float64[np.ndarray, "..."] | None:
        """Return the attribute as an array; None unless it has that shape and is finite."""
        return as_numbers(self.value(tag), *shape)

    def value(self, tag: str | int) -> Any:
        """Return the attribute as pydicom converts it; None if it is missing or damaged."""
        return read_value(self.header, tag)


def read_value(dataset: Any, tag: str | int) -> Any:
    """Return an attribute of a data set; None if it is missing or damaged."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found = dataset.get(tag)
            return found.value if isinstance(tag, int) and found is not None else found
    except Exception:  # pydicom converts values on access, and raises anything
        return None


def as_numbers(value: Any, *shape: int) -> Float64[np.ndarray, "..."] | None:
    """Return a value as an array; None unless it has that shape and is finite."""
    try:
        values = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return values if values.shape == shape and np.all(np.isfinite(values)) else None


def read_header(path: Path) -> DicomFile | None:
    """Read the header of a DICOM file; None if it is not DICOM.

    Raises whatever pydicom raises for a damaged file.
    """
    from pydicom.filereader import read_partial
    from pydicom.tag import BaseTag, Tag

    found: list[tuple[str | None, int, str]] = []

    def is_pixel_tag(tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag >= FIRST_PIXEL_TAG:
            found.append((vr, length, PIXEL_TAGS.get(tag, "")))
        return bool(found)

    with warnings.catch_warnings(action="ignore"), open_dicom(path) as stream:
        if stream is None:
            return None
        header = read_partial(
            stream, is_pixel_tag, force=True, specific_tags=[Tag(tag) for tag in TAGS]
        )
        syntax = str(read_value(header.file_meta, "TransferSyntaxUID") or "")
        if not found:
            return DicomFile(path, header, syntax)
        vr, length, kind = found[0]
        # By the element itself: some meta headers state another syntax.
        at = stream.tell() + (12 if vr in _LONG_VRS else 8)
    return DicomFile(
        path,
        header,
        syntax,
        pixels_at=at,
        pixel_bytes=length if kind else 0,
        swapped=header.original_encoding[1] is False,
        pixel_kind=kind or "u",
    )


_LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UN", "UC", "UR", "UT", "SV", "UV")
"""Value representations whose length takes four bytes (DICOM PS3.5 7.1.2)."""
