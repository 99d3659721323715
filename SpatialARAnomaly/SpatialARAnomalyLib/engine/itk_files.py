"""NRRD and MetaImage through SimpleITK, and what its C code needs to be kept from.

ITK replaces places it cannot read by 0 or 1 mm, MetaIO takes damaged voxels for
good ones or ends the process: such files are found out before it sees them.
"""

import math
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num

from .errors import InputError
from .file_refusals import (
    DEFLATE_RATIO,
    check_dimensions,
    check_size,
    damaged,
    label_map,
    no_color,
    no_spacing,
    single_precision,
)
from .geometry import LPS_FROM_RAS, voxel_spacing_mm
from .volume import Volume

TEXT_RATIO = 4
"""Nor does a list of numbers as text: two characters for eight bytes."""

HEADER_BYTES = 1 << 16
"""Longer than the text header of a NRRD or MetaImage file."""

_READERS = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}
ITK_SUFFIXES = tuple(_READERS)

# The fields of a NRRD or MetaImage header, as bytes: binary voxels may follow.
_LOST_PLACE = re.compile(
    rb"^(space (directions|origin)|spacings|Element(Spacing|Size)|Offset|Origin|Position"
    rb"|TransformMatrix|Rotation|Orientation)\s*[:=].*\b(nan|inf|none)\b",
    re.IGNORECASE | re.MULTILINE,
)
_COMPRESSED = re.compile(
    rb"^(encoding:\s*(gz|bz)|CompressedData\s*=\s*True)", re.IGNORECASE | re.MULTILINE
)
_DATA_FILE = re.compile(
    rb"^(?:data ?file:|ElementDataFile[ \t]*[=:])[ \t]*(.*?)[ \t\r]*(?:\n|\Z)",
    re.IGNORECASE | re.MULTILINE,
)
_DIMENSIONS = re.compile(rb"^NDims[ \t]*[=:][ \t]*[1-5][ \t\r]*\n", re.MULTILINE)


@contextmanager
def native_stderr_closed() -> Iterator[None]:
    """C libraries print what they then also raise; the user reads it once, from us."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def itk_name(path: Path) -> str:
    """The path as ITK takes it; raises `InputError` for bytes that are no Unicode."""
    name = str(path)
    try:
        name.encode()  # ITK would end the process
    except UnicodeEncodeError:
        raise InputError(
            "input-name",
            "The name of a file or folder must be Unicode; it holds other bytes.",
            "Rename it.",
        ) from None
    return name


def _check_place(start: bytes) -> None:
    """Raise `InputError` for numbers that ITK would quietly replace by 0 or 1 mm."""
    if _LOST_PLACE.search(start):
        raise InputError(
            "affine-not-finite",
            "The volume's origin, spacing and directions must be finite; its header holds "
            "NaN, infinity or none.",
            "Export the scan again from its source.",
        )


def _data_file(path: Path, start: bytes) -> tuple[Path, int] | None:
    """The file with the header's voxels, and where they begin; None if there are several."""
    named = _DATA_FILE.search(start)
    if named is None:
        return path, 0
    if named[1].upper() == b"LOCAL":
        return path, named.end()
    data = path.parent / os.fsdecode(named[1])
    return (data, 0) if data.is_file() else None


def _check_zlib(path: Path, offset: int) -> None:
    """Refuse damaged voxels: MetaIO would leave them as memory was, or never end."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)  # zlib's or gzip's header
    try:
        with path.open("rb") as file:
            file.seek(offset)
            while not stream.eof and (chunk := file.read(1 << 16)):
                stream.decompress(chunk)
    except zlib.error:
        pass
    if not stream.eof:
        raise damaged("its compressed voxels are damaged")


def read_itk(path: Path) -> Volume:
    """The volume of a NRRD or MetaImage file; raises `InputError` as `read_volume_file` does."""
    import SimpleITK as sitk

    with path.open("rb") as stream:
        start = stream.read(HEADER_BYTES)
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    # Named, since ITK knows suffixes in lower case only.
    format_ = _READERS[path.suffix.lower()]
    reader.SetImageIO(format_)
    if format_ == "MetaImageIO" and not _DIMENSIONS.search(start):
        raise damaged("it is truncated or damaged")  # MetaIO would end the process
    try:
        with native_stderr_closed():
            reader.ReadImageInformation()
            if any(key.startswith("Segment0_") for key in reader.GetMetaDataKeys()):
                raise label_map("a Slicer segmentation")
            check_dimensions(reader.GetSize()[::-1])
            if reader.GetNumberOfComponents() != 1:
                raise no_color()
            _check_place(start)
            voxel_bytes = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
            compressed = _COMPRESSED.search(start)
            if data := _data_file(path, start):
                check_size(
                    math.prod(reader.GetSize()) * voxel_bytes,
                    data[0].stat().st_size,
                    DEFLATE_RATIO if compressed else TEXT_RATIO,
                )
                if compressed and format_ == "MetaImageIO":
                    _check_zlib(*data)
            image = reader.Execute()
    except RuntimeError as error:
        _check_place(start)
        text = str(error)
        if "Zero-valued spacing" in text or "spacing (0) invalid" in text:
            raise no_spacing() from None
        if "determinant is 0" in text:
            raise InputError(
                "affine-singular",
                "The volume's three axes must span space; its directions are singular.",
                "Export the scan again, or correct its header.",
            ) from None
        raise damaged("it is truncated or damaged") from None
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps_from_voxel[:3, 3] = image.GetOrigin()
    voxels = sitk.GetArrayFromImage(image)
    return Volume(single_precision(voxels), LPS_FROM_RAS @ lps_from_voxel)


def write_nrrd(
    path: Path, voxels: Num[np.ndarray, "k j i"], ras_from_voxel: Float[np.ndarray, "4 4"]
) -> None:
    """Write a compressed NRRD; its affine is kept in double precision."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels)
    spacing = np.asarray(voxel_spacing_mm(ras_from_voxel))
    lps_from_voxel = LPS_FROM_RAS @ ras_from_voxel
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps_from_voxel[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps_from_voxel[:3, 3].tolist())
    sitk.WriteImage(image, itk_name(path), useCompression=True)
