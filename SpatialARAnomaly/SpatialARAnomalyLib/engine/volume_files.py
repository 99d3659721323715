"""Volumes in files: NIfTI, NRRD and MetaImage.

NIfTI goes through nibabel (its affine, sheared or left-handed, arrives as it
is stored; ITK would make it orthogonal), NRRD and MetaImage through SimpleITK.
"""

import math
import os
import re
import sys
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Num

from .errors import InputError
from .geometry import LPS_FROM_RAS, voxel_spacing_mm
from .volume import Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES

NIFTI_INTENT_LABEL = 1002
"""The NIfTI-1 intent code of a label map."""

DEFLATE_RATIO = 1032
"""No zlib or gzip stream holds more bytes than this per byte of its own."""

TEXT_RATIO = 4
"""Nor does a list of numbers as text: two characters for eight bytes."""

HEADER_BYTES = 1 << 16
"""Longer than the text header of a NRRD or MetaImage file."""

_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}

_ITK_READERS = {
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}

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


def has_volume_suffix(path: Path) -> bool:
    """Whether the file name ends as a NIfTI, NRRD or MetaImage file does."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def volume_name(path: Path) -> str:
    """The file's own name without its (double) suffix."""
    name = path.name
    for suffix in sorted((*VOLUME_SUFFIXES, ".seg.nrrd"), key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def read_volume_file(path: Path) -> Volume:
    """The volume of a NIfTI, NRRD or MetaImage file, with its rescale slope applied.

    Raises `InputError` for a missing, damaged, 2-D, 4-D or color image, or one
    whose header says that it is a label map or does not place it in space.
    """
    try:
        size_bytes = path.stat().st_size
        if path.is_dir():
            raise _no_volume_file("a folder")
        with path.open("rb") as stream:
            start = stream.read(HEADER_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            "input-missing",
            "The volume to read does not exist.",
            "Check the path for typing errors.",
        ) from None
    except OSError as error:
        raise unreadable(error) from None
    if not has_volume_suffix(path):
        raise _no_volume_file(f"a file of another kind ({path.suffix or 'without a suffix'})")
    if size_bytes == 0:
        raise _damaged("it is empty")
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return _read_nifti(path)
    return _read_itk(path, start)


def unreadable(error: OSError) -> InputError:
    """What to tell of a file or folder that the system does not open."""
    return InputError(
        "input-unreadable",
        f"The input cannot be opened: {error.strerror or 'unknown reason'}.",
        "Check that you are allowed to read it and that its drive is connected.",
    )


def _no_volume_file(found: str) -> InputError:
    return InputError(
        "input-format",
        f"Expected a volume file ({', '.join(VOLUME_SUFFIXES)}) or a folder with a DICOM "
        f"series; found {found}.",
        "For DICOM give the folder that holds the series; convert anything else to NRRD.",
    )


def _damaged(reason: str) -> InputError:
    return InputError(
        "input-damaged",
        f"The volume file cannot be read: {reason}.",
        "Copy or export it again.",
    )


def _check_dimensions(shape: tuple[int, ...]) -> None:
    if len(shape) == 3 and min(shape) >= 1:
        return
    size = " × ".join(map(str, shape))
    if min(shape, default=0) < 1:
        raise InputError("volume-empty", f"The volume must hold voxels; its size is {size}.")
    if len(shape) < 3:
        raise InputError(
            "volume-2d",
            f"Expected a 3-D volume; found a {len(shape)}-D image ({size}).",
            "Save it as a 3-D volume (one slice is enough) with its place in the patient.",
        )
    raise InputError(
        "volume-4d",
        f"Expected one 3-D volume; found {len(shape)} dimensions ({size}).",
        "Extract one time point or channel and use that.",
    )


def _check_size(needed_bytes: int, stored_bytes: int, ratio: int) -> None:
    """Refuse a header that promises more than its file can hold, before memory is taken."""
    if needed_bytes > stored_bytes * ratio:
        raise _damaged(
            f"its header promises {needed_bytes:,} bytes of voxels; {stored_bytes:,} are on disk"
        )


def _no_color() -> InputError:
    return InputError(
        "volume-color",
        "Expected one gray value per voxel; found a color or vector volume.",
        "Convert it to a scalar volume.",
    )


def _label_map(how: str) -> InputError:
    return InputError(
        "label-map",
        f"Expected a scan; found a label map ({how}).",
        "Choose the scan that the labels belong to.",
    )


def _single_precision(voxels: Num[np.ndarray, "..."]) -> Num[np.ndarray, "..."]:
    """Integers as they are, floating point as float32 (beyond its range: infinite)."""
    if voxels.dtype.kind == "f" and voxels.dtype != np.float32:
        with np.errstate(over="ignore"):
            return voxels.astype(np.float32)
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


@contextmanager
def _repairs_untold() -> Iterator[None]:
    """Hear nothing of the headers that nibabel repairs; what matters is refused below."""
    import nibabel

    logger = nibabel.imageglobals.logger
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = was_disabled


def _read_nifti(path: Path) -> Volume:
    import nibabel

    try:
        with _repairs_untold():
            image: Any = nibabel.load(path, mmap=False)
            if not isinstance(image, nibabel.Nifti1Pair):
                raise _damaged("it is not a NIfTI volume")
            header = image.header
            with nibabel.openers.ImageOpener(str(path)) as stream:
                stored_header = type(header).from_fileobj(stream, check=False)
            shape = tuple(int(size) for size in image.shape)
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            _check_dimensions(shape)
            if image.get_data_dtype().fields is not None:
                raise _no_color()
            if image.get_data_dtype().kind == "c":
                raise InputError("volume-complex", "Expected real voxels; found complex numbers.")
            if int(header["intent_code"]) == NIFTI_INTENT_LABEL:
                raise _label_map("its NIfTI intent says so")
            if 0 in stored_header["pixdim"][1:4]:
                raise InputError(
                    "spacing-zero",
                    "Voxel spacing must be positive along every axis; the header holds a zero.",
                    "Export the scan again, or correct its header.",
                )
            _check_size(
                math.prod(shape) * image.get_data_dtype().itemsize,
                path.stat().st_size,
                DEFLATE_RATIO if path.name.lower().endswith(".gz") else 1,
            )
            voxels = np.asanyarray(image.dataobj).reshape(shape)
            mm_per_unit = _MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    except (
        OSError,
        EOFError,
        KeyError,
        ValueError,
        zlib.error,
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
    ):
        raise _damaged("it is truncated, or not a NIfTI file") from None
    ras_from_voxel = np.array(image.affine, dtype=np.float64)
    ras_from_voxel[:3] *= mm_per_unit
    return Volume(_single_precision(np.ascontiguousarray(voxels.T)), ras_from_voxel)


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
        raise _damaged("its compressed voxels are damaged")


def _read_itk(path: Path, start: bytes) -> Volume:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    # Named, since ITK knows suffixes in lower case only.
    format_ = _ITK_READERS[path.suffix.lower()]
    reader.SetImageIO(format_)
    if format_ == "MetaImageIO" and not _DIMENSIONS.search(start):
        raise _damaged("it is truncated or damaged")  # MetaIO would end the process
    try:
        with native_stderr_closed():
            reader.ReadImageInformation()
            if any(key.startswith("Segment0_") for key in reader.GetMetaDataKeys()):
                raise _label_map("a Slicer segmentation")
            _check_dimensions(reader.GetSize()[::-1])
            if reader.GetNumberOfComponents() != 1:
                raise _no_color()
            _check_place(start)
            voxel_bytes = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
            compressed = _COMPRESSED.search(start)
            if data := _data_file(path, start):
                _check_size(
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
            raise InputError(
                "spacing-zero",
                "Voxel spacing must be positive along every axis; the header holds a zero.",
                "Export the scan again, or correct its header.",
            ) from None
        if "determinant is 0" in text:
            raise InputError(
                "affine-singular",
                "The volume's three axes must span space; its directions are singular.",
                "Export the scan again, or correct its header.",
            ) from None
        raise _damaged("it is truncated or damaged") from None
    lps_from_voxel = np.eye(4)
    lps_from_voxel[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps_from_voxel[:3, 3] = image.GetOrigin()
    voxels = sitk.GetArrayFromImage(image)
    return Volume(_single_precision(voxels), LPS_FROM_RAS @ lps_from_voxel)


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


def write_nifti_labels(
    path: Path, labels: Num[np.ndarray, "k j i"], ras_from_voxel: Float[np.ndarray, "4 4"]
) -> None:
    """Write a NIfTI-1 label map. The format keeps the affine in single precision."""
    import nibabel

    image = nibabel.Nifti1Image(labels.T, ras_from_voxel, dtype=labels.dtype)
    image.header.set_intent("label", name="anomalies")
    image.header.set_xyzt_units("mm")
    image.set_sform(ras_from_voxel, code="scanner")
    image.set_qform(ras_from_voxel, code="scanner", strip_shears=True)
    nibabel.save(image, path)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a scan as NIfTI-1. The format keeps the affine in single precision."""
    import nibabel

    image = nibabel.Nifti1Image(volume.voxels.T, volume.ras_from_voxel, dtype=volume.voxels.dtype)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
