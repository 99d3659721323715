"""NIfTI files through nibabel: sheared and left-handed affines are kept as stored."""

import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Num

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes import refusals
from SpatialARAnomalyLib.engine.volumes.geometry import grids_apart_mm
from SpatialARAnomalyLib.engine.volumes.volume import Volume

NIFTI_SUFFIXES = (".nii", ".nii.gz")

MAX_FORMS_APART_MM = 0.1
"""Largest distance of a voxel between qform and sform; the rounding of quaternions is smaller."""

NIFTI_INTENT_LABEL = 1002
"""The NIfTI-1 intent code of a label map."""

_MM_PER_UNIT = {"meter": 1000.0, "micron": 0.001}


@contextmanager
def _nibabel_silenced() -> Iterator[None]:
    """Silence nibabel's warnings about headers it repairs; `read_nifti` checks what matters."""
    import nibabel

    logger = nibabel.imageglobals.logger
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.disabled = was_disabled


def _voxels(stored: Any, shape: tuple[int, ...]) -> Num[np.ndarray, "k j i"]:
    """Read nibabel's array proxy, scaled in double precision and returned in single."""
    voxels = np.ascontiguousarray(stored.get_unscaled().reshape(shape, order="F").T)
    if (stored.slope, stored.inter) == (1.0, 0.0):
        return refusals.single_precision(voxels)
    scaled: Float32[np.ndarray, "k j i"] = np.empty(voxels.shape, dtype=np.float32)
    with np.errstate(over="ignore"):
        # Slice by slice: nibabel would hold the whole volume in double precision.
        for target, one_slice in zip(scaled, voxels, strict=True):
            target[:] = one_slice.astype(np.float64) * stored.slope + stored.inter
    return scaled


def _check_forms(image: Any, shape: tuple[int, ...]) -> None:
    """Raise `InputError` if qform and sform disagree: programs differ in which one they use."""
    (qform, q_code), (sform, s_code) = image.get_qform(coded=True), image.get_sform(coded=True)
    if not (q_code > 0 and s_code > 0):
        return
    apart_mm = grids_apart_mm(qform, sform, shape[::-1])
    if apart_mm > MAX_FORMS_APART_MM:
        raise InputError(
            "affine-ambiguous",
            f"The header's qform and sform must agree; they put voxels {apart_mm:.3g} mm apart.",
        )


def read_nifti(path: Path, labels: bool = False) -> Volume:
    """Read a NIfTI file; raises `InputError` as `read_volume_file` does."""
    import nibabel

    format_errors = nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError
    try:
        with _nibabel_silenced():
            image: Any = nibabel.load(path, mmap=False)
            if not isinstance(image, nibabel.Nifti1Pair):
                raise refusals.damaged_error("it is not a NIfTI volume")
            header = image.header
            with nibabel.openers.ImageOpener(str(path)) as stream:
                stored_header = type(header).from_fileobj(stream, check=False)
            shape = tuple(int(size) for size in image.shape)
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            refusals.check_dimensions(shape)
            if image.get_data_dtype().fields is not None:
                raise refusals.color_error()
            if image.get_data_dtype().kind == "c":
                raise InputError("volume-complex", "Expected real voxels; found complex numbers.")
            if not labels and int(header["intent_code"]) == NIFTI_INTENT_LABEL:
                raise refusals.label_map_error("its NIfTI intent says so")
            _check_forms(image, shape)
            if 0 in stored_header["pixdim"][1:4]:
                raise refusals.spacing_error()
            refusals.check_size(
                math.prod(shape) * image.get_data_dtype().itemsize,
                path.stat().st_size,
                refusals.DEFLATE_RATIO if path.name.lower().endswith(".gz") else 1,
            )
            voxels = _voxels(image.dataobj, shape)
            mm_per_unit = _MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    except (OSError, EOFError, KeyError, ValueError, zlib.error, *format_errors):
        raise refusals.damaged_error("it is truncated, or not a NIfTI file") from None
    ras_from_voxel = np.array(image.affine, dtype=np.float64)
    ras_from_voxel[:3] *= mm_per_unit
    return Volume(voxels, ras_from_voxel)


def write_nifti_labels(
    path: Path, labels: Num[np.ndarray, "k j i"], ras_from_voxel: Float[np.ndarray, "4 4"]
) -> None:
    """Write a NIfTI-1 label map; its affine is stored in single precision."""
    import nibabel

    image = nibabel.Nifti1Image(labels.T, ras_from_voxel, dtype=labels.dtype)
    image.header.set_intent("label", name="anomalies")
    image.header.set_xyzt_units("mm")
    image.set_sform(ras_from_voxel, code="scanner")
    image.set_qform(ras_from_voxel, code="scanner", strip_shears=True)
    nibabel.save(image, path)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a scan as NIfTI-1; its affine is stored in single precision."""
    import nibabel

    image = nibabel.Nifti1Image(volume.voxels.T, volume.ras_from_voxel, dtype=volume.voxels.dtype)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
