"""NRRD and MetaImage files through SimpleITK, checked before its C++ code reads them.

ITK replaces positions that it cannot parse by 0 or 1 mm and opens any file that a header
names; MetaIO accepts damaged voxels or ends the process.
"""

import errno
import math
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes import refusals
from SpatialARAnomalyLib.engine.volumes.formats import Format, find_format
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS, voxel_spacing_mm
from SpatialARAnomalyLib.engine.volumes.volume import Volume

TEXT_RATIO = 4
"""Highest possible compression of numbers as text: two characters for eight bytes."""

HEADER_BYTES = 1 << 20
"""Longest text header of a NRRD or MetaImage file that is read."""

_IMAGE_IO = {Format.NRRD: "NrrdImageIO", Format.METAIMAGE: "MetaImageIO"}

# The fields of a NRRD or MetaImage header, as bytes: binary voxels may follow.
_INVALID_POSITION = re.compile(
    rb"^(space origin|Element(Spacing|Size)|Offset|Origin|Position"
    rb"|TransformMatrix|Rotation|Orientation)\s*[:=].*\b(nan|inf)\b",
    re.IGNORECASE | re.MULTILINE,
)
_COMPRESSED = re.compile(rb"^(encoding:\s*gz|CompressedData\s*=\s*True)", re.I | re.MULTILINE)
_DATA_FILE = {
    Format.NRRD: re.compile(rb"(?<![^\r\n])data ?file: ([^\r\n]*)", re.IGNORECASE),
    Format.METAIMAGE: re.compile(rb"(?<![^\r\n])[ \t]*ElementDataFile\s*[=:]([^\n]*)\n?"),
}
_NRRD_END = re.compile(rb"\n\r?\n|\r\r")
_NRRD_FIELD = re.compile(rb"^([A-Za-z][A-Za-z ]*):(?!=) ?([^\r\n]*)", re.MULTILINE)
_REPLACED_FIELD = re.compile(
    r"(kinds|centerings|labels|units|space directions|spacings|data ?file|line ?skip):", re.I
)
_ABSENT_STEP = re.compile(r"none|nan|\(\s*(nan|0(\.0*)?)(\s*,\s*(nan|0(\.0*)?))*\s*\)", re.I)
"""Step of an axis that has none."""
_META_FIELD = re.compile(rb"^[ \t]*(\w+)[ \t]*[=:][ \t]*([^\r\n]*)", re.MULTILINE)
_DIMENSIONS = re.compile(rb"^NDims[ \t]*[=:][ \t]*[1-5][ \t\r]*\n", re.MULTILINE)

_ANATOMICAL_SPACES = {
    f"{name}{time}"
    for names, time in (
        (("right-anterior-superior", "left-anterior-superior", "left-posterior-superior"), "-time"),
        (("ras", "las", "lps"), "t"),
    )
    for name in names
    for time in ("", time)
}
_META_ORIENTATIONS = ("transformmatrix", "rotation", "orientation")

_SERIES_KINDS = ("list", "none", "???", "time", "domain", "space", "point", "scalar", "stub")
"""NRRD kinds of an axis without a direction that counts volumes; others hold vectors."""

_MM_PER_UNIT = {
    **dict.fromkeys(("m", "meter", "metre", "meters", "metres"), 1000.0),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-6),
}
"""Other words are unknown units, which count as mm."""


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
        raise _not_finite_error()


def _not_finite_error() -> InputError:
    return InputError(
        "affine-not-finite",
        "The volume's origin, spacing and directions must be finite; its header holds "
        "NaN, infinity or none.",
    )


def _fields(start: bytes, format_: Format) -> dict[str, str]:
    """Return the fields of a header by their names in lower case, without spaces."""
    if format_ is Format.NRRD:
        end = _NRRD_END.search(start)
        found = _NRRD_FIELD.findall(start[: end.start() if end else len(start)])
    else:
        found = _META_FIELD.findall(start.partition(b"ElementDataFile")[0])
    return {
        name.decode().lower().replace(" ", ""): value.decode(errors="replace").strip()
        for name, value in found
    }


def _check_encoding(fields: dict[str, str]) -> None:
    """Raise `InputError` for NRRD voxels that ITK cannot decode, saying which these are."""
    encoding = fields.get("encoding", "raw").lower()
    if encoding.startswith("bz"):
        raise InputError(
            "input-encoding", "Expected voxels that are raw or compressed with gzip; found bzip2."
        )
    for field, name, least in (("byteskip", "byte skip", -1), ("lineskip", "line skip", 0)):
        skip = fields.get(field, "0")
        if not skip.lstrip("+-").isdigit() or int(skip) < least:
            raise refusals.damaged_error(f"its {name} of {skip} is not defined")


@dataclass(frozen=True)
class _NrrdAxes:
    """The axes of a NRRD header."""

    sizes: list[str]
    steps: list[str]
    """Vector or spacing of every axis; empty without them."""
    kinds: list[str]
    """In lower case; empty without them."""

    @classmethod
    def of(cls, fields: dict[str, str]) -> "_NrrdAxes":
        directions = re.findall(r"none|\([^)]*\)", fields.get("spacedirections", ""))
        return cls(
            fields.get("sizes", "").split(),
            directions or fields.get("spacings", "").split(),
            fields.get("kinds", "").lower().split(),
        )

    @property
    def series(self) -> list[int]:
        """The axes without a place in space, beside three that have one."""
        absent = [axis for axis, one in enumerate(self.steps) if _ABSENT_STEP.fullmatch(one)]
        return absent if len(self.steps) - len(absent) >= 3 else []

    def check(self) -> None:
        """Raise `InputError` for steps that are not finite, and for vectors in place of volumes."""
        placed = [one for axis, one in enumerate(self.steps) if axis not in self.series]
        if any(re.search("nan|inf|none", one, re.IGNORECASE) for one in placed):
            raise _not_finite_error()
        for axis, kind in enumerate(self.kinds):
            if kind not in _SERIES_KINDS and self.sizes[axis : axis + 1] != ["1"]:
                raise refusals.color_error()

    @property
    def is_unknown_to_itk(self) -> bool:
        """True where ITK would take an axis without a place for one of space."""
        return any(
            self.kinds[axis : axis + 1] != ["list"] or "0" in self.steps[axis]
            for axis in self.series
        )

    def lines(self, is_directed: bool) -> list[str]:
        """Return the lines of a header that says to ITK which axes have no place."""
        absent = "none" if is_directed else "nan"
        steps = [absent if axis in self.series else one for axis, one in enumerate(self.steps)]
        kinds = ["list" if axis in self.series else "domain" for axis in range(len(self.sizes))]
        field = "space directions" if is_directed else "spacings"
        return [f"{field}: {' '.join(steps)}", f"kinds: {' '.join(kinds)}"]


@contextmanager
def _readable_nrrd(
    path: Path, start: bytes, fields: dict[str, str], axes: _NrrdAxes
) -> Iterator[Path]:
    """Yield a NRRD header that ITK understands: axes without a direction are of kind "list"."""
    end = _NRRD_END.search(start)
    if not axes.is_unknown_to_itk or end is None:
        yield path
        return
    lines = [
        line
        for line in start[: end.start()].decode(errors="replace").splitlines()
        if not _REPLACED_FIELD.match(line)
    ]
    skipped = int(fields.get("lineskip", "0"))
    if "datafile" in fields:
        voxels = path.parent / fields["datafile"]
    else:
        voxels, skipped = path, skipped + start[: end.end()].count(b"\n")
    lines += axes.lines("spacedirections" in fields)
    lines += [f"line skip: {skipped}", f"data file: {voxels.resolve()}"]
    with tempfile.TemporaryDirectory() as folder:
        header = Path(folder, "header.nhdr")
        header.write_text("\n".join([*lines, ""]), encoding="utf-8")
        yield header


def _data_file(path: Path, start: bytes, format_: Format) -> tuple[Path, int]:
    """Return the file that holds the header's voxels, and their offset in it.

    Raises `InputError` unless it is the header itself or a file beside it: a header from
    an unknown source must not make ITK open another file of this computer or of a server.
    """
    is_meta = format_ is Format.METAIMAGE
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


def _check_no_header(file: Path) -> None:
    """Raise `InputError` for voxels in a file with a header, which ITK would take for voxels."""
    try:
        found = find_format(file)
    except InputError:
        return
    raise InputError(
        "input-data-file",
        f"Expected a header that names a file of voxels alone; it names a {found} file without "
        "skipping the header of that.",
    )


def _check_zlib(path: Path, offset: int, fields: dict[str, str], needed: int) -> None:
    """Raise `InputError` for damaged voxels: MetaIO would leave them unset, or never return.

    It does so, too, where the header states less than the length of the compressed voxels, or
    where these, behind the header, are of no stated length, or fewer than `needed` bytes.
    """
    unpacked = packed = 0
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)  # a header of zlib or gzip
    with suppress(zlib.error), path.open("rb") as file:
        file.seek(offset)
        while not stream.eof and (chunk := file.read(1 << 16)):
            unpacked += len(stream.decompress(chunk))
        packed = file.tell() - offset - len(stream.unused_data)
    if not stream.eof or unpacked < needed:
        raise refusals.damaged_error("its compressed voxels are damaged")
    try:
        stated = float(fields.get("compresseddatasize", "nan" if offset else "inf"))
    except ValueError:
        stated = math.nan
    if not stated >= packed:
        raise refusals.damaged_error("its CompressedDataSize is missing or too small")


def _mm_per_unit(fields: dict[str, str]) -> float:
    """Return the length of the header's unit in mm."""
    words = re.findall(r'[^\s"]+', fields.get("spaceunits", fields.get("distanceunits", "")))
    scales = {_MM_PER_UNIT.get(word.lower(), 1.0) for word in words} or {1.0}
    if len(scales) > 1:
        raise refusals.damaged_error("its axes have different units of length")
    return scales.pop()


def _is_oriented(fields: dict[str, str], format_: Format) -> bool:
    """Return True if the header states where left and right are."""
    if format_ is Format.NRRD:
        return fields.get("space", "").lower() in _ANATOMICAL_SPACES
    return any(name in fields for name in _META_ORIENTATIONS)


def read_itk(
    path: Path, format_: Format, labels: bool = False, volume: int | None = None
) -> Volume:
    """Read a NRRD or MetaImage file; raises `InputError` as `read_volume_file` does."""
    with path.open("rb") as stream:
        start = stream.read(HEADER_BYTES)
    refusals.unicode_name(path)
    if format_ is Format.METAIMAGE and not _DIMENSIONS.search(start):
        raise refusals.damaged_error("it is truncated or damaged")  # MetaIO would end the process
    data_file, offset = _data_file(path, start, format_)
    fields = _fields(start, format_)
    axes = _NrrdAxes.of(fields if format_ is Format.NRRD else {})
    if format_ is Format.NRRD:
        if not labels and b"\nSegment0_" in start:
            raise refusals.label_map_error("a Slicer segmentation")
        _check_encoding(fields)
        axes.check()
    if data_file != path and not {"byteskip", "lineskip", "headersize"} & fields.keys():
        _check_no_header(data_file)
    try:
        with native_stderr_silenced(), _readable_nrrd(path, start, fields, axes) as header:
            image, index = _read_image(header, start, format_, (data_file, offset), volume)
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
        fault = " (its header is invalid)" if "ReadImageInformation" in text else ""
        raise refusals.damaged_error(f"it is truncated or damaged{fault}") from None
    import SimpleITK as sitk

    count = image.GetDimension()
    axes = np.reshape(image.GetDirection(), (count, count)) * image.GetSpacing()
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, :3] = axes[:3, :3]
    lps_from_voxel[:3, 3] = image.GetOrigin()[:3]
    unit_mm = _mm_per_unit(fields)
    lps_from_voxel[:3] *= unit_mm
    notices = [] if _is_oriented(fields, format_) else [refusals.unstated_notice()]
    if unit_mm != 1:
        text = f"Its unit of {unit_mm:g} mm was converted to mm; ITK and Slicer ignore the unit."
        notices.append(("units-converted", text))
    voxels = sitk.GetArrayViewFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = voxels[..., index]
    elif count > 3:
        voxels = voxels.reshape(-1, *voxels.shape[-3:])[index]
    voxels = np.array(voxels)
    return Volume(
        refusals.single_precision(voxels),
        LPS_FROM_RAS @ lps_from_voxel,
        notices=tuple(notices),
    )


def _read_image(
    header: Path, start: bytes, format_: Format, data: tuple[Path, int], volume: int | None
) -> tuple[Any, int]:
    """Return an image of ITK, and which of its frames or channels is the chosen volume."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(header))
    reader.SetImageIO(_IMAGE_IO[format_])  # ITK itself goes by the name of the file
    reader.ReadImageInformation()
    size, channels = reader.GetSize(), reader.GetNumberOfComponents()
    frames = math.prod(size[3:])
    refusals.check_dimensions(size)
    if channels > 1 and (frames > 1 or format_ is Format.METAIMAGE):
        raise refusals.color_error()
    _check_position(start)
    voxel_bytes = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    data_file, offset = data
    compressed = _COMPRESSED.search(start)
    needed = math.prod(size) * channels * voxel_bytes
    refusals.check_size(
        needed,
        data_file.stat().st_size,
        refusals.DEFLATE_RATIO if compressed else TEXT_RATIO,
    )
    if compressed and format_ is Format.METAIMAGE:
        _check_zlib(data_file, offset, _fields(start, format_), needed)
    index = refusals.choose_volume(frames * channels, volume, size[:3])
    # The whole: MetaIO ends the process where it reads a part of voxels stored as text.
    return reader.Execute(), index


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
    if not _is_whole(path):  # ITK does not notice that a disk is full
        raise OSError(errno.EIO, "the file was cut short; the disk may be full")


def _is_whole(path: Path) -> bool:
    """Return whether the compressed voxels of a NRRD file that was written here are complete."""
    stream = zlib.decompressobj(wbits=zlib.MAX_WBITS + 32)
    with suppress(zlib.error), path.open("rb") as file:
        while file.readline().strip():
            pass
        while not stream.eof and (chunk := file.read(1 << 16)):
            stream.decompress(chunk)
    return stream.eof
