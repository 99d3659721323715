"""Files that are DICOM by content, series that are no scans, and images that need care."""

import gzip
import shutil
import time
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
from engine import odd_examples
from engine.dicom_examples import Series, item, save, small_series
from engine.dicom_oracle import check_volume, read_images
from engine.odd_files import CASES
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from SpatialARAnomalyLib.engine.errors import InputError
from SpatialARAnomalyLib.engine.volumes.dicom import check_positions, read_series
from SpatialARAnomalyLib.engine.volumes.dicom_headers import is_dicom
from SpatialARAnomalyLib.engine.volumes.dicom_series import choose_series, list_series
from SpatialARAnomalyLib.engine.volumes.volume import Volume, check_scan
from SpatialARAnomalyLib.service.scans import read_volume

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)


def read(folder: Path, series: str | None = None, **choice) -> Volume:
    return read_series(choose_series(list_series(folder), series), **choice)


def refused(folder: Path, **choice) -> InputError:
    with pytest.raises(InputError) as caught:
        read(folder, **choice)
    return caught.value


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name)
        for case in CASES
        if case.kind.startswith("DICOM") and case.refused is None
        if "inverted" not in case.notices
    ],
)
def test_odd_files_equal_an_independent_reading(case, tmp_path):
    path = case.find(tmp_path)
    volume = read_volume(path, **case.options)
    try:
        images = read_images([path] if path.is_file() else filter(Path.is_file, path.rglob("*")))
    except RuntimeError:
        pytest.skip("pydicom has no decoder for it here")
    check_volume(volume, images)


# Files that are DICOM by content


def without_head(data: bytes) -> bytes:
    """Without preamble and meta header."""
    length = int.from_bytes(data[140:144], "little")
    return data[144 + length :]


def recoded(image: pydicom.Dataset, syntax: str, path: Path) -> Path:
    image.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        image.PixelData = np.frombuffer(image.PixelData, "<i2").astype(">i2").tobytes()
    return save(image, path)


@pytest.mark.parametrize(
    "syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
@pytest.mark.parametrize("wrapping", ["plain", "headless", "after a byte", "gzip", "no preamble"])
def test_dicom_is_found_by_content(tmp_path, syntax, wrapping):
    if syntax == DeflatedExplicitVRLittleEndian and wrapping in ("headless", "after a byte"):
        return  # nothing says that it is compressed
    if syntax == ImplicitVRLittleEndian and wrapping == "after a byte":
        return  # any bytes look like that
    series = small_series(3)
    for k in range(3):
        path = recoded(series.image(k), syntax or series.image(k).file_meta.TransferSyntaxUID,
                       tmp_path / f"{k}")  # fmt: skip
        data = path.read_bytes()
        path.write_bytes(
            {
                "plain": lambda data: data,
                "headless": without_head,
                "after a byte": lambda data: b" " + without_head(data),
                "gzip": gzip.compress,
                "no preamble": lambda data: data[132:],
            }[wrapping](data)
        )
        assert is_dicom(path)
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.voxels, series.stored)
    np.testing.assert_allclose(volume.ras_from_voxel, series.ras_from_voxel, atol=1e-8)


@pytest.mark.parametrize("written", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_the_meta_header_may_state_another_syntax(tmp_path, written):
    series = small_series(3)
    (stated,) = {ImplicitVRLittleEndian, ExplicitVRLittleEndian} - {written}
    for k in range(3):
        image, meta = (series.image(k) for _ in range(2))
        meta.file_meta.TransferSyntaxUID = stated
        body = without_head(recoded(image, written, tmp_path / f"{k}").read_bytes())
        head = recoded(meta, stated, tmp_path / f"{k}").read_bytes()
        head = head[: len(head) - len(without_head(head))]
        (tmp_path / f"{k}").write_bytes(head + body)
    np.testing.assert_array_equal(read(tmp_path).voxels, series.stored)


@pytest.mark.parametrize(
    "data", [b"", b"\x08", b"\x1f\x8b\x08", gzip.compress(b"text", mtime=0), bytes(999)]
)
def test_other_files_are_no_dicom(tmp_path, data):
    path = tmp_path / "file"
    path.write_bytes(data)
    assert not is_dicom(path)
    assert list_series(tmp_path) == []


def test_files_that_only_look_like_dicom_are_counted(tmp_path):
    for n in range(3):
        (tmp_path / f"{n}").write_bytes(bytes(128) + b"DICM" + bytes(n))
    error = refused(tmp_path)
    assert error.code == "dicom-no-image"
    assert "found 3 that look like DICOM" in error.message
    series = small_series(3)
    series.write(tmp_path)
    np.testing.assert_array_equal(read(tmp_path).voxels, series.stored)


def test_eight_bits_in_big_endian_words(tmp_path):
    series = small_series(2, "u1")
    for k in range(2):
        image = series.image(k)
        image.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        image["PixelData"].VR = "OW"
        image.PixelData = np.frombuffer(image.PixelData, "<u2").astype(">u2").tobytes()
        save(image, tmp_path / f"{k}")
    np.testing.assert_array_equal(read(tmp_path).voxels, series.stored)


@pytest.mark.parametrize(
    ("dtype", "stored", "high"), [("u2", 12, 11), ("i2", 12, 13), ("u2", 8, 9)]
)
def test_bits_beside_the_stored_ones_are_overlays(tmp_path, dtype, stored, high):
    series = small_series(2, dtype)
    low = high + 1 - stored
    span = 1 << stored
    values = series.stored.astype(int) % span - (span // 2 if dtype == "i2" else 0)
    random = np.random.RandomState(1).randint(0, 1 << 16, values.shape)
    mask = (span - 1) << low
    words = ((values << low) & mask) | (random & 0xFFFF & ~mask)
    packed = series.with_(stored=words.astype("u2").view(dtype))
    packed.write(tmp_path, BitsStored=stored, HighBit=high)
    np.testing.assert_array_equal(read(tmp_path).voxels, values)


# Broken and missing UIDs


def test_images_of_one_uid_are_told_apart_by_content(tmp_path):
    series = small_series(4)
    folder = series.write(tmp_path / "a", SOPInstanceUID="1.2.3")
    shutil.copytree(folder, tmp_path / "copies")
    (only,) = list_series(tmp_path)
    assert len(only.files) == 4
    np.testing.assert_array_equal(read(tmp_path).voxels, series.stored)


def test_series_without_uid_are_told_apart_by_folder_and_number(tmp_path):
    first, second = small_series(3), small_series(4, "u2")
    first.write(tmp_path / "a", SeriesInstanceUID=None)
    second.write(tmp_path / "b", SeriesInstanceUID=None, SeriesNumber=2)
    for number, series in (("1", first), ("2", second)):
        np.testing.assert_array_equal(read(tmp_path, number).voxels, series.stored)
    listed = list_series(tmp_path)
    assert [one.uid for one in list_series(tmp_path)] == [one.uid for one in listed]
    np.testing.assert_array_equal(read(tmp_path, listed[1].uid).voxels, second.stored)


# Which series is a scan


def other(folder: Path, modality: str, uid: str, **attributes) -> None:
    series = small_series(2, uid=uid, attributes={"SeriesNumber": 9, "Modality": modality})
    series.write(folder / uid, **attributes)


def test_one_scan_beside_what_is_none_needs_no_choice(tmp_path):
    scan = small_series(5)
    scan.write(tmp_path / "scan")
    for n, modality in enumerate(("SEG", "RTDOSE", "SR", "PR", "PT")):
        other(tmp_path, modality, f"1.2.{n}")
    other(tmp_path, "CT", "1.3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    other(tmp_path, "CT", "1.4", ImagePositionPatient=None)
    other(tmp_path, "CT", "1.5", SamplesPerPixel=3)
    other(tmp_path, "CT", "1.7")
    file = next((tmp_path / "1.7").iterdir())
    image = pydicom.dcmread(file)
    image.ImageOrientationPatient = list(CORONAL)
    save(image, file)
    np.testing.assert_array_equal(read(tmp_path).voxels, scan.stored)
    other(tmp_path, "MR", "1.6")
    error = refused(tmp_path)
    assert error.code == "series-ambiguous"
    for remark in (
        "segmentation", "localizer", "without positions", "color", "several orientations",
    ):  # fmt: skip
        assert f"2 images ({remark})" in error.message


def test_localizers_in_a_series_are_left_out(tmp_path):
    scan = small_series(5)
    scan.write(tmp_path)
    scout = small_series(1, orientation=CORONAL, dtype="u2")
    save(
        scout.image(0, SOPInstanceUID="1.2.3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        tmp_path / "scout",
    )
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.voxels, scan.stored)
    assert [code for code, _ in volume.notices] == ["localizer-left-out"]


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]}, "dicom-mosaic"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "dicom-localizer"),
        ({"BitsAllocated": 12}, "input-damaged"),
    ],
)
def test_images_that_are_no_slices(tmp_path, attributes, code):
    assert refused(small_series().write(tmp_path, **attributes)).code == code


def test_compression_without_a_decoder_is_named(tmp_path):
    for k in range(2):
        image = small_series(2).image(k)
        image.PixelData = pydicom.encaps.encapsulate([bytes(20)])
        image["PixelData"].VR = "OB"
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        save(image, tmp_path / f"{k}")
    error = refused(tmp_path)
    assert error.code == "dicom-compression"
    assert "High-Throughput JPEG 2000" in error.message


# Gaps


def with_gap(folder: Path, missing: tuple[int, ...], **settings) -> Series:
    series = small_series(16, **settings)
    series.write(folder)
    for k in missing:
        (folder / f"image {16 - k:03d}.dcm").unlink()
    return series


@pytest.mark.parametrize(
    ("missing", "settings", "words"),
    [
        ((3,), {}, "of 16 slices, a slice is missing near z = 37.5 mm."),
        ((3, 4, 8), {}, "2 slices are missing near z = 37.5 to 40.0 mm, a slice is missing near"),
        ((3,), {"step": (0.0, 0.0, -2.5)}, "z = 22.5 mm."),
        ((3,), {"orientation": CORONAL}, "y = -27.5 mm (RAS)"),
        ((3,), {"step": (0.0, 0.8, 2.5)}, "z = 37.5 mm (and the gantry is tilted by 17.7°)."),
    ],
)
def test_gaps_are_located_and_can_be_allowed(tmp_path, missing, settings, words):
    series = with_gap(tmp_path, missing, **settings)
    error = refused(tmp_path)
    assert (error.code, error.facts) == ("dicom-gap", {"missing": len(missing)})
    assert words in error.message
    volume = read(tmp_path, allow_gaps=True)
    assert [code for code, _ in volume.notices] == ["gaps-allowed"]
    upward = settings.get("step", (0, 0, 1))[2] > 0
    expected = series.stored if upward else series.stored[::-1]
    absent = [k if upward else 15 - k for k in missing]
    assert volume.outside[absent].all()
    there = np.setdiff1d(np.arange(16), absent)
    assert not volume.outside[there].any()
    np.testing.assert_array_equal(volume.voxels[there], expected[there])
    assert (volume.voxels[absent] == expected[there].min()).all()  # nothing is filled in
    check_volume(volume, read_images(tmp_path.iterdir()))


def test_many_gaps_are_uneven_slices(tmp_path):
    with_gap(tmp_path, (1, 2, 4, 5, 7, 8, 10, 11))
    error = refused(tmp_path, allow_gaps=True)
    assert (error.code, error.facts) == ("dicom-gap", {})
    assert "their distances are 4 × 7.50 mm, 3 × 2.50 mm." in error.message


def test_two_distances_are_named(tmp_path):
    series = small_series(9)
    for k in range(9):
        z = 4 * k if k < 5 else 16 + 7 * (k - 4)
        save(series.image(k, ImagePositionPatient=[0, 0, z]), tmp_path / f"{k}")
    error = refused(tmp_path, allow_gaps=True)
    assert "4 × 4.00 mm, 4 × 7.00 mm" in error.message


def test_slices_beside_the_line_of_the_others(tmp_path):
    series = small_series(9)
    for k in range(9):
        place = [0, 3 if k > 4 else 0, 2.5 * k]
        save(series.image(k, ImagePositionPatient=place), tmp_path / f"{k}")
    error = refused(tmp_path)
    assert error.code == "dicom-gap"
    assert "along one straight line; they lie up to 1.50 mm beside it" in error.message


def test_positions_off_the_grid_are_told(tmp_path):
    series = small_series(9)
    for k in range(9):
        z = 2.5 * k + (0.2 if k == 4 else 0)
        save(series.image(k, ImagePositionPatient=[0, 0, z]), tmp_path / f"{k}")
    ((code, text),) = read(tmp_path).notices
    assert code == "slices-uneven"
    assert "0.20 mm off" in text


# What Slicer has loaded


def test_positions_of_loaded_files_are_checked(tmp_path):
    series = small_series(6, step=(0.0, 0.8, 2.5))
    folder = series.write(tmp_path / "a")
    placed = check_positions(sorted(folder.iterdir())[::-1])
    np.testing.assert_allclose(placed.ras_from_voxel, series.ras_from_voxel, atol=1e-8)
    assert placed.depth == 6
    assert placed.tilt_degrees == pytest.approx(np.degrees(np.arctan2(0.8, 2.5)))
    sorted(folder.iterdir())[2].unlink()
    with pytest.raises(InputError) as caught:
        check_positions(folder.iterdir())
    assert caught.value.code == "dicom-gap"
    with pytest.raises(InputError) as caught:
        check_positions([])
    assert caught.value.code == "input-empty"


# Values


def test_inverted_mr_is_read_upright(tmp_path):
    series = small_series(3, "u2")
    folder = series.write(tmp_path / "mr", Modality="MR", PhotometricInterpretation="MONOCHROME1")
    volume = read(folder)
    np.testing.assert_array_equal(volume.voxels, series.stored.max() - series.stored.astype(int))
    assert [code for code, _ in volume.notices] == ["inverted"]
    folder = series.write(tmp_path / "ct", PhotometricInterpretation="MONOCHROME1")
    volume = read(folder)
    np.testing.assert_array_equal(volume.voxels, series.stored)  # Hounsfield units
    assert volume.notices == ()


@pytest.mark.parametrize(
    ("dtype", "padding", "limit"), [("i2", -2000, None), ("i2", 63536, None), ("u2", 5, 90)]
)
@pytest.mark.parametrize("implicit", [False, True])
def test_padding_is_outside(tmp_path, dtype, padding, limit, implicit):
    series = small_series(3, dtype)
    stored = series.stored.copy()
    first = -2000 if padding == 63536 else padding
    stored[:, :2] = first
    if limit is not None:
        stored[:, 2] = limit
    expected = (stored >= first) & (stored <= (first if limit is None else limit))
    padded = series.with_(stored=stored)
    for k in range(3):
        image = padded.image(k)
        vr = "SS" if padding < 0 else "US"
        image.add_new("PixelPaddingValue", vr, padding)
        if limit is not None:
            image.add_new("PixelPaddingRangeLimit", vr, limit)
        image.RescaleSlope, image.RescaleIntercept = "2", "-100"
        syntax = ImplicitVRLittleEndian if implicit else image.file_meta.TransferSyntaxUID
        recoded(image, syntax, tmp_path / f"{k}")
    volume = read(tmp_path)
    np.testing.assert_array_equal(volume.outside, expected)
    np.testing.assert_array_equal(volume.voxels, stored * 2.0 - 100)


def test_padding_that_does_not_occur_costs_nothing(tmp_path):
    folder = small_series(3, attributes={"PixelPaddingValue": 2999}).write(tmp_path)
    assert read(folder).outside is None


def test_directory_of_a_disc_is_no_series(tmp_path):
    directory = small_series(1).image(0)
    for name in ("Modality", "Rows", "Columns", "PixelData", "SeriesInstanceUID"):
        delattr(directory, name)
    directory.DirectoryRecordSequence = item(DirectoryRecordType="PATIENT")
    path = save(directory, tmp_path / "DICOMDIR")
    assert list_series(tmp_path) == []
    with pytest.raises(InputError, match="found the directory of a disc") as caught:
        read_volume(path)
    assert caught.value.code == "input-empty"


# Damaged headers


def headers(folder: Path) -> list[bytes]:
    """Files to be damaged: one slice, without a head, compressed, multi-frame."""
    image = small_series(1).image(0, SliceThickness=2, PixelPaddingValue=3)
    plain = save(image, folder / "plain").read_bytes()
    with warnings.catch_warnings(action="ignore"):
        image.compress(RLELossless, generate_instance_uid=False)
    compressed = save(image, folder / "compressed").read_bytes()
    odd_examples.make("multi_frame_echoes", folder)
    return [plain, without_head(plain), compressed, (folder / "multi_frame_echoes").read_bytes()]


LIKELY_BYTES = np.frombuffer(b"0123 -.\\n\xff\x00\x01\x10", "u1")


def damaged(data: bytes, random: np.random.RandomState) -> bytes:
    """The data with some bytes replaced, inserted or removed, some cut or packed."""
    changed = bytearray(data)
    for at in random.randint(0, len(data), random.randint(1, 5)):
        kind = random.rand()
        if kind < 0.2:
            del changed[at : at + random.randint(1, 6)]
        elif kind < 0.3:
            changed[at:at] = random.bytes(random.randint(1, 5))
        else:
            changed[at : at + 1] = random.choice(LIKELY_BYTES).tobytes()
    if random.rand() < 0.05:
        del changed[random.randint(len(changed)) :]
    return gzip.compress(bytes(changed)) if random.rand() < 0.05 else bytes(changed)


@pytest.mark.parametrize(
    "count", [200, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def test_damaged_headers_end_as_a_volume_or_an_input_error(tmp_path, capfd, caplog, count):
    caplog.set_level("CRITICAL", logger="pydicom")
    whole = headers(tmp_path)
    random = np.random.RandomState(count)
    path, outcomes = tmp_path / "damaged", set()
    for number in range(count):
        path.write_bytes(damaged(whole[number % len(whole)], random))
        begun = time.monotonic()
        try:
            (series,) = list_series([path]) or [None]
            if series is not None:
                check_scan(read_series(series, volume=1 + random.randint(2), allow_gaps=True))
                outcomes.add("read")
        except InputError as error:
            outcomes.add(error.code)
        assert time.monotonic() - begun < 20
    assert outcomes >= {"read", "input-damaged", "dicom-no-image", "dicom-geometry"}
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("left", [0, 100])
@pytest.mark.parametrize("suffix", ["", ".dcm"])
def test_empty_files_among_images_are_told(tmp_path, left, suffix):
    """Every other of 24 slices: twelve of twice the distance are left, which is told."""
    for k in range(24):
        image = save(small_series(24).image(k), tmp_path / f"{k}{suffix}")
        if k % 2:
            image.write_bytes(image.read_bytes()[:left])
    (tmp_path / "notes.txt").touch()
    volume = read_volume(tmp_path)
    assert volume.spacing_mm[2] == pytest.approx(5.0)
    assert "damaged or empty: 12" in dict(volume.notices)["files-unread"]


def test_a_codestream_of_another_size_is_not_decoded(tmp_path):
    """JPEG 2000 of 2³¹ × 2³¹ pixels in an image of 6 × 8."""
    image = small_series(1).image(0, SliceThickness="2")
    size = b"".join(one.to_bytes(4) for one in (1 << 31, 1 << 31, 0, 0))
    image.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51\0\x2f\0\0" + size + bytes(40)])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    with pytest.raises(InputError, match="cannot be decoded"):
        read_volume(save(image, tmp_path / "a"))
