"""Odd volume files, written as other programs write them: every kind of `odd_files.CASES`.

All show one picture, `VOXELS` at `PLACE`, unless their kind forbids it.
"""

import bz2
import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from engine.odd_dicom import DICOM

PLACE = np.array([[2.5, 0, 0, -30], [0, 2.5, 0, -40], [0, 0, 2.5, -20], [0, 0, 0, 1.0]])
"""`ras_from_voxel` of what the files show."""


def _picture() -> np.ndarray:
    """A bright ellipsoid with noise, no two slices alike, [k, j, i] of 18 × 24 × 20."""
    random = np.random.RandomState(13)
    k, j, i = np.indices((18, 24, 20))
    inside = ((k - 8) / 7) ** 2 + ((j - 12) / 9) ** 2 + ((i - 9) / 7) ** 2 < 1
    return (inside * (400 + 10 * k + 5 * i) + random.randint(0, 60, inside.shape)).astype(np.int16)


VOXELS = _picture()

# NIfTI


def nifti(
    path: Path,
    voxels: np.ndarray = VOXELS,
    *,
    sform: np.ndarray | None = PLACE,
    s_code: int = 1,
    qform: np.ndarray | None = PLACE,
    q_code: int = 1,
    unit: str | int = "mm",
    scale: tuple[float, float] | None = None,
    header: tuple[tuple[int, str, tuple[float, ...]], ...] = (),
) -> Path:
    """A NIfTI-1 file of an array [..., k, j, i]; `header` replaces bytes at offsets."""
    image = nib.Nifti1Image(voxels.T, sform if sform is not None else qform, dtype=voxels.dtype)
    image.set_qform(qform, q_code)
    image.set_sform(sform, s_code)
    image.header.set_xyzt_units(unit)
    plain = bytearray(image.to_bytes())
    if scale is not None:
        struct.pack_into("<2f", plain, 112, *scale)
    for offset, layout, values in header:
        struct.pack_into(layout, plain, offset, *values)
    data = bytes(plain)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def _scaled(factor: float, place: np.ndarray = PLACE) -> np.ndarray:
    return np.diag([factor, factor, factor, 1.0]) @ place


def _shifted() -> np.ndarray:
    moved = PLACE.copy()
    moved[:3, 3] += (7, -5, 12)
    return moved


def _sheared() -> np.ndarray:
    return PLACE @ np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def _permuted() -> np.ndarray:
    """The first axis of the file runs as the third of `PLACE`."""
    return PLACE[:, [2, 0, 1, 3]]


def _not_finite() -> np.ndarray:
    voxels = VOXELS.astype(np.float32)
    voxels[:, :3] = np.nan
    voxels[9, 12, 9] = np.inf
    return voxels


def _labels() -> np.ndarray:
    return np.where(VOXELS > 550, 3, VOXELS > 300).astype(np.uint8)


def _pair(path: Path) -> None:
    """A header and the file of its voxels, as SPM writes them."""
    image = nib.Nifti1Pair(VOXELS.T, PLACE, dtype=VOXELS.dtype)
    image.set_qform(PLACE, 1)
    image.set_sform(PLACE, 1)
    nib.save(image, path)


def _truncated(path: Path) -> None:
    data = nifti(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _other_checksum(path: Path) -> None:
    """Compressed voxels that were damaged, so that they unpack to other ones."""
    data = nifti(path).read_bytes()
    path.write_bytes(data[:-8] + bytes(4) + data[-4:])


def _packed_pair(path: Path) -> None:
    _pair(path.with_name("pair.hdr"))
    for name, file in (("pair.hdr", path.with_name("packed.hdr.gz")), ("pair.img", path)):
        file.write_bytes(gzip.compress(path.with_name(name).read_bytes()))


def _renamed(path: Path, written_as: str, maker: Callable[[Path], object]) -> None:
    """A file of another name than its format has."""
    other = path.with_name(written_as)
    maker(other)
    other.rename(path)


def _scaled_first_axis() -> np.ndarray:
    return PLACE @ np.diag([1.2, 1, 1, 1])


NIFTI: dict[str, Callable[[Path], object]] = {
    "reference.nii.gz": nifti,
    "qform_says_flipped.nii.gz": lambda path: nifti(
        path, s_code=2, qform=np.diag([-1, 1, 1, 1]) @ PLACE
    ),
    "qform_says_shifted.nii.gz": lambda path: nifti(path, sform=_shifted(), s_code=4),
    "sform_only.nii.gz": lambda path: nifti(path, q_code=0, qform=None, s_code=2),
    "qform_only.nii.gz": lambda path: nifti(path, s_code=0, sform=None),
    "no_forms.nii.gz": lambda path: nifti(path, s_code=0, q_code=0),
    "micrometres.nii.gz": lambda path: nifti(
        path, sform=_scaled(1e3), qform=_scaled(1e3), unit="micron"
    ),
    "metres.nii.gz": lambda path: nifti(
        path, sform=_scaled(1e-3), qform=_scaled(1e-3), unit="meter"
    ),
    "slope_below_zero.nii.gz": lambda path: nifti(
        path, (600 - 2 * VOXELS).astype(np.int16), scale=(-0.5, 300)
    ),
    "slope_nan.nii.gz": lambda path: nifti(path, scale=(np.nan, 0)),
    "slope_zero.nii.gz": lambda path: nifti(path, scale=(0, 0)),
    "nan_and_inf.nii.gz": lambda path: nifti(path, _not_finite()),
    "sheared_sform.nii.gz": lambda path: nifti(path, sform=_sheared(), q_code=0, qform=None),
    "axes_permuted.nii.gz": lambda path: nifti(
        path, np.ascontiguousarray(VOXELS.transpose(1, 2, 0)), sform=_permuted(), qform=_permuted()
    ),
    "4d_one_volume.nii.gz": lambda path: nifti(path, VOXELS[None]),
    "4d_three_volumes.nii.gz": lambda path: nifti(path, np.stack([VOXELS + t for t in range(3)])),
    "5d_vector.nii.gz": lambda path: nifti(path, np.stack([VOXELS[None], VOXELS[None]])),
    "one_slice.nii.gz": lambda path: nifti(path, VOXELS[8:9]),
    "constant.nii.gz": lambda path: nifti(path, np.full_like(VOXELS, 100)),
    "uint64.nii.gz": lambda path: nifti(path, VOXELS.astype(np.uint64)),
    "label_map.nii.gz": lambda path: nifti(path, _labels()),
    "truncated.nii.gz": _truncated,
    "not_gzipped.nii.gz": lambda path: path.write_bytes(
        nifti(path.with_name("plain.nii")).read_bytes()
    ),
    "gzipped.nii": lambda path: _renamed(path, "x.nii.gz", nifti),
    "nrrd.nii": lambda path: _renamed(path, "x.nrrd", NRRD["lps.nrrd"]),
    "pair.hdr": _pair,
    "sform_of_other_scale.nii.gz": lambda path: nifti(
        path, sform=_scaled_first_axis(), q_code=0, header=((80, "<f", (2.5,)),)
    ),
    "negative_pixdim.nii.gz": lambda path: nifti(path, q_code=0, header=((80, "<f", (-2.5,)),)),
    "no_forms_negative_pixdim.nii.gz": lambda path: nifti(
        path, s_code=0, q_code=0, header=((80, "<f", (-2.5,)),)
    ),
    "voxels_within_header.nii.gz": lambda path: nifti(path, header=((108, "<f", (0,)),)),
    "other_checksum.nii.gz": _other_checksum,
    "packed.img.gz": _packed_pair,
    "undefined_unit.nii.gz": lambda path: nifti(path, header=((123, "<B", (5,)),)),
    "unknown_unit.nii.gz": lambda path: nifti(path, unit=0),
    "tilted_beside_a_qform.nii.gz": lambda path: nifti(path, sform=_sheared()),
    "zero_sform.nii.gz": lambda path: nifti(path, header=((280, "<12f", (0.0,) * 12),)),
    "color.nii.gz": lambda path: nib.save(
        nib.Nifti1Image(np.zeros((5, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), PLACE), path
    ),
    "web_page.nii.gz": lambda path: path.write_text(
        "\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n" * 20
    ),
    "git_annex.nii.gz": lambda path: path.write_text("/annex/objects/SHA256E-s1--ab.nii.gz\n"),
    "lfs_pointer.nii.gz": lambda path: path.write_text(
        "version https://git-lfs.github.com/spec/v1\n"
        "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
    ),
}

# NRRD

_KINDS = {"<i2": "int16", ">i2": "int16", "<u1": "uint8", "|u1": "uint8", "<f4": "float"}


def nrrd(path: Path, voxels: np.ndarray, *fields: str, encoding: str = "gzip") -> Path:
    """A NRRD file of an array [..., j, i] with these lines in its header."""
    data = voxels.tobytes()
    lines = [
        "NRRD0005",
        f"type: {_KINDS[voxels.dtype.str]}",
        f"dimension: {voxels.ndim}",
        f"sizes: {' '.join(map(str, voxels.shape[::-1]))}",
        f"endian: {'big' if voxels.dtype.str[0] == '>' else 'little'}",
        f"encoding: {encoding}",
        *fields,
    ]
    pack = {"gzip": lambda raw: gzip.compress(raw, mtime=0), "bzip2": bz2.compress}
    packed = pack.get(encoding, bytes)(data)
    path.write_bytes("\n".join([*lines, "", ""]).encode() + packed)
    return path


def directions(place: np.ndarray, *before: str) -> tuple[str, str]:
    """The header lines of a matrix, after the directions of earlier axes."""
    vectors = [f"({','.join(map(repr, map(float, column)))})" for column in place[:3].T]
    return (
        f"space directions: {' '.join([*before, *vectors[:3]])}",
        f"space origin: {vectors[3]}",
    )


LPS = np.diag([-1.0, -1, 1, 1]) @ PLACE
LAS = np.diag([-1.0, 1, 1, 1]) @ PLACE
_LPS = "space: left-posterior-superior"
_IN_LPS = (_LPS, *directions(LPS))
_SERIES = (_LPS, directions(LPS)[0] + " none", directions(LPS)[1])
TWO = np.stack([VOXELS, VOXELS + 1])
"""Two volumes, one after the other."""

NRRD: dict[str, Callable[[Path], object]] = {
    "lps.nrrd": lambda path: nrrd(path, VOXELS, *_IN_LPS),
    "ras.nrrd": lambda path: nrrd(
        path, VOXELS, "space: right-anterior-superior", *directions(PLACE)
    ),
    "las.nrrd": lambda path: nrrd(path, VOXELS, "space: left-anterior-superior", *directions(LAS)),
    "spacings_only.nrrd": lambda path: nrrd(path, VOXELS, "spacings: 2.5 2.5 2.5"),
    "space_dimension_only.nrrd": lambda path: nrrd(
        path, VOXELS, "space dimension: 3", *directions(PLACE)
    ),
    "list_axis_first.nrrd": lambda path: nrrd(
        path,
        np.stack([VOXELS, VOXELS + 1], axis=-1),
        "space: left-posterior-superior",
        *directions(LPS, "none"),
        "kinds: list domain domain domain",
    ),
    "list_axis_last.nrrd": lambda path: nrrd(
        path, TWO, *_SERIES, "kinds: domain domain domain list"
    ),
    "time_axis_last.nrrd": lambda path: nrrd(
        path, TWO, *_SERIES, "kinds: domain domain domain time"
    ),
    "nan_for_the_list.nrrd": lambda path: nrrd(
        path, TWO, "spacings: 2.5 2.5 2.5 NaN", "kinds: domain domain domain list"
    ),
    "zero_for_the_time.nrrd": lambda path: nrrd(
        path, TWO, _LPS, directions(LPS)[0] + " (0,0,0)", directions(LPS)[1]
    ),
    "one_time_point.nrrd": lambda path: nrrd(
        path, VOXELS[None], *_SERIES, "kinds: domain domain domain time"
    ),
    "sequence.seq.nrrd": lambda path: nrrd(
        path,
        np.stack([VOXELS, VOXELS + 1], axis=-1),
        _LPS,
        *directions(LPS, "none"),
        "kinds: list domain domain domain",
        "DataNodeClassName:=vtkMRMLScalarVolumeNode",
        "axis 0 index type:=numeric",
    ),
    "vectors.nrrd": lambda path: nrrd(
        path,
        np.stack([VOXELS] * 3, axis=-1),
        _LPS,
        *directions(LPS, "none"),
        "kinds: vector domain domain domain",
    ),
    "kinds_none.nrrd": lambda path: nrrd(path, VOXELS, *_IN_LPS, "kinds: none none none"),
    "micrometers.nrrd": lambda path: nrrd(
        path, VOXELS, _LPS, *directions(_scaled(1e3, LPS)), 'space units: "um" "um" "um"'
    ),
    "scanner_space.nrrd": lambda path: nrrd(path, VOXELS, "space: scanner-xyz", *directions(LPS)),
    "bzip2.nrrd": lambda path: nrrd(path, VOXELS, *_IN_LPS, encoding="bzip2"),
    "segmentation.seg.nrrd": lambda path: nrrd(
        path, _labels(), *_IN_LPS, "Segment0_ID:=Segment_1", "Segment0_LabelValue:=1"
    ),
    "nan_direction.nrrd": lambda path: nrrd(
        path, VOXELS, _LPS, "space directions: (nan,nan,nan) (0,-2.5,0) (0,0,2.5)"
    ),
    "packed.nrrd.gz": lambda path: path.write_bytes(
        gzip.compress(nrrd(path.with_name("x.nrrd"), VOXELS, *_IN_LPS).read_bytes())
    ),
    "big_endian_raw.nrrd": lambda path: nrrd(path, VOXELS.astype(">i2"), *_IN_LPS, encoding="raw"),
}

# MetaImage


def _meta(path: Path, **options: bool) -> Path:
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing([2.5, 2.5, 2.5])
    image.SetDirection([-1, 0, 0, 0, -1, 0, 0, 0, 1])
    image.SetOrigin(LPS[:3, 3].tolist())
    sitk.WriteImage(image, str(path), **options)
    return path


def _meta_text(
    path: Path, voxels: np.ndarray, *fields: str, pack: Callable[[bytes], bytes] = bytes
) -> None:
    """A MetaImage file of an array [..., j, i] with these lines in its header."""
    sizes = " ".join(map(str, voxels.shape[::-1]))
    lines = [
        "ObjectType = Image",
        f"NDims = {voxels.ndim}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        f"CompressedData = {pack is not bytes}",
        *fields,
        f"DimSize = {sizes}",
        "ElementType = MET_SHORT",
        "ElementDataFile = LOCAL",
    ]
    path.write_bytes("\n".join([*lines, ""]).encode() + pack(voxels.tobytes()))


_META_4D = (
    "TransformMatrix = -1 0 0 0 0 -1 0 0 0 0 1 0 0 0 0 1",
    "Offset = 30 40 -20 0",
    "ElementSpacing = 2.5 2.5 2.5 1",
)

META: dict[str, Callable[[Path], object]] = {
    "compressed.mha": lambda path: _meta(path, useCompression=True),
    "detached.mhd": _meta,
    "compressed_size_missing.mha": lambda path: _meta_text(path, VOXELS, pack=zlib.compress),
    "compressed_size_too_small.mha": lambda path: _meta_text(
        path, VOXELS, "CompressedDataSize = 50", pack=zlib.compress
    ),
    "compressed_too_few.mha": lambda path: _meta_text(
        path, VOXELS, "CompressedDataSize = 9999", pack=lambda data: zlib.compress(data[:1000])
    ),
    "4d_one_volume.mha": lambda path: _meta_text(path, VOXELS[None], *_META_4D),
    "4d_two_volumes.mha": lambda path: _meta_text(path, TWO, *_META_4D),
    "no_orientation.mha": lambda path: _meta_text(path, VOXELS, "ElementSpacing = 2.5 2.5 2.5"),
    "micrometers.mha": lambda path: _meta_text(
        path,
        VOXELS,
        "TransformMatrix = -1 0 0 0 -1 0 0 0 1",
        "Offset = 30000 40000 -20000",
        "ElementSpacing = 2500 2500 2500",
        "DistanceUnits = um",
    ),
}

OTHERS: dict[str, Callable[[Path], object]] = {
    "scans.zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(40)),
    "picture.png": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)),
    "voxels.raw": lambda path: path.write_bytes(VOXELS.tobytes()),
}

MAKERS = NIFTI | NRRD | META | OTHERS | DICOM
"""Writes the file of a name, for every name."""


def make(name: str, folder: Path) -> Path:
    """Write a file of `MAKERS` into a folder; return its path."""
    path = folder / name
    MAKERS[name](path)
    return path
