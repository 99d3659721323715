"""Formats of volume files, by their first bytes: the names of files are often wrong."""

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes import refusals

SNIFFED_BYTES = 1024

SURPLUS_BYTES = 256 << 20
"""Most bytes after the voxels of a gzip stream; of a bomb, there are more."""


class Format(StrEnum):
    """The formats of volume files."""

    NIFTI = "NIfTI"
    NRRD = "NRRD"
    METAIMAGE = "MetaImage"


VOLUME_SUFFIXES = {
    ".nii": Format.NIFTI,
    ".nii.gz": Format.NIFTI,
    ".hdr": Format.NIFTI,
    ".nrrd": Format.NRRD,
    ".nhdr": Format.NRRD,
    ".mha": Format.METAIMAGE,
    ".mhd": Format.METAIMAGE,
}
"""Endings by which volume files are found in a folder, and what they promise."""


_META = re.compile(rb"^[ \t]*(ObjectType|NDims|DimSize|ElementType)[ \t]*[=:]", re.MULTILINE)
_NIFTI_MAGIC = ((344, b"n+1\0"), (344, b"ni1\0"), (4, b"n+2\0"), (4, b"ni2\0"))
_HEADER_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c")
"""Length of a header of Analyze 7.5 (348), in both byte orders."""

_STAND_INS = (
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer"),
    (re.compile(rb"[./\\]*[^\n]{0,200}[/\\]annex[/\\]objects[/\\]"), "a git-annex pointer"),
    (re.compile(rb"(\xef\xbb\xbf)?\s*(<!DOCTYPE html|<!--|<html|<head)", re.I), "a web page"),
    (re.compile(rb"\s*(<\?xml|<Error|\{\s*\")"), "the answer of a web server"),
)
"""Beginnings of what downloads leave in the place of a file."""

DICOM_IMAGE = "a DICOM image"

_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", DICOM_IMAGE),
    (0, b"CDF", "a MINC volume"),
    (0, b"\x89HDF\r\n", "an HDF5 file, perhaps a MINC volume"),
    (0, b"# === DATA DESCRIPTION FILE", "a Philips PAR/REC header"),
    (0, b"ENVI", "an ENVI header"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive"),
    (0, b"Rar!", "a RAR archive"),
    (257, b"ustar", "a TAR archive"),
    (0, b"BZh", "a file compressed with bzip2"),
    (0, b"\xfd7zXZ", "a file compressed with xz"),
    (0, b"\x28\xb5\x2f\xfd", "a file compressed with Zstandard"),
    (0, b"\x93NUMPY", "a NumPy array, which has no positions"),
    (0, b"MATLAB", "a MATLAB file"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"II*\0", "a TIFF picture"),
    (0, b"MM\0*", "a TIFF picture"),
    (0, b"%PDF", "a PDF document"),
)
"""Offset, bytes and name of other formats."""

_BY_SUFFIX = {
    ".mgh": "a FreeSurfer volume",
    ".mgz": "a FreeSurfer volume",
    ".head": "an AFNI header",
    ".brik": "the voxels of an AFNI volume",
    ".brik.gz": "the voxels of an AFNI volume",
    ".rec": "the voxels of a Philips PAR/REC volume",
    ".img": "voxels without their header (.hdr)",
    ".raw": "voxels without their header",
    ".img.gz": "voxels without their header (.hdr)",
    ".zraw": "voxels without their header",
    ".mrb": "a Slicer scene",
    ".mrml": "a Slicer scene",
}
"""Formats that their first bytes do not show."""


def has_volume_suffix(path: Path) -> bool:
    """Return True if the file name ends as that of a NIfTI, NRRD or MetaImage file."""
    return path.name.lower().endswith(tuple(VOLUME_SUFFIXES))


def find_format(path: Path) -> Format:
    """Return the format of a volume file; raise `InputError` that names any other content."""
    with path.open("rb") as stream:
        start = stream.read(SNIFFED_BYTES)
    gzipped = start.startswith(b"\x1f\x8b")
    if gzipped:
        try:
            start = zlib.decompressobj(wbits=zlib.MAX_WBITS + 16).decompress(start, SNIFFED_BYTES)
        except zlib.error:
            raise refusals.damaged_error("its gzip stream is truncated or damaged") from None
    if _is_nifti(start):
        return Format.NIFTI
    named = _named(path, start)
    if start.startswith(b"NRRD") or (_META.search(start) and named is None):
        format_ = Format.NRRD if start.startswith(b"NRRD") else Format.METAIMAGE
        if gzipped:
            raise refusals.format_error(f"a {format_} file compressed with gzip")
        return format_
    if named is not None:
        raise refusals.format_error(named)
    if has_volume_suffix(path):
        raise refusals.damaged_error("it is truncated, or no NIfTI, NRRD or MetaImage file")
    raise refusals.format_error(f"a file of another kind ({path.suffix or 'without a suffix'})")


def other_formats(paths: Iterable[Path]) -> Counter[str]:
    """Count the files of formats that are not read here, by name; others are not counted."""
    counts: Counter[str] = Counter()
    for path in paths:
        try:
            with path.open("rb") as stream:
                named = _named(path, stream.read(SNIFFED_BYTES))
        except (OSError, InputError):
            continue
        if named is not None and named != DICOM_IMAGE and "voxels" not in named:
            counts[named.split(",")[0].removeprefix("a ").removeprefix("an ")] += 1
    return counts


def count_text(counts: Counter[str]) -> str:
    """Return numbers and names of kinds of files as text."""
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(counts.items()))


def _is_nifti(start: bytes) -> bool:
    return any(start[at : at + len(magic)] == magic for at, magic in _NIFTI_MAGIC)


def _named(path: Path, start: bytes) -> str | None:
    """Return the name of another format; raise `InputError` for what stands in for a file."""
    for beginning, kind in _STAND_INS:
        if beginning.match(start):
            raise InputError(
                "input-stand-in", f"Expected a volume file; found {kind} in place of the file."
            )
    for at, magic, kind in _OTHERS:
        if start[at : at + len(magic)] == magic:
            return kind
    if len(start) >= 348 and start[:4] in _HEADER_SIZES and not _is_nifti(start):
        return "an Analyze 7.5 header, which does not state left and right"
    name = path.name.lower()
    return next((kind for suffix, kind in _BY_SUFFIX.items() if name.endswith(suffix)), None)


def check_gzip(stream: Any) -> None:
    """Read a gzip stream to its end, where its checksum is compared; other streams are left alone.

    What follows the last member is no part of it. Raises `gzip.BadGzipFile`, `EOFError` or
    `zlib.error` for a damaged one, `EOFError` for one that goes on for `SURPLUS_BYTES`.
    """
    left = SURPLUS_BYTES
    try:
        while isinstance(stream, gzip.GzipFile) and (found := stream.read(1 << 20)):
            left -= len(found)
            if left < 0:
                raise EOFError("more bytes than the header states")
    except gzip.BadGzipFile as error:
        if "Not a gzipped file" not in str(error):
            raise
