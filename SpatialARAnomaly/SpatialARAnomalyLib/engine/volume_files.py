"""Volumes in files: NIfTI, NRRD and MetaImage.

NIfTI goes through nibabel (its affine, sheared or left-handed, arrives as it
is stored; ITK would make it orthogonal), NRRD and MetaImage through SimpleITK.
"""

import os
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

_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}


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
    if not path.exists():
        raise InputError(
            "input-missing",
            "The volume to read does not exist.",
            "Check the path for typing errors.",
        )
    if not has_volume_suffix(path):
        raise InputError(
            "input-format",
            f"Expected a volume file ({', '.join(VOLUME_SUFFIXES)}) or a folder with a DICOM "
            f"series; found a file of another kind{_suffix_of(path)}.",
            "For DICOM give the folder that holds the series; convert anything else to NRRD.",
        )
    if path.stat().st_size == 0:
        raise _damaged("it is empty")
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return _read_nifti(path)
    return _read_itk(path)


def _suffix_of(path: Path) -> str:
    return f" ({path.suffix})" if path.suffix else ""


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
    if 0 in shape:
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


def _read_nifti(path: Path) -> Volume:
    import nibabel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # nibabel warns of header repairs it makes
            image: Any = nibabel.load(path)
            header = image.header
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
            if min(abs(float(zoom)) for zoom in header["pixdim"][1:4]) == 0:
                raise InputError(
                    "spacing-zero",
                    "Voxel spacing must be positive along every axis; the header holds a zero.",
                    "Export the scan again, or correct its header.",
                )
            voxels = np.asanyarray(image.dataobj).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error, nibabel.filebasedimages.ImageFileError):
        raise _damaged("it is truncated or not a NIfTI file") from None
    ras_from_voxel = np.array(image.affine, dtype=np.float64)
    ras_from_voxel[:3] *= _MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    return Volume(_single_precision(np.ascontiguousarray(voxels.T)), ras_from_voxel)


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """ITK's C code prints what it then also raises; the user reads it once, from us."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _read_itk(path: Path) -> Volume:
    import SimpleITK as sitk  # noqa: N813 - the field's name

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _native_stderr_closed():
            reader.ReadImageInformation()
            _check_dimensions(reader.GetSize()[::-1])
            if reader.GetNumberOfComponents() != 1:
                raise _no_color()
            if any(key.startswith("Segment0_") for key in reader.GetMetaDataKeys()):
                raise _label_map("a Slicer segmentation")
            image = reader.Execute()
    except RuntimeError as error:
        text = str(error)
        if "Zero-valued spacing" in text:
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
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(voxels)
    spacing = np.asarray(voxel_spacing_mm(ras_from_voxel))
    lps_from_voxel = LPS_FROM_RAS @ ras_from_voxel
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps_from_voxel[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps_from_voxel[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def write_nifti_labels(
    path: Path, labels: Num[np.ndarray, "k j i"], ras_from_voxel: Float[np.ndarray, "4 4"]
) -> None:
    """Write a NIfTI-1 label map. The format keeps the affine in single precision."""
    import nibabel

    image = nibabel.Nifti1Image(labels.T, ras_from_voxel)
    image.header.set_intent("label", name="anomalies")
    image.header.set_xyzt_units("mm")
    image.set_sform(ras_from_voxel, code="scanner")
    image.set_qform(ras_from_voxel, code="scanner", strip_shears=True)
    nibabel.save(image, path)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a scan as NIfTI-1. The format keeps the affine in single precision."""
    import nibabel

    image = nibabel.Nifti1Image(volume.voxels.T, volume.ras_from_voxel)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
