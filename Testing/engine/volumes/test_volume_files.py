"""Volume files: voxels keep their values and positions; other files are refused with a reason."""

import gzip
import os
import re
import struct
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from engine.grids import Grid, random_grid
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.specs import Plane
from SpatialARAnomalyLib.engine.volumes.files import (
    VOLUME_SUFFIXES,
    has_volume_suffix,
    read_volume_file,
    volume_name,
    write_nifti,
    write_nifti_labels,
    write_nrrd,
)
from SpatialARAnomalyLib.engine.volumes.geometry import LPS_FROM_RAS
from SpatialARAnomalyLib.engine.volumes.itk import native_stderr_silenced
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan

DTYPES = ["i1", "u1", "i2", "u2", "i4", "f4", "f8"]
SHEAR = np.array([[1, 0.2, -0.1, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def grid(seed: int, *, sheared: bool = False, slices: int = 4) -> Grid:
    """Oblique, anisotropic, non-square, of either handedness."""
    drawn = random_grid(seed, plane=Plane.AXIAL, slices=slices, largest_mm=70.0)
    return Grid(drawn.shape_kji, drawn.ras_from_voxel @ SHEAR if sheared else drawn.ras_from_voxel)


def random_voxels(shape_kji: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Values over the whole range of the type."""
    random = np.random.RandomState(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return random.normal(0, 1e4, shape_kji).astype(kind)
    limits = np.iinfo(kind)
    return random.randint(limits.min, limits.max, shape_kji, dtype=np.int64).astype(kind)


def itk_image(voxels: np.ndarray, ras_from_voxel: np.ndarray) -> sitk.Image:
    """ITK places voxels in LPS: direction cosines times spacing."""
    lps_from_voxel = LPS_FROM_RAS @ ras_from_voxel
    spacing = np.linalg.norm(lps_from_voxel[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps_from_voxel[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps_from_voxel[:3, 3].tolist())
    return image


def write_itk(path: Path, voxels: np.ndarray, ras_from_voxel: np.ndarray, **options) -> Path:
    sitk.WriteImage(itk_image(voxels, ras_from_voxel), str(path), **options)
    return path


def write_sform(path: Path, voxels: np.ndarray, ras_from_voxel: np.ndarray) -> Path:
    kind = nib.Nifti1Pair if path.suffix.lower() == ".hdr" else nib.Nifti1Image
    image = kind(voxels.T, ras_from_voxel, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(ras_from_voxel, code="scanner")
    image.set_qform(None, code=0)
    nib.save(image, path)
    return path


def edited(path: Path, offset: int, layout: str, *values: float) -> Path:
    """The NIfTI file with some of its header replaced."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as stream:
        data = bytearray(stream.read())
    struct.pack_into(layout, data, offset, *values)
    with opened(path, "wb") as stream:
        stream.write(data)
    return path


def header_edited(path: Path, pattern: str, replacement: str) -> Path:
    """The NRRD or MetaImage file with a line of its header replaced."""
    data, count = re.subn(pattern.encode(), replacement.encode(), path.read_bytes(), count=1)
    assert count == 1
    path.write_bytes(data)
    return path


def refused(path: Path, capfd: pytest.CaptureFixture[str]) -> InputError:
    """The error of a bad file, which names no folder; nothing is printed."""
    capfd.readouterr()
    with pytest.raises(InputError) as caught:
        check_scan(read_volume_file(path))
    assert capfd.readouterr() == ("", "")
    assert caught.value.message.endswith(".")
    assert str(path.parent) not in str(caught.value)
    return caught.value


def same(volume: Volume, voxels: np.ndarray, ras_from_voxel: np.ndarray, atol: float = 1e-9):
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.ras_from_voxel, ras_from_voxel, rtol=0, atol=atol)


# Positions


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
@pytest.mark.parametrize("sheared", [False, True], ids=["rigid", "sheared"])
@pytest.mark.parametrize("seed", range(5))
def test_voxels_keep_their_positions(tmp_path, suffix, sheared, seed):
    placed = grid(seed, sheared=sheared)
    voxels = random_voxels(placed.shape_kji, "i2", seed)
    write = write_sform if suffix.startswith((".nii", ".hdr")) else write_itk
    volume = read_volume_file(write(tmp_path / f"scan{suffix}", voxels, placed.ras_from_voxel))
    np.testing.assert_array_equal(volume.voxels, voxels)
    # NIfTI-1 keeps its affine in single precision.
    atol = 2e-4 if suffix.startswith((".nii", ".hdr")) else 1e-9
    found = Grid(placed.shape_kji, volume.ras_from_voxel)
    np.testing.assert_allclose(found.ras(), placed.ras(), rtol=0, atol=atol)
    assert volume.modality is None


def test_the_grids_have_both_handednesses():
    hands = {np.sign(np.linalg.det(grid(seed).ras_from_voxel)) for seed in range(5)}
    assert hands == {-1.0, 1.0}


@pytest.mark.parametrize("seed", range(4))
def test_nifti_with_a_qform_only(tmp_path, seed):
    placed = grid(seed)
    voxels = random_voxels(placed.shape_kji, "i2")
    image = nib.Nifti1Image(voxels.T, None)
    image.set_qform(placed.ras_from_voxel, code="scanner")
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "scan.nii")
    same(read_volume_file(tmp_path / "scan.nii"), voxels, placed.ras_from_voxel, atol=2e-4)


@pytest.mark.parametrize(
    ("unit", "mm"), [("meter", 1000.0), ("micron", 0.001), ("mm", 1.0), (0, 1)]
)
def test_nifti_in_other_units(tmp_path, unit, mm):
    placed = grid(1)
    voxels = random_voxels(placed.shape_kji, "i2")
    in_unit = placed.ras_from_voxel.copy()
    in_unit[:3] /= mm
    image = nib.Nifti1Image(voxels.T, in_unit)
    image.header.set_xyzt_units(unit)
    nib.save(image, tmp_path / "scan.nii")
    same(read_volume_file(tmp_path / "scan.nii"), voxels, placed.ras_from_voxel, atol=2e-4)


def test_nifti_2(tmp_path):
    placed = grid(2)
    voxels = random_voxels(placed.shape_kji, "i2")
    nib.save(nib.Nifti2Image(voxels.T, placed.ras_from_voxel), tmp_path / "scan.nii.gz")
    same(read_volume_file(tmp_path / "scan.nii.gz"), voxels, placed.ras_from_voxel)


def nrrd(path: Path, voxels: np.ndarray, *fields: str, data: str | None = None) -> Path:
    """A NRRD written by hand, its voxels in `data` if given."""
    sizes = " ".join(map(str, voxels.shape[::-1]))
    kind = {"i2": "short", "f4": "float"}[voxels.dtype.str[1:]]
    endian = "big" if voxels.dtype.byteorder == ">" else "little"
    lines = ["NRRD0004", f"type: {kind}", f"dimension: {voxels.ndim}", f"sizes: {sizes}"]
    lines += [*fields, f"endian: {endian}", "encoding: raw"]
    if data is None:
        path.write_bytes("\n".join([*lines, "", ""]).encode() + voxels.tobytes())
    else:
        path.write_text("\n".join([*lines, f"data file: {data}", ""]))
        (path.parent / data).write_bytes(voxels.tobytes())
    return path


def directions(matrix: np.ndarray) -> tuple[str, str]:
    vectors = [f"({','.join(map(repr, map(float, column)))})" for column in matrix[:3].T]
    return f"space directions: {' '.join(vectors[:3])}", f"space origin: {vectors[3]}"


@pytest.mark.parametrize("data", [None, "voxels of it.raw"], ids=["attached", "detached"])
@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_nrrd_in_every_space(tmp_path, space, signs, data):
    placed = grid(3, sheared=True)
    voxels = random_voxels(placed.shape_kji, "i2")
    in_space = np.diag([*signs, 1.0]) @ placed.ras_from_voxel
    path = tmp_path / ("scan.nrrd" if data is None else "scan.nhdr")
    nrrd(path, voxels, f"space: {space}", *directions(in_space), data=data)
    same(read_volume_file(path), voxels, placed.ras_from_voxel)


def test_detached_header_without_a_last_line_break(tmp_path):
    voxels = random_voxels((30, 40, 50), "i2")
    path = write_itk(tmp_path / "scan.mhd", voxels, np.eye(4))
    path.write_bytes(path.read_bytes().rstrip())
    np.testing.assert_array_equal(read_volume_file(path).voxels, voxels)


def test_detached_voxels_may_be_named_as_in_this_folder(tmp_path):
    voxels = random_voxels((3, 4, 5), "i2")
    path = nrrd(tmp_path / "scan.nhdr", voxels, "spacings: 1 1 1", data="./100 percent.raw")
    np.testing.assert_array_equal(read_volume_file(path).voxels, voxels)


def test_nrrd_without_a_space_is_taken_as_itk_does(tmp_path):
    voxels = random_voxels((4, 5, 6), "f4")
    volume = read_volume_file(nrrd(tmp_path / "scan.nrrd", voxels, "spacings: 1.5 2.5 3.5"))
    same(volume, voxels, np.diag([-1.5, -2.5, 3.5, 1.0]))


# Values


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_values_of_every_type(tmp_path, suffix, dtype):
    placed = grid(0)
    voxels = random_voxels(placed.shape_kji, dtype)
    write = write_sform if suffix.startswith((".nii", ".hdr")) else write_itk
    volume = read_volume_file(write(tmp_path / f"scan{suffix}", voxels, placed.ras_from_voxel))
    kept = np.float32 if dtype == "f8" else np.dtype(dtype)
    assert volume.voxels.dtype == kept
    np.testing.assert_array_equal(volume.voxels, voxels.astype(kept))


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "f4", "f8"])
def test_big_endian_nifti(tmp_path, dtype):
    placed = grid(0)
    voxels = random_voxels(placed.shape_kji, dtype)
    image = nib.Nifti1Image(voxels.T, placed.ras_from_voxel, nib.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(np.dtype(dtype).newbyteorder(">"))
    nib.save(image, tmp_path / "scan.nii")
    assert (tmp_path / "scan.nii").read_bytes()[:4] == struct.pack(">i", 348)
    volume = read_volume_file(tmp_path / "scan.nii")
    assert volume.voxels.dtype.isnative
    same(volume, voxels.astype("f4" if dtype == "f8" else dtype), placed.ras_from_voxel, atol=2e-4)


@pytest.mark.parametrize("dtype", ["i2", "f4"])
def test_big_endian_nrrd_and_metaimage(tmp_path, dtype):
    voxels = random_voxels((4, 5, 6), dtype).astype(f">{dtype}")
    volume = read_volume_file(nrrd(tmp_path / "scan.nrrd", voxels, "spacings: 1 2 3"))
    np.testing.assert_array_equal(volume.voxels, voxels)
    path = write_itk(tmp_path / "scan.mha", voxels.astype(dtype), np.eye(4))
    path.write_bytes(
        path.read_bytes()[: -voxels.nbytes].replace(b"MSB = False", b"MSB = True")
        + voxels.tobytes()
    )
    np.testing.assert_array_equal(read_volume_file(path).voxels, voxels)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
@pytest.mark.parametrize(("slope", "intercept"), [(2.0, -1024.0), (0.0125, 3.7), (-1.5, 0.0)])
def test_nifti_slope_and_intercept(tmp_path, dtype, slope, intercept):
    stored = random_voxels((3, 4, 5), dtype)
    path = write_sform(tmp_path / "scan.nii", stored, np.eye(4))
    edited(path, 112, "<2f", slope, intercept)
    exact = stored.astype(np.float64) * np.float32(slope) + np.float64(np.float32(intercept))
    np.testing.assert_array_equal(read_volume_file(path).voxels, exact.astype(np.float32))


def test_scaled_nifti_is_never_held_in_double_precision(tmp_path):
    stored = random_voxels((40, 64, 64), "i2")
    path = edited(write_sform(tmp_path / "scan.nii", stored, np.eye(4)), 112, "<2f", 0.5, 3.0)
    read_volume_file(path)  # modules are loaded
    tracemalloc.start()
    volume = read_volume_file(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.voxels, stored * np.float32(0.5) + np.float32(3))
    assert volume.voxels.dtype == np.float32
    assert 6 * stored.size < peak < 8 * stored.size


def test_nifti_without_a_slope_is_taken_as_stored(tmp_path):
    stored = random_voxels((3, 4, 5), "i2")
    path = edited(write_sform(tmp_path / "scan.nii", stored, np.eye(4)), 112, "<2f", 0.0, 5.0)
    volume = read_volume_file(path)
    assert volume.voxels.dtype == np.int16
    np.testing.assert_array_equal(volume.voxels, stored)


def test_values_beyond_single_precision_are_not_finite(tmp_path):
    voxels = random_voxels((3, 4, 5), "f8")
    voxels[0, 0, 0] = 1e300
    volume = check_scan(read_volume_file(write_sform(tmp_path / "scan.nii", voxels, np.eye(4))))
    ((code, text),) = volume.notices
    assert (code, "1 of 60 voxels are NaN or infinite" in text) == ("voxels-not-finite", True)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_single_slice(tmp_path, suffix):
    placed = grid(1)
    voxels = random_voxels((1, *placed.shape_kji[1:]), "i2")
    write = write_sform if suffix.startswith((".nii", ".hdr")) else write_itk
    volume = read_volume_file(write(tmp_path / f"scan{suffix}", voxels, placed.ras_from_voxel))
    same(volume, voxels, placed.ras_from_voxel, atol=2e-4)


def test_nifti_with_one_time_point(tmp_path):
    voxels = random_voxels((3, 4, 5), "i2")
    nib.save(nib.Nifti1Image(voxels.T[..., None], np.eye(4)), tmp_path / "scan.nii")
    np.testing.assert_array_equal(read_volume_file(tmp_path / "scan.nii").voxels, voxels)


def test_voxels_outlive_their_file(tmp_path):
    voxels = random_voxels((3, 4, 5), "i2")
    path = write_sform(tmp_path / "scan.nii", voxels, np.eye(4))
    volume = read_volume_file(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    np.testing.assert_array_equal(volume.voxels, voxels)


# Writers


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "f4", "f8"])
@pytest.mark.parametrize("seed", range(3))
def test_written_nrrd_is_read_back(tmp_path, seed, dtype):
    placed = grid(seed, sheared=True)
    voxels = random_voxels(placed.shape_kji, dtype)
    write_nrrd(tmp_path / "map.nrrd", voxels, placed.ras_from_voxel)
    volume = read_volume_file(tmp_path / "map.nrrd")
    same(volume, voxels.astype("f4" if dtype == "f8" else dtype), placed.ras_from_voxel)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i8", "f4"])
@pytest.mark.parametrize("seed", range(3))
def test_written_nifti_is_read_back(tmp_path, seed, dtype):
    placed = grid(seed, sheared=True)
    volume = Volume(random_voxels(placed.shape_kji, dtype), placed.ras_from_voxel)
    write_nifti(tmp_path / "scan.nii.gz", volume)
    back = read_volume_file(tmp_path / "scan.nii.gz")
    assert back.voxels.dtype == dtype
    same(back, volume.voxels, np.float32(placed.ras_from_voxel), atol=0)


def test_a_changed_byte_in_gzip_changes_no_voxel_unseen(tmp_path):
    """Its checksum is compared; what follows the stream is no part of it."""
    path, changed = scan_nifti(tmp_path, "scan.nii.gz"), tmp_path / "changed.nii.gz"
    expected, data = read_volume_file(path).voxels, path.read_bytes()
    changed.write_bytes(data + b"and more")
    np.testing.assert_array_equal(read_volume_file(changed).voxels, expected)
    refused_times = 0
    for at in range(10, len(data)):
        changed.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            voxels = read_volume_file(changed).voxels
        except InputError:
            refused_times += 1
        else:
            np.testing.assert_array_equal(voxels, expected)
    assert refused_times > 0.9 * (len(data) - 10)


@pytest.mark.parametrize("dtype", ["u1", "i4", "i8"])
def test_written_labels_say_that_they_are_labels(tmp_path, capfd, dtype):
    placed = grid(4)
    labels = np.zeros(placed.shape_kji, dtype)
    labels[1, 2:5, 3:6] = 7
    write_nifti_labels(tmp_path / "labels.nii.gz", labels, placed.ras_from_voxel)
    image = nib.load(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, labels)
    for affine in (image.get_sform(), image.get_qform()):
        np.testing.assert_allclose(affine, placed.ras_from_voxel, rtol=0, atol=2e-4)
    error = refused(tmp_path / "labels.nii.gz", capfd)
    assert error.code == "label-map"
    assert "its NIfTI intent says so" in error.message


# Names


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("scan.nii.gz", "scan"),
        ("Scan 1.v2.NII.GZ", "Scan 1.v2"),
        ("a.seg.nrrd", "a"),
        ("a.nrrd", "a"),
        ("a.b.mha", "a.b"),
        ("a.nii.nii", "a.nii"),
        ("notes.txt", "notes.txt"),
    ],
)
def test_volume_name(file_name, name):
    assert volume_name(Path("folder.nii") / file_name) == name
    assert has_volume_suffix(Path(file_name)) is (file_name != "notes.txt")


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_suffix_in_upper_case_and_name_of_any_letters(tmp_path, suffix):
    folder = tmp_path / "Prüfung 脳 (1)"
    folder.mkdir()
    voxels = random_voxels((3, 4, 5), "i2")
    write = write_sform if suffix.startswith((".nii", ".hdr")) else write_itk
    lower = write(folder / f"å b{suffix}", voxels, np.eye(4))
    for part in folder.glob("å b.img"):
        part.rename(folder / "Å B.IMG")
    upper = lower.rename(folder / f"Å B{suffix.upper()}")
    np.testing.assert_array_equal(read_volume_file(upper).voxels, voxels)


def test_link_is_followed(tmp_path):
    voxels = random_voxels((3, 4, 5), "i2")
    path = write_sform(tmp_path / "scan.nii", voxels, np.eye(4))
    (tmp_path / "link.nii").symlink_to(path)
    np.testing.assert_array_equal(read_volume_file(tmp_path / "link.nii").voxels, voxels)


@pytest.mark.skipif(os.name == "nt", reason="file names are Unicode on Windows")
def test_name_that_is_not_unicode(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.nrrd"))
    nifti = scan_nifti(tmp_path, path.with_suffix(".nii").name)
    path.write_bytes(b"NRRD0004\n")
    for one in (path, nifti):
        with pytest.raises(InputError, match="must be Unicode; it holds other bytes") as caught:
            read_volume_file(one)
        assert caught.value.code == "input-name"
    with pytest.raises(InputError, match="must be Unicode"):
        write_nrrd(path, np.zeros((2, 2, 2), np.int16), np.eye(4))


# Invalid input: a function that writes it, the error's code, words of its message


def scan_nifti(folder: Path, name: str = "scan.nii") -> Path:
    return write_sform(folder / name, random_voxels((3, 4, 5), "i2"), np.eye(4))


def scan_itk(folder: Path, suffix: str, **options) -> Path:
    voxels = random_voxels((3, 4, 5), "i2")
    return write_itk(folder / f"scan.{suffix}", voxels, np.eye(4), **options)


def cut(path: Path, keep: int) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def made_folder(path: Path) -> Path:
    path.mkdir()
    return path


def saved(path: Path, ijk: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(ijk, np.eye(4)), path)
    return path


def itk_saved(path: Path, image: sitk.Image) -> Path:
    sitk.WriteImage(image, str(path))
    return path


def segmentation(path: Path) -> Path:
    image = sitk.GetImageFromArray(random_voxels((3, 4, 5, 2), "u1"), isVector=True)
    image.SetMetaData("Segment0_ID", "Segment_1")
    return itk_saved(path, image)


def quaternion_scan(folder: Path) -> Path:
    path = folder / "scan.nii"
    image = nib.Nifti1Image(random_voxels((3, 4, 5), "i2").T, None)
    image.set_qform(np.eye(4), code="scanner")
    nib.save(image, path)
    return path


PATTERN_OF = {
    "nrrd": {"spacing": r"space directions: [^\n]*", "origin": r"space origin: [^\n]*"},
    "mha": {"spacing": r"ElementSpacing = [^\n]*", "origin": r"Offset = [^\n]*"},
}

NIFTI_FAULTS = {
    "missing": (lambda f: f / "no.nii", "input-missing", "does not exist"),
    "below a file": (lambda f: scan_nifti(f) / "no.nii", "input-missing", "does not exist"),
    "dangling link": (
        lambda f: (f / "l.nii").symlink_to(f / "no.nii") or f / "l.nii",
        "input-missing",
        "does not exist",
    ),
    "folder": (lambda f: made_folder(f / "x.nii.gz"), "input-format", "found a folder"),
    "DICOM file": (lambda f: written(f / "1.dcm", b"x"), "input-format", "another kind (.dcm)"),
    "no suffix": (lambda f: written(f / "IM1", b"x"), "input-format", "(without a suffix)"),
    "empty file": (lambda f: written(f / "x.nii", b""), "input-damaged", "it is empty"),
    "text": (lambda f: written(f / "x.nii", b"hello " * 99), "input-damaged", "no NIfTI"),
    "half a header": (lambda f: cut(scan_nifti(f), 100), "input-damaged", "truncated"),
    "header only": (lambda f: cut(scan_nifti(f), 352), "input-damaged", "truncated"),
    "truncated": (lambda f: cut(scan_nifti(f), 400), "input-damaged", "truncated"),
    "truncated gz": (
        lambda f: cut(scan_nifti(f, "x.nii.gz"), 180),
        "input-damaged",
        "truncated",
    ),
    "gz without its end": (
        lambda f: cut(scan_nifti(f, "x.nii.gz"), -6),
        "input-damaged",
        "truncated",
    ),
    "unknown type": (lambda f: edited(scan_nifti(f), 70, "<h", 999), "input-damaged", "code 999"),
    "NaN intercept": (
        lambda f: edited(scan_nifti(f), 112, "<2f", 2, np.nan),
        "input-damaged",
        "NIfTI",
    ),
    "no dimensions": (lambda f: edited(scan_nifti(f), 40, "<h", 0), "volume-empty", "size is 0"),
    "negative size": (
        lambda f: edited(scan_nifti(f), 42, "<h", -5),
        "volume-empty",
        "its size is -5 × 4 × 3",
    ),
    "2-D": (
        lambda f: saved(f / "x.nii", random_voxels((9, 8), "i2")),
        "volume-2d",
        "found a 2-D image (9 × 8)",
    ),
    "4-D": (
        lambda f: saved(f / "x.nii", random_voxels((5, 4, 3, 2), "i2")),
        "volume-4d",
        "found 2 volumes of 5 × 4 × 3 voxels",
    ),
    "vectors": (
        lambda f: saved(f / "x.nii", random_voxels((5, 4, 3, 1, 3), "f4")),
        "volume-color",
        "color or vector",
    ),
    "color": (
        lambda f: saved(f / "x.nii", np.zeros((5, 4, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])),
        "volume-color",
        "color or vector",
    ),
    "complex": (
        lambda f: saved(f / "x.nii", np.ones((5, 4, 3), np.complex64)),
        "volume-complex",
        "complex numbers",
    ),
    "zero spacing": (
        lambda f: edited(scan_nifti(f), 84, "<f", 0),
        "spacing-zero",
        "must be positive",
    ),
    "zero spacing beside a qform": (
        lambda f: edited(quaternion_scan(f), 80, "<f", 0),
        "spacing-zero",
        "must be positive",
    ),
    "NaN in the sform": (
        lambda f: edited(scan_nifti(f), 280, "<f", np.nan),
        "affine-not-finite",
        "NaN or infinity",
    ),
    "NaN spacing": (
        lambda f: edited(quaternion_scan(f), 80, "<f", np.nan),
        "affine-not-finite",
        "NaN or infinity",
    ),
    "singular": (
        lambda f: edited(scan_nifti(f), 280, "<12f", *[1, 1, 1, 0] * 3),
        "affine-singular",
        "its affine is singular",
    ),
}

ITK_FAULTS = {
    "empty file": (lambda f, s: written(f / f"x.{s}", b""), "input-damaged", "it is empty"),
    "text": (lambda f, s: written(f / f"x.{s}", b"hello " * 99), "input-damaged", "no NIfTI"),
    "half a header": (lambda f, s: cut(scan_itk(f, s), 60), "input-damaged", "damaged"),
    "truncated": (lambda f, s: cut(scan_itk(f, s), -10), "input-damaged", "truncated"),
    "truncated stream": (
        lambda f, s: cut(scan_itk(f, s, useCompression=True), -30),
        "input-damaged",
        "damaged",
    ),
    "folder": (lambda f, s: made_folder(f / f"x.{s}"), "input-format", "found a folder"),
    "2-D": (
        lambda f, s: itk_saved(f / f"x.{s}", sitk.Image([9, 8], sitk.sitkInt16)),
        "volume-2d",
        "2-D image (9 × 8)",
    ),
    "4-D": (
        lambda f, s: itk_saved(f / f"x.{s}", sitk.Image([5, 4, 3, 2], sitk.sitkInt16)),
        "volume-4d",
        "found 2 volumes of 5 × 4 × 3 voxels",
    ),
    "color": (
        lambda f, s: itk_saved(f / f"x.{s}", sitk.Image([5, 4, 3], sitk.sitkVectorUInt8, 3)),
        "volume-color",
        "color or vector",
    ),
    "complex": (
        lambda f, s: itk_saved(f / f"x.{s}", sitk.Image([5, 4, 3], sitk.sitkComplexFloat32)),
        "volume-color",
        "color or vector",
    ),
    "NaN origin": (
        lambda f, s: header_edited(
            scan_itk(f, s),
            PATTERN_OF[s]["origin"],
            {"nrrd": "space origin: (nan,nan,nan)", "mha": "Offset = nan 0 0"}[s],
        ),
        "affine-not-finite",
        "NaN, infinity or none",
    ),
    "NaN spacing": (
        lambda f, s: header_edited(
            scan_itk(f, s),
            PATTERN_OF[s]["spacing"],
            {
                "nrrd": "space directions: (nan,nan,nan) (0,1,0) (0,0,1)",
                "mha": "ElementSpacing = nan 1 1",
            }[s],
        ),
        "affine-not-finite",
        "NaN, infinity or none",
    ),
    "zero spacing": (
        lambda f, s: header_edited(
            scan_itk(f, s),
            PATTERN_OF[s]["spacing"],
            {
                "nrrd": "space directions: (1,0,0) (0,0,0) (0,0,1)",
                "mha": "ElementSpacing = 1 0 1",
            }[s],
        ),
        "spacing-zero",
        "must be positive",
    ),
    "singular": (
        lambda f, s: header_edited(
            scan_itk(f, s),
            {"nrrd": PATTERN_OF[s]["spacing"], "mha": r"TransformMatrix = [^\n]*"}[s],
            {
                "nrrd": "space directions: (1,0,0) (1,0,0) (0,0,1)",
                "mha": "TransformMatrix = 1 0 0 1 0 0 0 0 1",
            }[s],
        ),
        "affine-singular",
        "singular",
    ),
}

OTHER_FAULTS = {
    "segmentation of Slicer": (
        lambda f: segmentation(f / "x.seg.nrrd"),
        "label-map",
        "a Slicer segmentation",
    ),
    "zero in spacings": (
        lambda f: nrrd(f / "x.nrrd", random_voxels((3, 4, 5), "i2"), "spacings: 0 1 1"),
        "spacing-zero",
        "must be positive",
    ),
    "no direction of an axis": (
        lambda f: nrrd(
            f / "x.nrrd",
            random_voxels((3, 4, 5), "i2"),
            "space: RAS",
            "space directions: none (0,1,0) (0,0,1)",
        ),
        "affine-not-finite",
        "or none",
    ),
    "detached voxels missing": (
        lambda f: (
            nrrd(f / "x.nhdr", random_voxels((3, 4, 5), "i2"), data="v.raw"),
            (f / "v.raw").unlink(),
        )[0],
        "input-damaged",
        "the file with its voxels is missing",
    ),
    "impossible number of dimensions": (
        lambda f: header_edited(scan_itk(f, "mha"), "NDims = 3", "NDims = 73"),
        "input-damaged",
        "damaged",
    ),
}


@pytest.mark.parametrize("fault", NIFTI_FAULTS)
def test_bad_nifti_is_refused(tmp_path, capfd, fault):
    make, code, words = NIFTI_FAULTS[fault]
    error = refused(make(tmp_path), capfd)
    assert (error.code, words in error.message) == (code, True), error.message


@pytest.mark.parametrize("suffix", ["nrrd", "mha"])
@pytest.mark.parametrize("fault", ITK_FAULTS)
def test_bad_nrrd_and_metaimage_are_refused(tmp_path, capfd, fault, suffix):
    make, code, words = ITK_FAULTS[fault]
    error = refused(make(tmp_path, suffix), capfd)
    assert (error.code, words in error.message) == (code, True), error.message


@pytest.mark.parametrize("fault", OTHER_FAULTS)
def test_other_bad_files_are_refused(tmp_path, capfd, fault):
    make, code, words = OTHER_FAULTS[fault]
    error = refused(make(tmp_path), capfd)
    assert (error.code, words in error.message) == (code, True), error.message


ELSEWHERE = "one in another folder"
LISTED = "a list or pattern of files"


@pytest.mark.parametrize("suffix", ["nhdr", "mhd", "nrrd", "mha"])
@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("/etc/hostname", ELSEWHERE),
        ("../scan.raw", ELSEWHERE),
        ("..", ELSEWHERE),
        ("below/scan.raw", ELSEWHERE),
        ("./../scan.raw", ELSEWHERE),
        (r"..\scan.raw", ELSEWHERE),
        (r"\\server\share\scan.raw", ELSEWHERE),
        ("//server/share/scan.raw", ELSEWHERE),
        (r"C:\scan.raw", ELSEWHERE),
        ("C:scan.raw", ELSEWHERE),
        ("LIST", LISTED),
        ("LIST 2", LISTED),
        ("scan%03d.raw 1 3 1", LISTED),
        ("", "none"),
    ],
)
def test_voxels_in_other_files_are_not_opened(tmp_path, capfd, monkeypatch, suffix, named, found):
    path = scan_itk(tmp_path, {"nrrd": "nhdr", "mha": "mhd"}.get(suffix, suffix))
    header = path.read_text().replace("scan.raw", named)
    path = written(tmp_path / f"x.{suffix}", header.encode())

    def opened(*_args: object) -> None:
        raise AssertionError("ITK has the header")

    monkeypatch.setattr(sitk, "ImageFileReader", opened)
    error = refused(path, capfd)
    assert error.code == "input-data-file"
    assert error.message == (
        f"Expected a header that names one file of voxels, in its own folder; it names {found}."
    )


@pytest.mark.parametrize(
    ("suffix", "before", "after"),
    [
        ("nhdr", "\ndata file: scan.raw", "\rDATAFILE: /etc/hostname"),
        ("nhdr", "data file: scan.raw", "data file: scan.raw\ndata file: /etc/hostname"),
        ("mhd", "ElementDataFile = ", "  ElementDataFile \n : /"),
        ("mhd", "ElementDataFile = ", "Comment =\nElementDataFile = LOCAL\nElementDataFile = /"),
    ],
)
def test_header_cannot_hide_where_its_voxels_are(tmp_path, capfd, suffix, before, after):
    path = scan_itk(tmp_path, suffix)
    text = path.read_text()
    assert before in text
    path.write_bytes(text.replace(before, after).encode())
    assert refused(path, capfd).code == "input-data-file"


def test_too_long_header_is_refused(tmp_path, capfd):
    path = header_edited(scan_itk(tmp_path, "nhdr"), "data file", "# x\n" * 300_000 + "data file")
    assert "its header is longer than 1,048,576 bytes" in refused(path, capfd).message
    path = scan_itk(tmp_path, "mhd")
    path.write_text("Comment = x\n" * 100_000 + path.read_text())
    assert refused(path, capfd).code == "input-damaged"


@pytest.mark.parametrize("console", ["none", "no descriptor"])
def test_program_without_a_console_reads_volumes(tmp_path, monkeypatch, console):
    voxels = random_voxels((3, 4, 5), "i2")
    path = write_itk(tmp_path / "scan.mha", voxels, np.eye(4))
    if console == "none":
        monkeypatch.setattr(sys, "stderr", None)
    else:

        def no_descriptor(_number: int) -> int:
            raise OSError(9, "Bad file descriptor")

        monkeypatch.setattr(os, "dup", no_descriptor)
    np.testing.assert_array_equal(read_volume_file(path).voxels, voxels)


def test_native_stderr_is_silent_within_and_back_after(capfd):
    def fail() -> None:
        with native_stderr_silenced():
            os.write(2, b"within ")
            raise KeyError

    os.write(2, b"before ")
    with pytest.raises(KeyError):
        fail()
    os.write(2, b"after")
    assert capfd.readouterr().err == "before after"


def test_file_that_may_not_be_opened(tmp_path, monkeypatch):
    path = scan_nifti(tmp_path)

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"cannot be opened: Permission denied\.") as caught:
        read_volume_file(path)
    assert caught.value.code == "input-unreadable"
    assert str(path) not in str(caught.value)


@pytest.mark.parametrize("damaged", [0, 1, 3, 400, 2000, -4, -1])
def test_damaged_metaimage_stream_is_refused(tmp_path, capfd, damaged):
    # MetaIO would return memory as it was, and for some headers never return.
    voxels = random_voxels((9, 20, 30), "i2")
    path = write_itk(tmp_path / "scan.mha", voxels, np.eye(4), useCompression=True)
    data = bytearray(path.read_bytes())
    begin = data.index(b"LOCAL\n") + 6
    data[damaged if damaged < 0 else begin + damaged] ^= 0x20
    path.write_bytes(data)
    assert "compressed voxels are damaged" in refused(path, capfd).message


HUGE = "3000 3000 3000"


@pytest.mark.parametrize(
    "make",
    [
        lambda f: edited(scan_nifti(f), 42, "<3h", 3000, 3000, 3000),
        lambda f: edited(scan_nifti(f, "x.nii.gz"), 42, "<3h", 3000, 3000, 3000),
        lambda f: header_edited(scan_itk(f, "nrrd"), "sizes: 5 4 3", f"sizes: {HUGE}"),
        lambda f: header_edited(scan_itk(f, "mha"), "DimSize = 5 4 3", f"DimSize = {HUGE}"),
        lambda f: header_edited(scan_itk(f, "mhd"), "DimSize = 5 4 3", f"DimSize = {HUGE}"),
        lambda f: header_edited(scan_itk(f, "nhdr"), "sizes: 5 4 3", f"sizes: {HUGE}"),
        lambda f: header_edited(
            scan_itk(f, "nrrd", useCompression=True), "sizes: 5 4 3", f"sizes: {HUGE}"
        ),
        lambda f: header_edited(
            scan_itk(f, "mha", useCompression=True), "DimSize = 5 4 3", f"DimSize = {HUGE}"
        ),
    ],
    ids=["nii", "nii.gz", "nrrd", "mha", "mhd", "nhdr", "nrrd gzip", "mha zlib"],
)
def test_header_that_promises_54_gb_takes_no_memory(tmp_path, capfd, make):
    path = make(tmp_path)
    error = refused(path, capfd)
    assert "promises 54,000,000,000 bytes of voxels" in error.message


@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
@pytest.mark.parametrize("suffix", ["nii", "nrrd", "mha"])
def test_damaged_bytes_end_as_a_volume_or_an_input_error(tmp_path, capfd, suffix, compressed):
    if suffix == "nii":
        path = scan_nifti(tmp_path, "scan.nii.gz" if compressed else "scan.nii")
    else:
        path = scan_itk(tmp_path, suffix, useCompression=compressed)
    whole = path.read_bytes()
    random = np.random.RandomState(0)
    capfd.readouterr()
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for at in random.randint(0, len(data) - 8, random.randint(1, 4)):
            if random.rand() < 0.3:
                del data[at : at + random.randint(1, 6)]
            else:
                data[at] = random.choice(list(b"0123 -.=n\xff\x00"))
        path.write_bytes(data)
        try:
            outcomes.add(read_volume_file(path).voxels.ndim)
        except InputError as error:
            outcomes.add(error.code)
    assert "input-damaged" in outcomes
    assert outcomes - {3} <= {
        "input-damaged",
        "affine-not-finite",
        "affine-singular",
        "label-map",
        "spacing-zero",
        "volume-2d",
        "volume-4d",
        "volume-color",
        "affine-ambiguous",
        "input-format",
        "volume-complex",
        "volume-empty",
    }
    assert capfd.readouterr() == ("", "")


def test_a_nrrd_that_cannot_be_written_is_an_os_error(tmp_path):
    """ITK raises RuntimeError; the writers of results handle OSError."""
    with pytest.raises(OSError, match="could not be written"):
        write_nrrd(tmp_path / "no such folder" / "x.nrrd", np.zeros((2, 2, 2), "f4"), np.eye(4))


def test_a_nifti_with_two_affines_is_refused(tmp_path):
    """As in files registered to a template: programs differ in which form they use."""
    voxels = np.random.RandomState(0).rand(5, 6, 7).astype("f4")
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    image = nib.Nifti1Image(voxels, affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=4)
    nib.save(image, tmp_path / "one affine.nii")
    assert np.array_equal(read_volume_file(tmp_path / "one affine.nii").ras_from_voxel, affine)
    moved = affine.copy()
    moved[0, 3] = 5.0
    image.set_sform(moved, code=4)
    nib.save(image, tmp_path / "two affines.nii")
    with pytest.raises(InputError, match="5 mm apart") as error:
        read_volume_file(tmp_path / "two affines.nii")
    assert error.value.code == "affine-ambiguous"
