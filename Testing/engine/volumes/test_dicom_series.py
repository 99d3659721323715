"""DICOM series: affines by PS3.3 C.7.6.2, rescaled values, and series that are refused."""

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from engine.dicom_examples import AXIAL, Series, save, small_series
from engine.grids import rotation
from SpatialARAnomalyLib.engine.errors import Cancelled, InputError
from SpatialARAnomalyLib.engine.specs import Modality
from SpatialARAnomalyLib.engine.volumes.dicom import read_series
from SpatialARAnomalyLib.engine.volumes.dicom_series import choose_series, list_series
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan

FILES = Path(pydicom.data.__file__).parent / "test_files"
STUDIES = FILES / "dicomdirtests"

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
SAGITTAL = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def read(folder: Path, series: str | None = None) -> Volume:
    return read_series(choose_series(list_series(folder), series))


def refused(folder: Path, capfd: pytest.CaptureFixture[str], series: str | None = None):
    """The error of a bad series, which names no folder; nothing is printed."""
    capfd.readouterr()
    with pytest.raises(InputError) as caught:
        read(folder, series)
    assert capfd.readouterr() == ("", "")
    assert str(folder) not in str(caught.value)
    return caught.value


def oblique(seed: int) -> tuple[float, ...]:
    turn = rotation(np.random.RandomState(seed), 60.0)
    return tuple(float(f"{value:.10g}") for value in [*turn[:, 0], *turn[:, 1]])


# Positions


@pytest.mark.parametrize(
    "orientation",
    [AXIAL, CORONAL, SAGITTAL, (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0), oblique(0), oblique(1), oblique(2)],
)
def test_affine_is_that_of_the_standard(tmp_path, orientation):
    series = small_series(orientation=orientation)
    volume = read(series.write(tmp_path))
    np.testing.assert_allclose(volume.ras_from_voxel, series.ras_from_voxel, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(volume.voxels, series.stored)
    assert volume.modality is Modality.CT
    # Written out once: the first voxel of the third image, moved along a row and a column.
    image = series.image(2)
    row, column = np.reshape(np.array(image.ImageOrientationPatient, float), (2, 3))
    lps = np.array(image.ImagePositionPatient, float) + row * 0.9 * 4 + column * 0.7 * 3
    found = volume.ras_from_voxel @ [4, 3, 2, 1]
    np.testing.assert_allclose(found[:3], lps * [-1, -1, 1], rtol=0, atol=1e-8)


def test_slices_against_the_normal_are_stored_along_it(tmp_path):
    series = small_series(step=(0.0, 0.0, -2.5))
    volume = read(series.write(tmp_path))
    np.testing.assert_array_equal(volume.voxels, series.stored[::-1])
    first = volume.ras_from_voxel @ [0, 0, 4, 1]
    np.testing.assert_allclose(first[:3], np.array(series.origin) * [-1, -1, 1], atol=1e-9)


def test_tilted_gantry_gives_a_sheared_grid(tmp_path):
    series = small_series(step=(0.0, 0.8, 2.5))
    volume = read(series.write(tmp_path))
    np.testing.assert_allclose(volume.ras_from_voxel, series.ras_from_voxel, rtol=0, atol=1e-8)
    assert volume.voxel_ml == pytest.approx(0.7 * 0.9 * 2.5 / 1000)


def test_positions_rounded_by_the_scanner_are_even(tmp_path):
    series = small_series(9, step=(0.0, 0.0, 2 / 3))
    images = [series.image(k) for k in range(9)]
    for image in images:
        image.ImagePositionPatient = [f"{float(value):.2f}" for value in image.ImagePositionPatient]
        save(image, tmp_path / f"{image.InstanceNumber}.dcm")
    assert read(tmp_path).spacing_mm == pytest.approx((0.9, 0.7, 2 / 3), abs=2e-3)


@pytest.mark.parametrize(
    ("attributes", "step_mm"),
    [
        ({"SliceThickness": 4}, 4.0),
        ({"SliceThickness": 4, "SpacingBetweenSlices": 5}, 5.0),
        ({"SliceThickness": 4, "SpacingBetweenSlices": ""}, 4.0),
        ({"SpacingBetweenSlices": -5}, 5.0),
    ],
)
def test_single_slice_is_as_thick_as_it_says(tmp_path, attributes, step_mm):
    series = small_series(1, orientation=SAGITTAL)
    volume = read(series.write(tmp_path, **attributes))
    expected = series.with_(step=(-step_mm, 0.0, 0.0)).ras_from_voxel
    np.testing.assert_allclose(volume.ras_from_voxel, expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(volume.voxels, series.stored)


# Values


@pytest.mark.parametrize("modality", ["CT", "MR", ""])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2"])
@pytest.mark.parametrize(("slope", "intercept"), [("1", "-1024"), ("0.0123", "-3.7"), ("-2", "5")])
def test_rescale_slope_and_intercept(tmp_path, dtype, slope, intercept, modality):
    series = small_series(2, dtype)
    folder = series.write(
        tmp_path, Modality=modality, RescaleSlope=slope, RescaleIntercept=intercept
    )
    volume = read(folder)
    exact = series.stored * float(slope) + float(intercept)
    np.testing.assert_array_equal(volume.voxels, exact.astype(np.float32))
    assert volume.modality == {"CT": Modality.CT, "MR": Modality.MR, "": None}[modality]


def test_rescale_of_every_slice_is_its_own(tmp_path):
    series = small_series()
    slopes = [1.0, 0.5, 0.37, 2.0, 0.0123]
    for k, slope in enumerate(slopes):
        image = series.image(k, RescaleSlope=slope, RescaleIntercept=-k)
        save(image, tmp_path / f"{k}.dcm")
    exact = series.stored * np.array(slopes)[:, None, None] - np.arange(5)[:, None, None]
    np.testing.assert_array_equal(read(tmp_path).voxels, exact.astype(np.float32))


@pytest.mark.parametrize(
    "name", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"]
)
def test_compressed_pixels(tmp_path, capfd, name):
    for folder, file in ((tmp_path / "a", name), (tmp_path / "b", "MR_small.dcm")):
        folder.mkdir()
        shutil.copy(FILES / file, folder)
    compressed, plain = read(tmp_path / "a"), read(tmp_path / "b")
    np.testing.assert_array_equal(compressed.voxels, plain.voxels)
    assert plain.voxels.std() > 100
    data = (tmp_path / "a" / name).read_bytes()
    (tmp_path / "a" / name).write_bytes(data[: len(data) // 2])
    assert refused(tmp_path / "a", capfd).code in ("input-damaged", "input-empty")


def test_voxels_are_held_once(tmp_path):
    stored = np.random.RandomState(0).randint(0, 3000, (40, 64, 64)).astype("i2")
    series = small_series().with_(stored=stored)
    listed = choose_series(list_series(series.write(tmp_path)), None)
    read_series(listed)  # modules are loaded
    tracemalloc.start()
    volume = read_series(listed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.voxels, stored)
    assert 4 * stored.size < peak < 6 * stored.size


@pytest.mark.parametrize("stage", ["list", "read"])
def test_reading_is_cancelled_between_files(tmp_path, stage):
    folder = small_series(5).write(tmp_path)
    calls = 0

    def cancel_at_third() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cancelled

    def count() -> None:
        nonlocal calls
        calls += 1

    listed = choose_series(list_series(folder, count), None)
    read_series(listed, count)
    assert calls == 10
    calls = 0
    with pytest.raises(Cancelled):
        list_series(folder, cancel_at_third) if stage == "list" else read_series(
            listed, cancel_at_third
        )
    assert calls == 3


# Series of a study


def test_real_series_of_a_study():
    listed = list_series(STUDIES)
    chosen = [one for one in listed if "CT5N" in str(one.files[0].path)]
    volume = read_series(chosen[0])
    assert volume.voxels.shape == (5, 16, 16)
    assert volume.modality is Modality.CT
    check_scan(volume)
    images = sorted(
        (pydicom.dcmread(path) for path in (STUDIES / "98892001" / "CT5N").iterdir()),
        key=lambda image: float(image.ImagePositionPatient[2]),
    )
    expected = [image.pixel_array * image.RescaleSlope + image.RescaleIntercept for image in images]
    np.testing.assert_array_equal(volume.voxels, np.array(expected, np.float32))
    for k, image in enumerate(images):
        np.testing.assert_allclose(
            (volume.ras_from_voxel @ [0, 0, k, 1])[:3],
            np.array(image.ImagePositionPatient, float) * [-1, -1, 1],
            atol=1e-3,
        )


def test_a_study_is_listed_in_order_of_distinct_series():
    listed = list_series(STUDIES)
    assert len(listed) > 5
    assert len({one.uid for one in listed}) == len(listed)
    numbers = [one.number for one in listed if one.number is not None]
    assert numbers == sorted(numbers)
    with pytest.raises(InputError, match=rf"the folder holds {len(listed)} \(") as caught:
        choose_series(listed, None)
    assert all(str(one) in caught.value.message for one in listed)


@pytest.mark.parametrize(
    ("folder", "code"), [("98892001/CT2N", "dicom-localizer"), ("98892003/MR700", "dicom-mixed")]
)
def test_real_localizers(capfd, folder, code):
    assert refused(STUDIES / folder, capfd).code == code


def two_series(folder: Path) -> tuple[Series, Series]:
    first = small_series(3)
    second = small_series(4, uid="1.2.3.4", attributes={"SeriesNumber": 7, "Modality": "MR"})
    first.write(folder / "A" / "B")
    second.write(folder / "A")
    return first, second


@pytest.mark.parametrize("wanted", ["7", "1.2.3.4"])
def test_series_is_chosen_by_number_or_uid(tmp_path, wanted):
    _, second = two_series(tmp_path)
    volume = read(tmp_path, wanted)
    np.testing.assert_array_equal(volume.voxels, second.stored)
    assert volume.modality is Modality.MR


def test_ambiguous_or_missing_choice(tmp_path, capfd):
    two_series(tmp_path)
    listing = "1: CT 'thin', 3 images; 7: MR 'thin', 4 images"
    error = refused(tmp_path, capfd)
    assert error.code == "series-ambiguous"
    assert f"the folder holds 2 ({listing})" in error.message
    error = refused(tmp_path, capfd, "5")
    assert error.code == "series-missing"
    assert f"No series has the number or UID 5; the folder holds {listing}." in error.message
    small_series(2, uid="1.2.3.5", attributes={"SeriesNumber": 7}).write(tmp_path / "C")
    error = refused(tmp_path, capfd, "7")
    assert error.message == "Series number 7 stands for 2 series (1.2.3.4, 1.2.3.5)."


@pytest.mark.parametrize("number", [None, "", "12a", "3.5"])
def test_series_without_a_proper_number(tmp_path, capfd, number):
    series = small_series(3, uid="1.2.3")
    folder = series.write(tmp_path)
    for path in folder.iterdir():
        # Written as bytes: pydicom refuses to write what some scanners do.
        image = pydicom.dcmread(path)
        if number is None:
            del image.SeriesNumber
        else:
            image["SeriesNumber"] = pydicom.DataElement("SeriesNumber", "LO", number)
            image["SeriesNumber"].VR = "LO"
        save(image, path)
    (only,) = list_series(folder)
    assert only.number is None
    assert str(only).startswith("–: CT")
    np.testing.assert_array_equal(read(folder, "1.2.3").voxels, series.stored)
    assert refused(folder, capfd, "None").code == "series-missing"


def test_files_beside_the_series_are_passed_over(tmp_path):
    series = small_series()
    folder = series.write(tmp_path)
    (folder / "deeper" / "still").mkdir(parents=True)
    series.write(folder / "deeper" / "still")  # a copy of every image
    for name in ("test-SR.dcm", "rtstruct.dcm", "waveform_ecg.dcm"):
        shutil.copy(FILES / name, folder)
    shutil.copy(STUDIES / "DICOMDIR", folder)
    (folder / "Thumbs.db").write_bytes(np.random.RandomState(0).bytes(3000))
    (folder / "empty.dcm").touch()
    (folder / "README").write_text("no image")
    (folder / "dangling").symlink_to(folder / "nowhere")
    listed = list_series(folder)
    assert sorted(one.modality for one in listed) == ["", "CT", "ECG", "RTSTRUCT", "SR"]
    (only,) = [one for one in listed if one.not_a_scan is None]
    assert len(only.files) == 5
    np.testing.assert_array_equal(read(folder).voxels, series.stored)


def test_folder_and_files_of_any_letters(tmp_path):
    series = small_series()
    folder = series.write(tmp_path / "Prüfung 脳 (1)", SeriesDescription="t1 'x' 4 mm")
    np.testing.assert_array_equal(read(folder).voxels, series.stored)


def test_folder_without_images(tmp_path, capfd):
    (tmp_path / "notes.txt").write_text("none")
    shutil.copy(FILES / "test-SR.dcm", tmp_path)
    error = refused(tmp_path, capfd)
    assert error.code == "modality-unsupported"
    assert "found 'SR' (report)" in error.message
    (tmp_path / "test-SR.dcm").unlink()
    error = refused(tmp_path, capfd)
    assert error.code == "input-empty"
    assert "found no DICOM images" in error.message


def test_listing_reads_headers_only(tmp_path):
    """Files that end within their pixels are listed nevertheless."""
    folder = small_series(4).write(tmp_path)
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-20])
    (only,) = list_series(folder)
    assert len(only.files) == 4


# Series that are refused: differences of images, the error's code, words of its message


def test_missing_slice(tmp_path, capfd):
    folder = small_series(9).write(tmp_path)
    sorted(folder.iterdir())[3].unlink()
    error = refused(folder, capfd)
    assert error.code == "dicom-gap"
    assert "of 9 slices, a slice is missing near z = 42.5 mm" in error.message
    assert error.facts == {"missing": 1}


def test_slice_far_off(tmp_path, capfd):
    series = small_series(9)
    series.write(tmp_path)
    save(series.image(8, ImagePositionPatient=[-10, 20, 500]), tmp_path / "image 001.dcm")
    assert refused(tmp_path, capfd).code == "dicom-gap"


@pytest.mark.parametrize("positions", [1, 3])
def test_several_images_at_one_position(tmp_path, capfd, positions):
    for time_point in range(3):
        series = small_series(positions)
        for k in range(positions):
            image = series.image(k, SOPInstanceUID=f"1.2.3.{time_point}.{k}")
            image.PixelData = (series.stored[k] + time_point).tobytes()
            image.InstanceNumber, image.SliceThickness = time_point * positions + k + 1, 2
            save(image, tmp_path / f"{9 - time_point} {k}.dcm")
    error = refused(tmp_path, capfd)
    assert error.code == "dicom-4d"
    found = "all 3 images lie at one" if positions == 1 else "each of the 3 positions has 3"
    assert found in error.message
    named = "1: image 1, 1 slice;" if positions == 1 else "1: repeat 1, 3 slices;"
    assert named in error.message
    for time_point in range(3):
        volume = read_series(choose_series(list_series(tmp_path), None), volume=time_point + 1)
        np.testing.assert_array_equal(volume.voxels, small_series(positions).stored + time_point)


def test_several_orientations_in_one_series(tmp_path, capfd):
    for number, orientation in enumerate((AXIAL, CORONAL, SAGITTAL)):
        image = small_series(1, orientation=orientation).image(0, SOPInstanceUID=f"1.2.{number}")
        save(image, tmp_path / f"{number}.dcm")
    error = refused(tmp_path, capfd)
    assert error.code == "dicom-mixed"
    assert "axial 6 × 8, 1 slice" in error.message
    assert "sagittal 6 × 8, 1 slice" in error.message


@pytest.mark.parametrize(
    ("attributes", "code", "words"),
    [
        ({"PixelSpacing": [0.7, 0.8]}, "dicom-mixed", "one size, orientation and pixel spacing"),
        ({"PixelSpacing": None}, "dicom-geometry", "must have PixelSpacing (2 numbers); 1 of 5"),
        ({"PixelSpacing": ""}, "dicom-geometry", "must have PixelSpacing"),
        ({"PixelSpacing": [1, 1, 1]}, "dicom-geometry", "must have PixelSpacing"),
        ({"ImagePositionPatient": None}, "dicom-geometry", "must have ImagePositionPatient"),
        ({"ImagePositionPatient": [1, 2]}, "dicom-geometry", "ImagePositionPatient (3 numbers)"),
        ({"ImagePositionPatient": [1, 2, "nan"]}, "dicom-geometry", "ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, "dicom-geometry", "have ImageOrientationPatient"),
        ({"NumberOfFrames": 3}, "dicom-multiframe", "each of the 3 frames of a multi-frame"),
        ({"SamplesPerPixel": 3}, "volume-color", "is in color"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "volume-color", "is in color"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "dicom-inverted", "these are mixed"),
        ({"Rows": 3}, "dicom-mixed", "1: axial 6 × 8, 4 slices; 2: axial 3 × 8, 1 slice"),
        ({"Rows": None}, "input-damaged", "holds no pixels"),
        ({"PixelData": None}, "input-damaged", "holds no pixels"),
        ({"PixelData": b"\0" * 94}, "input-damaged", "truncated"),
    ],
)
def test_one_image_that_differs(tmp_path, capfd, attributes, code, words):
    series = small_series()
    series.write(tmp_path)
    save(series.image(2, **attributes), tmp_path / "image 003.dcm")
    error = refused(tmp_path, capfd)
    assert (error.code, words in error.message) == (code, True), error.message


@pytest.mark.parametrize(
    ("attributes", "code", "words"),
    [
        ({"PixelSpacing": [0, 1]}, "spacing-zero", "PixelSpacing must be positive; found 0 mm"),
        ({"PixelSpacing": [-1, 1]}, "spacing-zero", "must be positive; found -1 mm"),
        ({"ImageOrientationPatient": [0] * 6}, "dicom-geometry", "perpendicular unit vectors"),
        (
            {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
            "dicom-geometry",
            "perpendicular unit vectors",
        ),
        (
            {"ImageOrientationPatient": [2, 0, 0, 0, 1, 0]},
            "dicom-geometry",
            "perpendicular unit vectors",
        ),
    ],
)
def test_series_of_invalid_geometry(tmp_path, capfd, attributes, code, words):
    error = refused(small_series().write(tmp_path, **attributes), capfd)
    assert (error.code, words in error.message) == (code, True), error.message


@pytest.mark.parametrize(
    ("modality", "kind"), [("PT", " (PET)"), ("RTDOSE", " (radiotherapy dose)"), ("ct", "")]
)
def test_other_modalities_are_refused(tmp_path, capfd, modality, kind):
    error = refused(small_series().write(tmp_path, Modality=modality), capfd)
    assert error.code == "modality-unsupported"
    assert error.message.endswith(f"of modality MR or CT; found {modality!r}{kind}.")


@pytest.mark.parametrize("attributes", [{}, {"SliceThickness": ""}, {"SliceThickness": 0}])
def test_single_slice_of_unknown_thickness(tmp_path, capfd, attributes):
    error = refused(small_series(1).write(tmp_path, **attributes), capfd)
    assert error.code == "dicom-one-slice"
    assert "its SliceThickness is empty or missing" in error.message


@pytest.mark.parametrize(
    ("lost", "words"), [(2, "is truncated"), (60, "is truncated"), (150, "holds no pixels")]
)
def test_truncated_image(tmp_path, capfd, lost, words):
    folder = small_series().write(tmp_path)
    path = folder / "image 003.dcm"
    path.write_bytes(path.read_bytes()[:-lost])
    error = refused(folder, capfd)
    assert error.code == "input-damaged"
    assert words in error.message


def test_real_truncated_image(tmp_path, capfd):
    shutil.copy(FILES / "MR_truncated.dcm", tmp_path)
    assert refused(tmp_path, capfd).code == "input-damaged"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("SC_rgb_rle.dcm", "volume-color"),
        ("examples_palette.dcm", "volume-color"),
        ("rtdose.dcm", "dicom-multiframe"),
    ],
)
def test_real_images_that_are_not_slices(tmp_path, capfd, name, code):
    shutil.copy(FILES / name, tmp_path)
    assert refused(tmp_path, capfd).code == "modality-unsupported"
    image = pydicom.dcmread(FILES / name)
    image.Modality = "MR"
    save(image, tmp_path / name)
    assert refused(tmp_path, capfd).code == code


def test_c_libraries_print_nothing(tmp_path, capfd):
    # Its 12-bit JPEG makes libjpeg complain before it succeeds.
    image = pydicom.dcmread(FILES / "JPEG-lossy.dcm")
    image.ImagePositionPatient, image.ImageOrientationPatient = [0, 0, 0], list(AXIAL)
    image.PixelSpacing, image.SliceThickness, image.Modality = [1, 1], 2, "MR"
    save(image, tmp_path / "image.dcm")
    capfd.readouterr()
    volume = read(tmp_path)
    assert volume.voxels.std() > 1
    assert capfd.readouterr() == ("", "")
