"""No value of a patient is written or printed, by the command line and the worker, with good and
bad scans; every byte is searched. What a user exports on request (`--dicom`) is not part of it."""

import gzip
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from engine.dicom_examples import Series
from PIL import Image
from service.small_site import SHAPE_KJI, SPACING_MM, TRAIN_OPTIONS, run
from service.worker_process import WorkerProcess
from SpatialARAnomalyLib.service.demo.phantom import normal_head

pytestmark = pytest.mark.slow

MARK = "Zq7Mark"
"""Begins every value of the marked patients."""
PLACE = "Wx3Place"
"""Is in the names of the folders that the scans lie in."""

VALUES = {
    "PatientName": f"{MARK}^Anna",
    "PatientID": f"{MARK}-id",
    "PatientBirthDate": f"{MARK}a",  # no date: pydicom warns, and must not quote it
    "PatientAddress": f"{MARK} street",
    "OtherPatientNames": f"{MARK}^Other",
    "PatientComments": f"{MARK} comment",
    "AccessionNumber": f"{MARK}9",
    "InstitutionName": f"{MARK} clinic",
    "ReferringPhysicianName": f"{MARK}^Doctor",
    "OperatorsName": f"{MARK}^Operator",
    "StudyDescription": f"{MARK} study",
    "StudyID": f"{MARK}1",
    "StationName": f"{MARK}2",
    "ImageComments": f"{MARK} image",
}


def write_patient(folder: Path, number: int, **attributes: object) -> Path:
    head = normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    series = Series(
        stored=np.round(head.voxels * 1000 / head.voxels.max()).astype("u2"),
        step=(0.0, 0.0, SPACING_MM[2]),
        pixel_spacing=SPACING_MM[:2],
        uid=f"1.2.826.0.1.3680043.8.498.{number + 1}",
        attributes={"Modality": "MR"},
    )
    series.write(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pydicom.config.settings, "writing_validation_mode", 0)
        patch.setattr(pydicom.config.settings, "reading_validation_mode", 0)
        for file in folder.iterdir():
            image = pydicom.dcmread(file)
            for name, value in {**VALUES, **attributes}.items():
                setattr(image, name, value)
            image.PatientID = f"{MARK}-id{number}"
            image.private_block(0x0011, f"{MARK} maker", create=True).add_new(1, "LO", MARK)
            image.save_as(file)
    return folder


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Marked patients; all that the program may write is below `tmp_path`."""
    for variable, place in (
        ("HOME", "home"), ("TMPDIR", "tmp"), ("SPATIAL_AR_ANOMALY_HOME", "settings"),
        ("HF_HOME", "hub"), ("MPLCONFIGDIR", "matplotlib"),
    ):  # fmt: skip
        (tmp_path / place).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / place))
    folder = tmp_path / "archive"
    for number in range(4):
        write_patient(folder / f"{PLACE} {number}", number)
    assert all(MARK.encode() in file.read_bytes() for file in folder.rglob("*.dcm"))
    return folder


def write_bad_scans(folder: Path) -> list[Path]:
    """Marked scans that cannot be used, each for another reason."""
    gap = write_patient(folder / f"{PLACE} gap", 5)
    sorted(gap.iterdir())[2].unlink()
    cut = write_patient(folder / f"{PLACE} cut", 6)
    for file in sorted(cut.iterdir())[1:3]:
        file.write_bytes(file.read_bytes()[:-900])
    odd = write_patient(folder / f"{PLACE} odd", 7)
    for file in odd.iterdir():  # a position that is none
        content = file.read_bytes()
        found = re.search(rb"\x20\x00\x32\x00DS..", content, re.DOTALL)
        assert found is not None
        size = int.from_bytes(found[0][-2:], "little")
        value = f"{MARK}\\{MARK}\\{MARK}".encode()[:size].ljust(size)
        file.write_bytes(content[: found.end()] + value + content[found.end() + size :])
    other = write_patient(folder / f"{PLACE} other", 8, Modality="US")
    return [gap, cut, odd, other]


def contents(path: Path) -> bytes:
    """What a file holds, also where it is compressed."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content += gzip.decompress(content)
    if path.suffix == ".png":
        with Image.open(path) as picture:
            content += repr(picture.info).encode()
    return content


def check_written(folder: Path, archive: Path, in_work: str = "") -> None:
    """No file outside of the archive holds a mark, or a place (but for trainings in progress)."""
    for path in folder.rglob("*"):
        if path.is_file() and archive not in path.parents:
            content = contents(path)
            assert MARK.encode() not in content, path
            if not in_work or in_work not in str(path):
                assert PLACE.encode() not in content, path
        assert MARK not in path.name


def test_the_command_line_tells_nothing_of_a_patient(archive, tmp_path):
    said = []

    def do(*arguments: object, code: int = 0):
        done = run(*arguments)
        assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
        said.append(done.stdout + done.stderr)

    scans = sorted(archive.iterdir())
    model, out = tmp_path / "models" / "brain", tmp_path / "out"
    do("normals", archive, "--size-px", "112", "--epochs", "2")
    do("train", *scans[:3], "--out", model, *TRAIN_OPTIONS)
    do("detect", scans[3], "--model", model, "--out", out, "--name", "case", "--report")
    do("detect", scans[3], "--model", model, "--out", out, "--name", "case", "--report",
       "--overwrite", "--json")  # fmt: skip
    bad = write_bad_scans(tmp_path / "bad")
    for number, scan in enumerate(bad):
        for last in ([], ["--json"]):
            do("detect", scan, "--model", model, "--out", tmp_path / f"out {number}", *last, code=2)
    do("normals", tmp_path / "bad", "--size-px", "112", code=0)
    do("train", *bad, "--out", tmp_path / "models" / "none", *TRAIN_OPTIONS, code=2)
    do("detect", archive, "--model", model, "--out", tmp_path / "batch", code=0)
    for text in said:
        assert MARK not in text
    check_written(tmp_path / "out", archive)
    check_written(tmp_path / "models", archive)
    for place in ("home", "tmp", "settings", "hub", "matplotlib"):
        check_written(tmp_path / place, archive)


def test_the_worker_tells_nothing_of_a_patient(archive, tmp_path):
    scans = sorted(archive.iterdir())
    spec = {"size_px": 112, "epochs": 2, "batch_size": 8, "device": "cpu"}
    model = tmp_path / "models" / "brain"
    head = normal_head(3, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    np.save(tmp_path / "voxels.npy", head.voxels)
    inputs = {
        "voxels": str(tmp_path / "voxels.npy"),
        "ras_from_voxel": head.ras_from_voxel.tolist(),
        "modality": "MR",
        "model": str(model),
    }
    with WorkerProcess(tmp_path / "desk") as worker:
        worker.result("survey", {"folders": [str(archive)]}, spec)
        normals = [{"path": str(scan)} for scan in scans[:3]]
        worker.result("train", {"normals": normals}, spec, model)
        files = [str(file) for file in sorted(scans[3].iterdir())]
        worker.ask("detect", inputs | {"dicom_files": files}, {"device": "cpu"}, tmp_path / "1")
        for number, scan in enumerate(write_bad_scans(tmp_path / "bad")):
            files = [str(file) for file in scan.iterdir()]
            worker.ask("detect", inputs | {"dicom_files": files}, {}, tmp_path / f"2{number}")
            worker.failure(
                "train", {"normals": [{"path": str(scan)}, *normals]}, spec, tmp_path / "n"
            )
        # An error that nobody foresaw has a traceback in the log.
        worker.failure("detect", inputs | {"model": f"/{PLACE}/{MARK}.safetensors\0"}, {}, tmp_path)
        lines = list(worker.lines)
    assert MARK.encode() not in b"".join(lines[:-1])
    assert MARK not in worker.log
    assert PLACE not in worker.log
    check_written(tmp_path / "models", archive)
    for place in ("1", "home", "tmp", "settings", "hub", "desk"):
        check_written(tmp_path / place, archive)
