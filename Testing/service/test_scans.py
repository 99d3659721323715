"""What a user names becomes scans: files, folders of files, DICOM series."""

import os
from pathlib import Path

import numpy as np
import pytest
from engine.dicom_examples import small_series
from SpatialARAnomalyLib.engine.errors import Cancelled, InputError
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.files import (
    write_nifti,
    write_nifti_labels,
    write_nrrd,
)
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.events import EventReporter, NoticeEvent
from SpatialARAnomalyLib.service.scans import find_one_scan, find_scans, read_volume


@pytest.fixture(scope="module")
def head() -> Volume:
    return normal_head(3, shape_kji=(6, 24, 20), spacing_mm=(9.0, 9.0, 20.0))


def refused(path: Path, series: str | None = None) -> InputError:
    """The error of reading the one scan of a path; it names no folder above it."""
    with pytest.raises(InputError) as caught:
        find_one_scan(path, series).read()
    assert str(path.parent) not in str(caught.value)
    return caught.value


def test_file_is_one_scan_under_its_own_name(tmp_path, head):
    write_nifti(tmp_path / "A b.v1.nii.gz", head)
    name, volume = find_one_scan(tmp_path / "A b.v1.nii.gz").read()
    assert name == "A b.v1"
    np.testing.assert_array_equal(volume.voxels, head.voxels)
    np.testing.assert_allclose(volume.ras_from_voxel, head.ras_from_voxel, atol=1e-4)


def test_folder_of_files_is_their_scans_in_order(tmp_path, head):
    write_nifti(tmp_path / "b.nii.gz", head)
    write_nrrd(tmp_path / "a.NRRD", head.voxels + 1, head.ras_from_voxel)
    (tmp_path / "notes.txt").write_text("no scan")
    (tmp_path / "._b.nii.gz").write_bytes(b"left by a Mac")
    (tmp_path / "folder.nii.gz").mkdir()
    scans = find_scans(tmp_path)
    assert [one.path.name for one in scans] == ["a.NRRD", "b.nii.gz"]
    names, volumes = zip(*(one.read() for one in scans), strict=True)
    assert names == ("a", "b")
    np.testing.assert_array_equal(volumes[0].voxels, volumes[1].voxels + 1)


def test_folder_with_one_file_is_that_scan(tmp_path, head):
    write_nifti(tmp_path / "only.nii", head)
    assert find_one_scan(tmp_path).path.name == "only.nii"


def test_one_of_several_files_is_not_guessed(tmp_path, head):
    for number in range(7):
        write_nifti(tmp_path / f"{number}.nii", head)
    error = refused(tmp_path)
    assert error.code == "input-several"
    assert "holds 7 volume files (0.nii, 1.nii, 2.nii, 3.nii, 4.nii, …)" in error.message


def test_dicom_folder_is_one_scan_under_its_name(tmp_path):
    series = small_series(slices=4)
    folder = series.write(tmp_path / "study 1")
    assert len(find_scans(folder)) == 1
    name, volume = find_one_scan(folder).read()
    assert name == "study 1"
    assert volume.modality is Modality.CT
    np.testing.assert_array_equal(volume.voxels, series.stored)


def test_series_of_a_study_has_its_number_in_its_name(tmp_path):
    first = small_series(slices=4)
    second = small_series(slices=3, uid="1.2.3", attributes={"SeriesNumber": 12})
    third = small_series(slices=2, uid="1.2.4", attributes={"SeriesNumber": None})
    for number, one in enumerate((first, second, third)):
        one.write(tmp_path / "study" / str(number))
    assert refused(tmp_path / "study").code == "series-ambiguous"
    for wanted, name, series in (
        ("1", "study_series1", first),
        ("1.2.3", "study_series12", second),
        ("1.2.4", "study", third),
    ):
        found, volume = find_one_scan(tmp_path / "study", wanted).read()
        assert found == name
        np.testing.assert_array_equal(volume.voxels, series.stored)


def test_series_is_read_beside_volume_files(tmp_path, head):
    series = small_series(slices=4)
    series.write(tmp_path / "study")
    write_nifti(tmp_path / "study" / "converted.nii", head)
    with pytest.raises(InputError) as caught:
        find_one_scan(tmp_path / "study")
    assert caught.value.code == "input-mixed"
    assert "holds 'converted.nii' beside DICOM images" in caught.value.message
    _, volume = find_one_scan(tmp_path / "study", "1").read()
    np.testing.assert_array_equal(volume.voxels, series.stored)


def test_one_dicom_file_is_a_scan(tmp_path):
    series = small_series(slices=4)
    file = sorted(series.write(tmp_path, SliceThickness=2).iterdir())[0]
    name, volume = find_one_scan(file).read()
    assert name == "image 001"
    np.testing.assert_array_equal(volume.voxels, series.stored[3:])
    assert [code for code, _ in volume.notices] == ["one-image"]


def test_a_choice_without_effect_is_told(tmp_path, head):
    write_nrrd(tmp_path / "scan.nrrd", head.voxels, head.ras_from_voxel)
    folder = small_series(slices=4).write(tmp_path / "series")
    for path in (tmp_path / "scan.nrrd", folder):
        codes = [code for code, _ in read_volume(path, orientation="sform").notices]
        assert codes == ["choice-unused"]
    volume = read_volume(tmp_path / "scan.nrrd", allow_gaps=True)
    assert [code for code, _ in volume.notices] == ["choice-unused"]
    assert not read_volume(tmp_path / "scan.nrrd").notices


def test_folder_named_as_a_file_is_a_folder(tmp_path):
    series = small_series(slices=4)
    name, volume = find_one_scan(series.write(tmp_path / "x.nii.gz")).read()
    assert name == "x.nii.gz"
    np.testing.assert_array_equal(volume.voxels, series.stored)


def made(path: Path) -> Path:
    path.mkdir()
    return path


def touched(path: Path) -> Path:
    path.touch()
    return path


def noted(path: Path) -> Path:
    (made(path) / "notes.txt").write_text("no scan")
    return path


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (lambda f: f / "no.nii", "input-missing", "'no.nii' does not exist"),
        (lambda f: made(f / "none"), "input-empty", "The folder 'none' is empty"),
        (lambda f: noted(f / "n"), "input-empty", "found no DICOM images"),
        (lambda f: touched(f / "1.dcm"), "input-format", "another kind (.dcm)"),
        (lambda f: touched(f / "a.nii"), "input-damaged", "it is empty"),
    ],
)
def test_what_is_no_scan(tmp_path, make, code, words):
    error = refused(make(tmp_path))
    assert (error.code, words in error.message) == (code, True)


def test_folder_named_by_a_dot_is_told_by_its_name(tmp_path, monkeypatch, head):
    folder = made(tmp_path / "study 1")
    monkeypatch.chdir(folder)
    for dots in (".", "../study 1/."):
        with pytest.raises(InputError, match="The folder 'study 1' is empty"):
            find_scans(Path(dots))
    for name in ("a.nii", "b.nii"):
        write_nifti(folder / name, head)
    with pytest.raises(InputError, match="the folder 'study 1' holds 2 volume files"):
        find_one_scan(Path("."))
    monkeypatch.chdir(made(folder / "below"))
    with pytest.raises(InputError, match="the folder 'study 1' holds 2 volume files"):
        find_one_scan(Path(".."))


def test_reading_is_cancelled_before_any_file(tmp_path, head):
    write_nifti(tmp_path / "a.nii", head)
    write_nifti(tmp_path / "b.nii", head)
    study = small_series(slices=4).write(tmp_path / "study")
    calls = []

    def cancel_at(number: int):
        def check() -> None:
            calls.append(number)
            if len(calls) == number:
                raise Cancelled

        calls.clear()
        return check

    # Of the folder: two files and a folder; of the series: listed, then read.
    for files, work in (
        (3, lambda check: find_scans(tmp_path, check_cancelled=check)),
        (4, lambda check: find_one_scan(study, check_cancelled=check)),
        (1, find_scans(tmp_path)[0].read),
        (8, find_one_scan(study).read),
    ):
        work(cancel_at(99))
        assert len(calls) == files
        with pytest.raises(Cancelled):
            work(cancel_at(files))


def test_series_of_a_file_makes_no_sense(tmp_path, head):
    write_nifti(tmp_path / "a.nii", head)
    error = refused(tmp_path / "a.nii", "3")
    assert error.code == "series-of-file"
    assert "'a.nii' is a file" in error.message


@pytest.mark.parametrize(
    ("voxels", "code"),
    [
        (np.full((3, 4, 5), 7, np.int16), "volume-constant"),
        (np.full((3, 4, 5), np.inf), "voxels-not-finite"),
        ((np.arange(60).reshape(3, 4, 5) > 30).astype(np.uint8), "label-map"),
    ],
    ids=["constant", "infinite", "mask"],
)
def test_voxels_that_are_no_scan(tmp_path, voxels, code):
    write_nrrd(tmp_path / "x.nrrd", voxels, np.eye(4))
    assert refused(tmp_path / "x.nrrd").code == code


def test_constant_series_is_refused(tmp_path):
    series = small_series(slices=3)
    folder = series.with_(stored=np.full_like(series.stored, -5)).write(tmp_path / "study")
    assert refused(folder).code == "volume-constant"


def test_folder_that_may_not_be_opened(tmp_path, monkeypatch):
    def refuse(*_args: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot be opened: Permission denied\.") as caught:
        find_scans(tmp_path)
    assert caught.value.code == "input-unreadable"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit on a name")
def test_name_too_long_to_be_a_file(tmp_path):
    assert refused(tmp_path / ("x" * 300 + ".nii")).code == "input-unreadable"


def left_half(volume: Volume) -> np.ndarray:
    half = np.zeros(volume.voxels.shape, np.uint16)
    half[:, :, : half.shape[2] // 2] = 3
    return half


def test_a_mask_on_the_scans_grid_is_taken_as_it_is(tmp_path, head):
    write_nifti(tmp_path / "scan.nii", head)
    write_nifti_labels(tmp_path / "mask.nii.gz", left_half(head), head.ras_from_voxel)
    volume = read_volume(tmp_path / "scan.nii", mask=tmp_path / "mask.nii.gz")
    assert np.array_equal(volume.mask, left_half(head) > 0)


def test_a_mask_on_another_grid_takes_the_nearest_voxel_with_a_notice(tmp_path, head):
    """Voxels of half the size, cropped: what is cropped away is outside."""
    write_nifti(tmp_path / "scan.nii", head)
    fine = np.repeat(np.repeat(np.repeat(left_half(head), 2, 0), 2, 1), 2, 2)[:, 4:]
    affine = head.ras_from_voxel.copy()
    affine[:3, :3] /= 2
    affine[:3, 3] += affine[:3, :3] @ [-0.5, 4 - 0.5, -0.5]
    write_nrrd(tmp_path / "mask.nrrd", fine.astype(np.float32), affine)
    events = []
    volume = read_volume(
        tmp_path / "scan.nii", mask=tmp_path / "mask.nrrd", report=EventReporter(events.append)
    )
    expected = left_half(head) > 0
    expected[:, :2] = False
    assert np.array_equal(volume.mask, expected)
    assert [one.code for one in events if isinstance(one, NoticeEvent)] == ["mask-resampled"]


def test_the_mask_of_another_place_is_refused(tmp_path, head):
    write_nifti(tmp_path / "scan.nii", head)
    affine = head.ras_from_voxel.copy()
    affine[:3, 3] += 500.0
    write_nifti_labels(tmp_path / "mask.nii.gz", left_half(head), affine)
    with pytest.raises(InputError) as caught:
        read_volume(tmp_path / "scan.nii", mask=tmp_path / "mask.nii.gz")
    assert caught.value.code == "mask-place"
