"""Odd DICOM folders and files, written as scanners, archives and anonymizers write them."""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from engine.dicom_examples import AXIAL, Series, item, multi_frame, save, small_series
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
ECHOES = [{"MREchoSequence": {"EffectiveEchoTime": te}} for te in (4.6, 9.2)]


def mr(slices: int = 9, **settings: Any) -> Series:
    """A series of an MR."""
    return small_series(slices, "u2", **settings).with_(attributes={"Modality": "MR"})


def echoes() -> list[Series]:
    return [mr(4), mr(4).with_(stored=mr(4).stored[::-1])]


def written(**attributes: Any) -> Callable[[Path], object]:
    """The maker of a series with these attributes in every image."""
    return lambda path: mr().write(path, **attributes)


def without(*slices: int, **settings: Any) -> Callable[[Path], object]:
    """The maker of a series that lacks slices."""

    def make(path: Path) -> None:
        mr(12, **settings).write(path)
        for k in slices:
            (path / f"image {12 - k:03d}.dcm").unlink()

    return make


def changed(change: Callable[[bytes], bytes], suffix: str = "") -> Callable[[Path], object]:
    """The maker of a series whose files' bytes are changed."""

    def make(path: Path) -> None:
        mr().write(path)
        for file in list(path.iterdir()):
            (path / (file.stem + suffix)).write_bytes(change(file.read_bytes()))
            file.unlink()

    return make


def without_head(data: bytes) -> bytes:
    """Without preamble and meta header."""
    return data[144 + int.from_bytes(data[140:144], "little") :]


def in_syntax(syntax: str) -> Callable[[Path], object]:
    """The maker of a series in an uncompressed transfer syntax."""

    def make(path: Path) -> None:
        path.mkdir()
        for k in range(9):
            image = mr().image(k)
            image.file_meta.TransferSyntaxUID = syntax
            if syntax == ExplicitVRBigEndian:
                image.PixelData = np.frombuffer(image.PixelData, "<u2").byteswap().tobytes()
            save(image, path / str(k))

    return make


def compressed_unknown(path: Path) -> None:
    path.mkdir()
    for k in range(9):
        image = mr().image(k)
        image.PixelData = pydicom.encaps.encapsulate([bytes(20)])
        image["PixelData"].VR = "OB"
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
        save(image, path / str(k))


def study(path: Path) -> None:
    """A scan beside a localizer, a report, a segmentation, a dose and a screenshot."""
    mr().write(path / "scan")
    for number, modality in enumerate(("SR", "SEG", "RTDOSE", "PT")):
        small_series(2, uid=f"1.2.{number}").write(path / modality, Modality=modality)
    other = small_series(2, uid="1.2.7")
    other.write(path / "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    small_series(2, uid="1.2.8").write(path / "screen", ImagePositionPatient=None)


def one_series_uid(path: Path) -> None:
    """A study whose anonymizer gave all series one UID."""
    mr().write(path / "scan")
    for modality in ("PT", "SEG", "SR"):
        mr().write(path / modality, Modality=modality, SeriesNumber=2, SOPInstanceUID="1.2.3")


def beside_a_survey(path: Path) -> None:
    """A scan beside a multi-frame object of two orientations, which is not called a localizer."""
    mr().write(path / "scan")
    planes = [
        {"PlaneOrientationSequence": {"ImageOrientationPatient": list(one)}}
        for one in (AXIAL, CORONAL)
    ]
    save(multi_frame(echoes(), planes, {}, SeriesInstanceUID="1.2.7"), path / "survey")


def damaged_file(path: Path) -> None:
    """The last image is cut off within its header."""
    mr().write(path)
    last = path / "image 001.dcm"
    last.write_bytes(last.read_bytes()[:300])


def in_subfolder(path: Path) -> None:
    (path / "patient").mkdir(parents=True)
    nib.save(nib.Nifti1Image(mr().stored.astype(np.int16), np.eye(4)), path / "patient/scan.nii")


def two_scans(path: Path) -> None:
    mr().write(path / "a")
    small_series(4, "u1", uid="1.2.5").write(path / "b", SeriesNumber=2)


def equal_uids(path: Path) -> None:
    mr().write(path / "images", SOPInstanceUID="1.2.3")
    shutil.copytree(path / "images", path / "copies")


def two_echoes(path: Path) -> None:
    path.mkdir()
    for n, series in enumerate(echoes()):
        for k in range(4):
            image = series.image(k, SOPInstanceUID=f"1.2.{n}.{k}", EchoTime=str(5 * (n + 1)))
            save(image, path / f"{n}{k}")


def multi_frame_file(path: Path) -> None:
    save(multi_frame(echoes()[:1], [{}], {}), path)


def multi_frame_echoes(path: Path) -> None:
    save(multi_frame(echoes(), ECHOES, {}), path)


def multi_frame_files(path: Path) -> None:
    path.mkdir()
    for n, series in enumerate(echoes()):
        image = multi_frame([series], [ECHOES[n]], {}, SOPInstanceUID=f"1.2.3.{n}")
        save(image, path / str(n))


def multi_frame_unplaced(path: Path) -> None:
    image = multi_frame(echoes()[:1], [{}], {})
    del image.PerFrameFunctionalGroupsSequence
    save(image, path)


def uneven(path: Path) -> None:
    path.mkdir()
    for k in range(9):
        place = 4 * k if k < 5 else 16 + 7 * (k - 4)
        save(mr().image(k, ImagePositionPatient=[0, 0, place]), path / str(k))


def beside_a_volume_file(path: Path) -> None:
    mr().write(path)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path / "scan.nii")


def look_alikes(path: Path) -> None:
    path.mkdir()
    for n in range(28):
        (path / str(n)).write_bytes(bytes(128) + b"DICM" + bytes(n))


def other_kinds(path: Path) -> None:
    path.mkdir()
    for n in range(2):
        (path / f"{n}.mnc").write_bytes(b"CDF\1")
    (path / "scan.mgz").write_bytes(gzip.compress(bytes(300)))
    (path / "notes.txt").write_text("none")


def padded(path: Path) -> None:
    series = mr()
    stored = series.stored.copy()
    stored[:, :2] = 3001
    path.mkdir()
    for k in range(9):
        image = series.with_(stored=stored).image(k)
        image.add_new("PixelPaddingValue", "US", 3001)
        save(image, path / str(k))


def multi_frame_stacks(path: Path) -> None:
    """Two slabs of one orientation, 30 mm apart."""
    first = mr(4)
    second = first.with_(origin=(-10.0, 20.0, 70.0), stored=first.stored[::-1])
    stacks = [{"FrameContentSequence": {"StackID": name}} for name in ("1", "2")]
    save(multi_frame([first, second], stacks, {}), path)


def moved_echoes(*moves_mm: float, digits: int = 10) -> Callable[[Path], object]:
    """The maker of echoes of which each is moved along the slices' normal, and rounded."""

    def make(path: Path) -> None:
        path.mkdir()
        for n, mm in enumerate(moves_mm):
            series = mr(4, origin=(-10.0, 20.0, 30.123456 + mm), step=(0.0, 0.0, 2.4987))
            for k in range(4):
                image = series.image(k, SOPInstanceUID=f"1.2.{n}.{k}", EchoTime=str(5 * (n + 1)))
                places = (round(float(one), digits) for one in image.ImagePositionPatient)
                image.ImagePositionPatient = [f"{one:.10g}" for one in places]
                save(image, path / f"{n}{k}")

    return make


def echoes_rounded(path: Path) -> None:
    """The first is as the others, the second 0.02 mm beside them, the third rounded to 0.01 mm."""
    moved_echoes(0.0, 0.02)(path)
    moved_echoes(0.0, 0.0, 0.0, digits=2)(path / "rounded")
    for file in (path / "rounded").iterdir():
        if file.name.startswith("2"):
            file.rename(path / file.name)
        else:
            file.unlink()
    (path / "rounded").rmdir()


def floating(stored: bool) -> Callable[[Path], object]:
    """The maker of a series of which values are integers, or the same in floating point."""

    def make(path: Path) -> None:
        path.mkdir()
        for k in range(9):
            image = mr().image(k)
            if not stored:
                image.FloatPixelData = mr().stored[k].astype("<f4").tobytes()
                image.BitsAllocated = 32
                del image.PixelData, image.BitsStored, image.HighBit, image.PixelRepresentation
            save(image, path / str(k))

    return make


def with_table(path: Path) -> None:
    path.mkdir()
    for k in range(9):
        image = mr().image(k)
        image.ModalityLUTSequence = item(LUTExplanation="to HU")
        save(image, path / str(k))


LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

DICOM: dict[str, Callable[[Path], object]] = {
    "dicom_study": study,
    "dicom_one_series_uid": one_series_uid,
    "dicom_beside_survey": beside_a_survey,
    "dicom_damaged_file": damaged_file,
    "dicom_named_nii": changed(bytes, ".nii"),
    "in_subfolder": in_subfolder,
    "dicom_two_scans": two_scans,
    "dicom_beside_nifti": beside_a_volume_file,
    "dicom_look_alikes": look_alikes,
    "other_kinds": other_kinds,
    "dicom_no_series_uid": written(SeriesInstanceUID=None),
    "dicom_equal_sop_uids": equal_uids,
    "dicom_headless": changed(without_head),
    "dicom_gzip": changed(gzip.compress, ".gz"),
    "dicom_big_endian": in_syntax(ExplicitVRBigEndian),
    "dicom_deflated": in_syntax(DeflatedExplicitVRLittleEndian),
    "dicom_htj2k": compressed_unknown,
    "dicom_truncated": changed(lambda data: data[:-20]),
    "dicom_color": written(SamplesPerPixel=3, PhotometricInterpretation="RGB"),
    "dicom_pet": written(Modality="PT"),
    "dicom_localizer_ct": written(Modality="CT", ImageType=LOCALIZER),
    "dicom_unplaced": written(ImagePositionPatient=None),
    "dicom_monochrome1": written(PhotometricInterpretation="MONOCHROME1"),
    "dicom_padded": padded,
    "dicom_echoes": two_echoes,
    "dicom_echoes_rounded": echoes_rounded,
    "dicom_echoes_moved": moved_echoes(0.0, 0.2),
    "dicom_float": floating(stored=False),
    "dicom_float_stored": floating(stored=True),
    "dicom_lut": with_table,
    "dicom_gap": without(4),
    "dicom_gap_tilted": without(4, step=(0.0, 0.8, 2.5)),
    "dicom_uneven": uneven,
    "multi_frame": multi_frame_file,
    "multi_frame_echoes": multi_frame_echoes,
    "multi_frame_stacks": multi_frame_stacks,
    "multi_frame_files": multi_frame_files,
    "multi_frame_unplaced": multi_frame_unplaced,
}
