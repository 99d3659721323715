"""NRRD and MetaImage files through SimpleITK, checked before its C++ code reads them.

ITK replaces positions that it cannot parse by 0 or 1 mm and opens any file that a header
names; MetaIO accepts damaged voxels or ends the process.
"""

import math
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath

import numpy as np
from jaxtyping import Float, Num

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes import refusals
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS, voxel_spacing_mm
from SpatialARAnomalyLib.engine.volumes.volume import Volume

TEXT_RATIO = 4
"""Highest possible compression of numbers as text: two characters for eight bytes."""

HEADER_BYTES = 1 << 20
"""Longest text header of a NRRD or MetaImage file that is read."""

_NRRD, _META = "NrrdImageIO", "MetaImageIO"
_READERS = {".nrrd": _NRRD, ".nhdr": _NRRD, ".mha": _META, ".mhd": _META}
ITK_SUFFIXES = tuple(_READERS)

# The fields of a NRRD or MetaImage header, as bytes: binary voxels may follow.
_INVALID_POSITION = re.compile(
    rb"^(space (directions|origin)|spacings|Element(Spacing|Size)|Offset|Origin|Position"
    rb"|TransformMatrix|Rotation|Orientation)\s*[:=].*\b(nan|inf|none)\b",
    re.IGNORECASE | re.MULTILINE,
)
_COMPRESSED = re.compile(
    rb"^(encoding:\s*(gz|bz)|CompressedData\s*=\s*True)", re.IGNORECASE | re.MULTILINE
)
_DATA_FILE = {
    _NRRD: re.compile(rb"(?<![^\r\n])data ?file: ([^\r\n]*)", re.IGNORECASE),
    _META: re.compile(rb"(?<![^\r\n])[ \t]*ElementDataFile\s*[=:]([^\n]*)\n?"),
}
_NRRD_END = re.compile(rb"\n\r?\n|\r\r")
_DIMENSIONS = re.compile(rb"^NDims[ \t]*[=:][ \t]*[1-5][ \t\r]*\n", re.MULTILINE)


@contextmanager
def native_stderr_silenced() -> Iterator[None]:
    """Suppress what C libraries print to stderr in addition to raising it.

    Redirects file descriptor 2 of the whole process, so use it in one thread only. Does
    nothing in a program without a console, which has no such descriptor.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    kept = None
    with suppress(OSError):
        kept = os.dup(2)
    if kept is None:
        yield
        return
    try:
        with open(os.devnull, "w") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_position(start: bytes) -> None:
    """Raise `InputError` for numbers that ITK would silently replace by 0 or 1 mm."""
    if _INVALID_POSITION.search(start):
        raise InputError(
            "affine-not-finite",
            "The volume's origin, spacing and directions must be finite; its header holds "
            "NaN, infinity or none.",
        )


def _data_file(path: Path, start: bytes, format_: str) -> tuple[Path, int]:
    """Return the file that holds the header's voxels, and their offset in it.

    Raises `InputError` unless it is the header itself or a file beside it: a header from
    an unknown source must not make ITK open another file of this computer or of a server.
    """
    is_meta = format_ == _META
    # Every such field is checked, because ITK decides which of several it uses.
    fields = list(_DATA_FILE[format_].finditer(start))
    if is_meta and not fields:
        raise refusals.damaged_error("it is truncated or damaged")
    if not is_meta and len(start) == HEADER_BYTES and not _NRRD_END.search(start):
        raise refusals.damaged_error(f"its header is longer than {HEADER_BYTES:,} bytes")
    files = []
    for field in fields:
        name = field[1].strip().decode(errors="surrogateescape")
        if is_meta and name.upper() == "LOCAL":
            files.append((path, field.end()))
        else:
            files.append((path.parent / _sibling_name(name), 0))
    file, offset = files[0] if files else (path, 0)
    if not os.path.isfile(file):
        raise refusals.damaged_error("the file with its voxels is missing")
    return file, offset


def _sibling_name(name: str) -> str:
    """Return the name of one file in the header's own folder; raise `InputError` for others."""
    plain = name.removeprefix("./")
    if any(letter < " " for letter in plain):
        raise refusals.damaged_error("it is truncated or damaged")
    if not plain:
        found = "none"
    elif "%" in plain or plain.startswith("LIST"):
        found = "a list or pattern of files"
    # Windows paths cover the separators of every system, drives and servers.
    elif plain == ".." or PureWindowsPath(plain).name != plain:
        found = "one in another folder"
    else:
        return plain
    raise InputError(
        "input-data-file",
        f"Expected a header that names one file of voxels, in its own folder; it names {found}.",
    )


def _check_zlib(path: Path, offset: int) -> None:
    """Raise `InputError` for damaged voxels: MetaIO would leave them unset, or never return."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)  # a header of zlib or gzip
    with suppress(zlib.error), path.open("rb") as file:
        file.seek(offset)
        while not stream.eof and (chunk := file.read(1 << 16)):
            stream.decompress(chunk)
    if not stream.eof:
        raise refusals.damaged_error("its compressed voxels are damaged")


def read_itk(path: Path, labels: bool = False) -> Volume:
    """Read a NRRD or MetaImage file; raises `InputError` as `read_volume_file` does."""
    import SimpleITK as sitk

    with path.open("rb") as stream:
        start = stream.read(HEADER_BYTES)
    name, format_ = refusals.unicode_name(path), _READERS[path.suffix.lower()]
    if format_ == _META and not _DIMENSIONS.search(start):
        raise refusals.damaged_error("it is truncated or damaged")  # MetaIO would end the process
    data_file, offset = _data_file(path, start, format_)
    reader = sitk.ImageFileReader()
    reader.SetFileName(name)
    reader.SetImageIO(format_)  # ITK itself recognizes lower-case suffixes only
    try:
        with native_stderr_silenced():
            reader.ReadImageInformation()
            if not labels and any(key.startswith("Segment0_") for key in reader.GetMetaDataKeys()):
                raise refusals.label_map_error("a Slicer segmentation")
            refusals.check_dimensions(reader.GetSize()[::-1])
            if reader.GetNumberOfComponents() != 1:
                raise refusals.color_error()
            _check_position(start)
            voxel_bytes = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
            compressed = _COMPRESSED.search(start)
            refusals.check_size(
                math.prod(reader.GetSize()) * voxel_bytes,
                data_file.stat().st_size,
                refusals.DEFLATE_RATIO if compressed else TEXT_RATIO,
            )
            if compressed and format_ == _META:
                _check_zlib(data_file, offset)
            image = reader.Execute()
    except RuntimeError as error:
        _check_position(start)
        text = str(error)
        if "Zero-valued spacing" in text or "spacing (0) invalid" in text:
            raise refusals.spacing_error() from None
        if "determinant is 0" in text:
            raise InputError(
                "affine-singular",
                "The volume's three axes must span space; its directions are singular.",
            ) from None
        raise refusals.damaged_error("it is truncated or damaged") from None
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps_from_voxel[:3, 3] = image.GetOrigin()
    voxels = sitk.GetArrayFromImage(image)
    return Volume(refusals.single_precision(voxels), LPS_FROM_RAS @ lps_from_voxel)


def write_nrrd(
    path: Path, voxels: Num[np.ndarray, "k j i"], ras_from_voxel: Float[np.ndarray, "4 4"]
) -> None:
    """Write a compressed NRRD, its affine in double precision; raises `OSError`."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(voxels)
    spacing = np.asarray(voxel_spacing_mm(ras_from_voxel))
    lps_from_voxel = LPS_FROM_RAS @ ras_from_voxel
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps_from_voxel[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps_from_voxel[:3, 3].tolist())
    try:
        sitk.WriteImage(image, refusals.unicode_name(path), useCompression=True)
    except RuntimeError as error:
        raise OSError("the NRRD file could not be written") from error
