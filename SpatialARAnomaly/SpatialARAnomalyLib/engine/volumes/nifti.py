"""NIfTI files through nibabel: sheared and left-handed affines are kept as stored."""

import gzip
import math
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Num, Shaped

from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Orientation
from SpatialARAnomalyLib.engine.volumes import refusals
from SpatialARAnomalyLib.engine.volumes.formats import check_gzip
from SpatialARAnomalyLib.engine.volumes.geometry import (
    MAX_SHEAR,
    grids_apart_mm,
    lengths_text,
    shear,
    tilt_degrees,
    voxel_spacing_mm,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume

MAX_FORMS_APART_MM = 0.1
"""Largest distance of a voxel between two placements; rounding is smaller."""

NIFTI_INTENT_LABEL = 1002
"""The NIfTI-1 intent code of a label map."""

CIFTI_INTENTS = range(3000, 3100)
"""The NIfTI-2 intent codes of CIFTI files."""

_MM_PER_UNIT = {1: 1000.0, 3: 0.001}
"""By the code of the unit of length: meters and micrometers; others are unknown, or mm."""


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


def _voxels(stored: Any, shape: tuple[int, ...], index: int) -> Num[np.ndarray, "k j i"]:
    """Read a volume of nibabel's array proxy, scaled in double precision, as single precision."""
    if len(shape) > 3:
        whole = np.asarray(stored.get_unscaled()).reshape(shape, order="F")[..., index]
    else:
        whole = stored.get_unscaled().reshape(shape, order="F")
    voxels = np.ascontiguousarray(whole.T)
    if (stored.slope, stored.inter) == (1.0, 0.0):
        return refusals.single_precision(voxels)
    scaled: Float32[np.ndarray, "k j i"] = np.empty(voxels.shape, dtype=np.float32)
    with np.errstate(over="ignore"):
        # Slice by slice: nibabel would hold the whole volume in double precision.
        for target, one_slice in zip(scaled, voxels, strict=True):
            target[:] = one_slice.astype(np.float64) * stored.slope + stored.inter
    return scaled


def _place(
    header: Any, stored: Any, shape: tuple[int, ...], wanted: Orientation | None
) -> tuple[Float64[np.ndarray, "4 4"], tuple[tuple[str, str], ...]]:
    """Return the matrix by which all programs place the voxels, or that of the wanted form.

    In the header's unit of length, with the notices about it. `stored` is the header before
    nibabel's repairs. Raises `InputError` where sform, qform and pixdim disagree: nibabel takes
    the sform; ITK and Slicer may take the qform, and the voxel sizes of pixdim.
    """
    pixdim = stored["pixdim"][1:4].astype(np.float64)
    stated = _stated_forms(header, stored)
    if wanted is not None:
        if wanted not in stated:
            found = f"only a {next(iter(stated))}" if stated else "neither"
            raise InputError(
                "orientation-missing", f"The header must state a {wanted}; it states {found}."
            )
        return stated[wanted], ()
    if 0 in pixdim:
        raise refusals.spacing_error()
    if not stated:
        return _unstated_place(pixdim), (refusals.unstated_notice(),)
    first = next(iter(stated.values()))
    if len(stated) == 2:
        qform = stated[Orientation.QFORM]
        apart = grids_apart_mm(first, qform, shape[::-1])
        if not apart <= MAX_FORMS_APART_MM:
            raise _forms_error(first, qform, apart)
    sizes = np.linalg.norm(first[:3, :3], axis=0)
    if np.isfinite(first).all() and sizes.all():
        by_pixdim = first @ np.diag([*(pixdim / sizes), 1.0])
        apart = grids_apart_mm(first, by_pixdim, shape[::-1])
        # ITK refuses a sheared sform, so nothing is placed by its pixdim.
        if not (apart <= MAX_FORMS_APART_MM or (shear(first) > MAX_SHEAR and pixdim.min() > 0)):
            raise InputError(
                "affine-ambiguous",
                f"The header states two voxel sizes: {lengths_text(sizes)} in its "
                f"{next(iter(stated))}, and {lengths_text(pixdim)} as pixdim.",
            )
    return first, ()


def _unstated_place(spacing: Shaped[np.ndarray, " 3"]) -> Float64[np.ndarray, "4 4"]:
    """Return the matrix of a header without forms, as ITK and Slicer have it.

    nibabel would turn x around, and center the volume. A size below zero turns its axis around.
    """
    return np.diag([*(spacing * (-1.0, -1.0, 1.0)), 1.0])


def _stated_forms(header: Any, stored: Any) -> dict[Orientation, Float64[np.ndarray, "4 4"]]:
    """Return the forms that a header states, the sform first; NaN where one is invalid."""
    stated = {}
    if stored["sform_code"] > 0:  # nibabel repairs undefined codes to 0, ITK takes them
        stated[Orientation.SFORM] = np.array(header.get_sform(), dtype=np.float64)
    if stored["qform_code"] > 0:
        header["pixdim"][0] = -1 if stored["pixdim"][0] < 0 else 1  # nibabel repairs others to 1
        try:
            stated[Orientation.QFORM] = np.array(header.get_qform(), dtype=np.float64)
        except ValueError:  # its quaternion is no rotation
            stated[Orientation.QFORM] = np.full((4, 4), np.nan)
    return stated


def _forms_error(
    sform: Float64[np.ndarray, "4 4"], qform: Float64[np.ndarray, "4 4"], apart: float
) -> InputError:
    """Make the error of two forms that disagree."""
    if not np.isfinite(apart):
        found = "one of them is invalid"
    else:
        found = f"voxels are up to {lengths_text([apart])} mm apart"
        if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
            found += ", left and right exchanged"
    tilted = np.isfinite(sform).all() and shear(sform) > MAX_SHEAR
    return InputError(
        "affine-ambiguous",
        f"The header states two orientations, its sform and its qform; {found}.",
        **({"tilt_degrees": round(tilt_degrees(sform), 1)} if tilted else {}),
    )


def _header_class(magic: bytes) -> Any:
    """Return nibabel's class of a header with these first 348 bytes."""
    from nibabel import nifti1, nifti2

    if magic[4:7] in (b"n+2", b"ni2"):
        return nifti2.Nifti2Header if magic[4:7] == b"n+2" else nifti2.Nifti2PairHeader
    return nifti1.Nifti1Header if magic[344:347] == b"n+1" else nifti1.Nifti1PairHeader


def _voxel_file(path: Path, header: Any) -> Path:
    """Return the file that holds the voxels: the header's own, or the .img file beside it."""
    if header.is_single:
        return path
    stem = re.sub(r"\.(hdr|nii)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    for suffix in (".img", ".img.gz", ".IMG"):
        if (file := path.with_name(stem + suffix)).is_file():
            return file
    raise refusals.damaged_error("the .img file with its voxels is missing")


def _opened(path: Path) -> Any:
    """Open a file that is compressed with gzip, or not, whatever its name."""
    with path.open("rb") as stream:
        gzipped = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path) if gzipped else path.open("rb")


def _check_kind(header: Any, shape: tuple[int, ...], labels: bool) -> None:
    """Raise `InputError` unless the header is of one or several volumes of real numbers."""
    kind, intent = header.get_data_dtype(), int(header["intent_code"])
    if intent in CIFTI_INTENTS:
        raise refusals.format_error("a CIFTI matrix, which is no volume")
    refusals.check_dimensions(shape)
    if kind.fields is not None or len(shape) > 4:
        raise refusals.color_error()
    if kind.kind == "c":
        raise InputError("volume-complex", "Expected real voxels; found complex numbers.")
    if not labels and intent == NIFTI_INTENT_LABEL:
        raise refusals.label_map_error("its NIfTI intent says so")


def read_nifti(
    path: Path,
    labels: bool = False,
    volume: int | None = None,
    orientation: Orientation | None = None,
) -> Volume:
    """Read a NIfTI file, or the pair of a header; raises `InputError` as `read_volume_file`."""
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.spatialimages import HeaderDataError

    try:
        with _nibabel_silenced(), _opened(path) as stream:
            header_class = _header_class(stream.read(348))
            stream.seek(0)
            header = header_class.from_fileobj(stream)
            stream.seek(0)
            stored = header_class.from_fileobj(stream, check=False)
            shape = tuple(int(size) for size in header.get_data_shape())
            while len(shape) > 3 and shape[-1] == 1:
                shape = shape[:-1]
            _check_kind(header, shape, labels)
            if header.is_single and header.get_data_offset() < header.single_vox_offset:
                # Every program begins elsewhere: nibabel at 0, ITK at 348.
                raise refusals.damaged_error("its vox_offset does not state where voxels begin")
            place, notices = _place(header, stored, shape[:3], orientation)
            index = refusals.choose_volume((*shape, 1)[3], volume, shape[:3])
            voxel_file = _voxel_file(path, header)
            with _opened(voxel_file) as data:
                refusals.check_size(
                    math.prod(shape) * header.get_data_dtype().itemsize,
                    voxel_file.stat().st_size,
                    refusals.DEFLATE_RATIO if isinstance(data, gzip.GzipFile) else 1,
                )
                voxels = _voxels(ArrayProxy(data, header, mmap=False), shape, index)
                check_gzip(data)
    except HeaderDataError as error:
        fault = str(error).partition(";")[0]
        raise refusals.damaged_error(f"its NIfTI header is invalid ({fault})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise refusals.damaged_error("its gzip stream is truncated or damaged") from None
    except (OSError, KeyError, ValueError, OverflowError):
        raise refusals.damaged_error("it is truncated, or not a NIfTI file") from None
    unit_mm = _MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    place[:3] *= unit_mm
    return Volume(voxels, place, notices=notices, unit_mm=unit_mm)


def write_nifti_labels(
    path: Path,
    labels: Num[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    *,
    is_stated: bool = True,
    unit_mm: float = 1.0,
) -> None:
    """Write a NIfTI-1 label map; its affine is stored in single precision.

    That of a scan states what the scan does, so that every program places both alike: no
    orientation where the scan has none, and the scan's unit of length, which nibabel ignores.
    """
    image = _image(labels, ras_from_voxel, is_stated, unit_mm)
    image.header.set_intent("label", name="anomalies")
    _save(image, path)


def write_nifti(path: Path, volume: Volume) -> None:
    """Write a scan as NIfTI-1; its affine is stored in single precision."""
    _save(_image(volume.voxels, volume.ras_from_voxel), path)


def _save(image: Any, path: Path) -> None:
    import nibabel

    nibabel.save(image, path)


def _image(
    voxels: Num[np.ndarray, "k j i"],
    ras_from_voxel: Float[np.ndarray, "4 4"],
    is_stated: bool = True,
    unit_mm: float = 1.0,
) -> Any:
    """Return an image whose forms agree: a qform, which cannot be sheared, is left out then.

    ITK and Slicer place a file with a qform beside a sheared sform by the qform, without the
    shear. They refuse one without.
    """
    import nibabel

    place = ras_from_voxel.copy()
    place[:3] /= unit_mm
    spacing = np.array(voxel_spacing_mm(ras_from_voxel))
    has_forms = is_stated or not np.array_equal(ras_from_voxel, _unstated_place(spacing))
    image = nibabel.Nifti1Image(voxels.T, place if has_forms else None, dtype=voxels.dtype)
    codes = {mm: code for code, mm in _MM_PER_UNIT.items()}
    image.header.set_xyzt_units(codes.get(unit_mm, "mm"))
    image.header["pixdim"][1:4] = spacing / unit_mm
    if has_forms:
        image.set_sform(place, code="scanner")
        sheared = shear(place) > MAX_SHEAR
        image.set_qform(None if sheared else place, code="unknown" if sheared else "scanner")
    return image
