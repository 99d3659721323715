"""A survey of normal scans: each bad one is excluded with a reason, and none stops it."""

import json
import os
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pydicom.data
import pytest
from engine.dicom_examples import Series
from service.small_site import SHAPE_KJI, SPACING_MM, run
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import Cancelled, SpecError
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import Modality, Orientation
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file, write_nifti, write_nrrd
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.training import candidates as scan_candidates
from SpatialARAnomalyLib.service.training import estimate as training_estimate
from SpatialARAnomalyLib.service.training import patients as scan_patients
from SpatialARAnomalyLib.service.training import survey as scan_survey
from SpatialARAnomalyLib.service.training.candidates import ScanReader, find_candidates
from SpatialARAnomalyLib.service.training.request import SurveyResult, TrainSpec
from SpatialARAnomalyLib.service.training.survey import (
    SurveyInputs,
    read_candidates,
    select_usable,
    survey,
)
from SpatialARAnomalyLib.service.training.train import train

DICOM_FILES = Path(pydicom.data.__file__).parent / "test_files"

BAD = {
    "b/truncated.nii.gz": "unreadable",
    "b/text.nii.gz": "unreadable",
    "b/labels.nii.gz": "unreadable",
    "c/copy of head 0.nrrd": "duplicate",
    "c/ct.nii.gz": "other-modality",
    "c/coarse.nii.gz": "other-spacing",
    "c/one slice.nii.gz": "too-small",
    "c/tiny.nii.gz": "too-small",
}
GOOD = [f"a/head {number}.nii.gz" for number in range(4)] + ["DICOM"]


def small_head(seed, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM):
    return normal_head(seed, shape_kji=shape_kji, spacing_mm=spacing_mm)


def ct_head(seed):
    """The head in Hounsfield units of a CT: air at −1000."""
    head = small_head(seed)
    voxels = np.where(head.voxels > 100, head.voxels // 10, -1000).astype(np.int16)
    return Volume(voxels, head.ras_from_voxel)


def dicom_head(seed, uid="1.2.3", **attributes):
    head = small_head(seed)
    return Series(
        stored=head.voxels.astype("i2"),
        origin=(-115.0, -115.0, -50.0),
        step=(0.0, 0.0, SPACING_MM[2]),
        pixel_spacing=SPACING_MM[:2],
        uid=uid,
        attributes={"Modality": "MR"} | attributes,
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Heads among the other files of an archive."""
    folder = tmp_path_factory.mktemp("archive")
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
    for number in range(4):
        write_nifti(folder / "a" / f"head {number}.nii.gz", small_head(number))
    dicom_head(5).write(folder / "DICOM")
    (folder / "DICOM" / "DICOMDIR").write_bytes(b"\0" * 200)
    (folder / "readme.txt").write_text("not a scan")
    (folder / "a" / "._head 0.nii.gz").write_bytes(b"of a Mac")

    whole = (folder / "a" / "head 1.nii.gz").read_bytes()
    (folder / "b" / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "b" / "text.nii.gz").write_text("a text")
    head = small_head(6)
    labels = Volume((head.voxels > 100).astype(np.int16), head.ras_from_voxel)
    write_nifti(folder / "b" / "labels.nii.gz", labels)
    first = read_volume_file(folder / "a" / "head 0.nii.gz")
    write_nrrd(folder / "c" / "copy of head 0.nrrd", first.voxels, first.ras_from_voxel)
    write_nifti(folder / "c" / "ct.nii.gz", ct_head(7))
    coarse = small_head(8, (6, 20, 20), (24.0, 24.0, 20.0))
    write_nifti(folder / "c" / "coarse.nii.gz", coarse)
    one = small_head(9)
    write_nifti(folder / "c" / "one slice.nii.gz", Volume(one.voxels[3:4], one.ras_from_voxel))
    tiny = small_head(10)
    cut = Volume(tiny.voxels[:, 20:24, 20:24].copy(), tiny.ras_from_voxel)
    write_nifti(folder / "c" / "tiny.nii.gz", cut)
    return folder


class Found:
    """The candidates of a survey, and the usable scans."""

    def __init__(self, candidates, survey) -> None:
        self.candidates, self.survey = candidates, survey
        self.used, self.modality, self.fov_mm = survey.used, survey.modality, survey.fov_mm
        self.rows = [one.row(survey.modality) for one in candidates]


def survey_of(*paths, **settings):
    spec = TrainSpec(**{"size_px": 112} | settings)
    candidates = find_candidates(paths, [], SilentReporter())
    read_candidates(candidates, ScanReader.of(spec), SilentReporter())
    return Found(candidates, select_usable(candidates, spec))


def codes(found) -> dict:
    return {row.name: row.code for row in found.rows}


@pytest.fixture(scope="module")
def found(archive):
    return survey_of(archive)


def test_every_bad_scan_is_excluded_with_its_reason(found):
    assert codes(found) == BAD | dict.fromkeys(GOOD)
    reasons = {row.name: row.reason for row in found.rows if row.code}
    assert all(reasons.values())
    for name, words in {
        "b/truncated.nii.gz": "truncated",
        "b/labels.nii.gz": "label map",
        "c/copy of head 0.nrrd": "the same content as a/head 0.nii.gz",
        "c/ct.nii.gz": "looks like CT; the others are MR",
        "c/coarse.nii.gz": "Pixels are 24 mm apart; most scans have 4.8 mm",
        "c/one slice.nii.gz": "Only 1 of its slices",
        "c/tiny.nii.gz": "wider than 2 tokens",
    }.items():
        assert words in reasons[name]
    assert found.modality is Modality.MR


def test_rows_describe_the_scans(found):
    rows = {row.name: row.to_dict() for row in found.rows}
    assert rows["DICOM"] | {"source": None} == {
        "name": "DICOM",
        "source": None,
        "kind": "DICOM",
        "modality": "MR",
        "shape_kji": list(SHAPE_KJI),
        "spacing_mm": pytest.approx(list(SPACING_MM)),
        "slices": 6,
        "notes": [],
        "status": "used",
        "code": None,
        "reason": None,
    }
    assert rows["c/ct.nii.gz"]["modality"] == "CT"
    bad = rows["b/text.nii.gz"]
    assert (bad["status"], bad["shape_kji"], bad["slices"]) == ("excluded", None, None)
    assert [rows[name]["kind"] for name in ("a/head 0.nii.gz", "c/copy of head 0.nrrd")] == [
        "NIfTI", "NRRD",
    ]  # fmt: skip
    json.dumps(list(rows.values()), allow_nan=False)


def test_sources_of_rows_are_the_scans(found):
    for candidate, row in zip(found.candidates, found.rows, strict=True):
        if row.used:
            _, volume = ScanSource.from_dict(row.source).read()
            assert volume.content_sha256() == candidate.scan.sha256


def test_the_used_scans_can_be_trained_on(found, tmp_path):
    spec = TrainSpec(size_px=112, hidden_channels=16, epochs=1, device=Device.CPU)
    card = train([one.source for one in found.used], tmp_path / "m", spec, SilentReporter())
    hashes = card.normals.training_sha256 + card.normals.held_out_sha256
    assert sorted(hashes) == sorted(scan.sha256 for scan in found.used)
    assert card.slices.fov_mm == found.fov_mm


def test_the_majority_decides_and_the_user_above_it(tmp_path):
    for number in range(2):
        write_nifti(tmp_path / f"mr{number}.nii.gz", small_head(number))
    for number in range(3):
        write_nifti(tmp_path / f"ct{number}.nii.gz", ct_head(number))
    excluded = {name for name, code in codes(survey_of(tmp_path)).items() if code}
    assert excluded == {"mr0.nii.gz", "mr1.nii.gz"}
    # The user's modality counts where most scans look otherwise: phase images look like CT.
    asked = survey_of(tmp_path, modality=Modality.MR)
    assert asked.modality is Modality.MR
    assert set(codes(asked).values()) == {None}
    (tmp_path / "ct2.nii.gz").unlink()
    (tmp_path / "ct1.nii.gz").unlink()
    excluded = {
        name for name, code in codes(survey_of(tmp_path, modality=Modality.MR)).items() if code
    }
    assert excluded == {"ct0.nii.gz"}


def test_a_header_that_names_another_modality_counts_in_any_case(tmp_path):
    for number in range(2):
        write_nifti(tmp_path / f"mr{number}.nii.gz", small_head(number))
    dicom_head(3, Modality="CT").write(tmp_path / "ct")
    dicom_head(4, Modality="PT").write(tmp_path / "pet")
    found = survey_of(tmp_path, modality=Modality.MR)
    assert codes(found) == {
        "mr0.nii.gz": None, "mr1.nii.gz": None, "ct": "other-modality", "pet": "other-modality",
    }  # fmt: skip


def test_spacing_is_judged_in_the_plane(tmp_path):
    for number in range(3):
        write_nifti(tmp_path / f"usual{number}.nii.gz", small_head(number))
    write_nifti(tmp_path / "thick.nii.gz", small_head(4, (4, 48, 48), (4.8, 4.8, 45.0)))
    write_nifti(tmp_path / "thin.nii.gz", small_head(5, (14, 48, 48), (4.8, 4.8, 9.0)))
    write_nifti(tmp_path / "within.nii.gz", small_head(6, (6, 30, 30), (7.7, 7.7, 20.0)))
    expected = {"thick.nii.gz", "thin.nii.gz"}
    assert {name for name, code in codes(survey_of(tmp_path)).items() if code} == expected


@pytest.mark.parametrize("scale", [1e-3, 0.1, 10.0, 1e3])
def test_a_scan_in_a_wrong_unit_is_the_one_that_is_excluded(tmp_path, scale):
    """Also where it is the first of two, and no majority tells which one is wrong."""
    head = small_head(1)
    in_unit = head.ras_from_voxel.copy()
    in_unit[:3] *= scale
    write_nifti(tmp_path / "a.nii.gz", Volume(head.voxels, in_unit))
    write_nifti(tmp_path / "b.nii.gz", small_head(2))
    found = survey_of(tmp_path)
    assert codes(found)["b.nii.gz"] is None
    assert codes(found)["a.nii.gz"] in ("unreadable", "other-spacing", "too-small")
    assert "e+" not in found.rows[0].reason


def test_scans_that_do_not_state_their_orientation_are_excluded(tmp_path):
    for number in range(2):
        write_nifti(tmp_path / f"stated {number}.nii.gz", small_head(number))
    head = small_head(2)
    image = nib.Nifti1Image(head.voxels.T, head.ras_from_voxel, dtype=head.voxels.dtype)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "unstated.nii.gz")
    found = survey_of(tmp_path)
    assert list(codes(found).values()) == [None, None, "no-orientation"]
    assert "left and right may be exchanged" in found.rows[2].reason
    told = survey_of(tmp_path, allow_unstated_orientation=True)
    assert list(codes(told).values()) == [None, None, None]
    assert "does not state its orientation" in told.rows[2].notes[0]


def test_of_two_orientations_the_wanted_one_counts(tmp_path):
    for number in range(2):
        head = small_head(number)
        image = nib.Nifti1Image(head.voxels.T, head.ras_from_voxel, dtype=head.voxels.dtype)
        moved = head.ras_from_voxel.copy()
        moved[0, 3] += 9.0
        image.set_sform(moved, code=4)
        image.set_qform(head.ras_from_voxel, code=1)
        nib.save(image, tmp_path / f"{number}.nii.gz")
    assert set(codes(survey_of(tmp_path)).values()) == {"unreadable"}
    found = survey_of(tmp_path, orientation=Orientation.QFORM)
    assert set(codes(found).values()) == {None}
    _, volume = found.used[0].source.read()
    np.testing.assert_allclose(volume.ras_from_voxel, small_head(0).ras_from_voxel, atol=1e-4)


def test_series_of_one_folder_are_several_and_one_in_parts_is_one(tmp_path):
    dicom_head(1, uid="1.2.1", SeriesNumber=3).write(tmp_path / "study")
    other = dicom_head(2, uid="1.2.2", SeriesNumber=4).write(tmp_path / "other")
    for file in other.iterdir():
        shutil.move(file, tmp_path / "study" / f"other {file.name}")
    other.rmdir()
    whole = dicom_head(3, uid="1.2.3").write(tmp_path / "parts" / "1")
    (tmp_path / "parts" / "2").mkdir()
    for file in sorted(whole.iterdir())[:3]:
        shutil.move(file, tmp_path / "parts" / "2" / file.name)
    shutil.copytree(tmp_path / "parts", tmp_path / "x" / "parts again")
    found = survey_of(tmp_path)
    assert codes(found) == {
        "study, series 3": None,
        "study, series 4": None,
        "parts": None,
        "x/parts again": "duplicate",
    }
    for scan in found.used:
        _, volume = ScanSource.from_dict(scan.source.to_dict()).read()
        assert volume.content_sha256() == scan.sha256


def test_a_series_with_a_missing_or_torn_image_is_excluded(tmp_path):
    gap = dicom_head(1, uid="1.2.1").write(tmp_path / "gap")
    (gap / "image 003.dcm").unlink()
    torn = dicom_head(2, uid="1.2.2").write(tmp_path / "torn")
    (torn / "image 003.dcm").write_bytes((torn / "image 003.dcm").read_bytes()[:-1000])
    dicom_head(3, uid="1.2.3").write(tmp_path / "whole")
    assert codes(survey_of(tmp_path)) == {"gap": "unreadable", "torn": "unreadable", "whole": None}


def test_files_and_missing_places_are_named(archive, tmp_path):
    found = survey_of(archive / "a", archive / "c" / "tiny.nii.gz", tmp_path / "gone.nii.gz")
    assert codes(found) == {
        **{f"head {number}.nii.gz": None for number in range(4)},
        "tiny.nii.gz": "too-small",
        "gone.nii.gz": "unreadable",
    }
    several = survey_of(archive / "a", archive / "b")
    assert {name.split("/")[0] for name in codes(several)} == {"a", "b"}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX files")
def test_special_files_are_skipped(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.nrrd").symlink_to(tmp_path / "gone.nrrd")
    (tmp_path / "a folder.nii").mkdir()
    assert codes(survey_of(tmp_path)) == {"nowhere.nrrd": "unreadable"}


def test_an_empty_folder_has_an_empty_survey(tmp_path):
    found = survey_of(tmp_path)
    assert (found.rows, found.modality, found.fov_mm) == ([], None, None)


def test_an_odd_error_of_a_reader_stops_nothing(archive, monkeypatch):
    read = read_volume_file

    def odd(path, **choices):
        if path.name == "head 2.nii.gz":
            raise ZeroDivisionError
        if path.name == "head 3.nii.gz":
            raise MemoryError
        return read(path, **choices)

    monkeypatch.setattr("SpatialARAnomalyLib.service.scans.read_volume_file", odd)
    found = survey_of(archive / "a")
    assert list(codes(found).values()) == [None, None, "unreadable", "unreadable"]
    assert "memory" in found.rows[3].reason


class Progress(SilentReporter):
    """Notes progress; cancels at the n-th check."""

    def __init__(self, cancel_at=None):
        self.reported, self.stages, self.checks, self.cancel_at = [], [], 0, cancel_at

    def stage(self, name, index, of):
        self.stages.append(name)

    def progress(self, done, total, unit):
        assert 0 <= done <= total
        self.reported.append((self.stages[-1] if self.stages else "", unit, done, total))

    def check_cancelled(self):
        self.checks += 1
        if self.checks == self.cancel_at:
            raise Cancelled


INPUTS = {"folders": [], "files": [], "volumes": []}


@pytest.fixture(scope="module")
def outcome(archive, tmp_path_factory):
    """The job's result, on the archive and two arrays of the scene."""
    desk = tmp_path_factory.mktemp("desk")
    volumes = []
    for number, name in ((20, "T1 der Patientin"), (0, "head 0 again")):
        head = small_head(number)
        if number == 0:
            head = read_volume_file(archive / "a" / "head 0.nii.gz")
        np.save(desk / f"{number}.npy", head.voxels)
        volumes.append({
            "voxels": str(desk / f"{number}.npy"),
            "affine": head.ras_from_voxel.tolist(),
            "name": name,
        })  # fmt: skip
    inputs = {"folders": [str(archive)], "files": [], "volumes": volumes}
    report = Progress()
    spec = TrainSpec.from_dict({"modality": None, "plane": "axial", "size_px": 112, "epochs": 3,
                                 "encoder": "demonstration", "preset": "composite",
                                 "device": "cpu"})  # fmt: skip
    result = survey(SurveyInputs.from_dict(inputs), spec, None, report)
    return result, report


def test_the_job_returns_rows_and_estimate_and_reports_progress(outcome):
    result, report = outcome
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["T1 der Patientin"]["status"] == "used"
    assert rows["T1 der Patientin"]["kind"] == "scene"
    assert rows["head 0 again"]["code"] == "duplicate"
    assert ScanSource.from_dict(rows["T1 der Patientin"]["source"]).read()[0]
    assert (result["modality"], result["estimate_problem"]) == ("MR", None)
    assert report.stages == ["list", "read", "estimate"]
    last = {stage: (unit, done, total) for stage, unit, done, total in report.reported}
    assert last == {
        "list": ("file", 20, 20),
        "read": ("volume", 15, 15),
        "estimate": ("step", 3, 3),
    }


def test_the_estimated_disk_is_what_a_training_takes(outcome, tmp_path):
    """Counted in bytes; the time is measured by hand (see `training_estimate`)."""
    result, _ = outcome
    sources = [row["source"] for row in result["rows"] if row["status"] == "used"]
    most = 0

    class Watch(SilentReporter):
        def epoch(self, figures):
            nonlocal most
            files = [one for one in tmp_path.rglob("*") if one.is_file()]
            # While it is replaced, the checkpoint is there twice.
            twice = [one.stat().st_size for one in files if one.name == "checkpoint.safetensors"]
            most = max(most, sum(one.stat().st_size for one in files) + sum(twice))

    spec = TrainSpec(size_px=112, epochs=3, device=Device.CPU)
    train([ScanSource.from_dict(source) for source in sources], tmp_path / "m", spec, Watch())
    estimate = result["estimate"]
    assert estimate["disk_bytes"] == pytest.approx(most, rel=0.1)
    model = (tmp_path / "m.safetensors").stat().st_size
    assert estimate["model_bytes"] == pytest.approx(model, rel=0.1)
    assert 0 < estimate["embed_s"] < 60
    assert 0 < estimate["fit_s"] < 60
    assert estimate["free_disk_bytes"] > 0
    assert estimate["memory_bytes"] > estimate["model_bytes"]


def test_the_estimated_time_is_about_that_of_a_training(archive, tmp_path, monkeypatch):
    """In seconds of computing, which other programs on the machine do not change."""
    clock = SimpleNamespace(perf_counter=time.process_time)
    monkeypatch.setattr(training_estimate, "time", clock)
    monkeypatch.setattr(scan_candidates, "time", clock)
    inputs = SurveyInputs(folders=(str(archive / "a"),))
    settings = {"size_px": 112, "epochs": 4, "batch_size": 8, "device": Device.CPU}
    spec = TrainSpec(**settings)
    result = survey(inputs, spec, tmp_path / "m", SilentReporter())
    begun = {}

    class Clock(SilentReporter):
        def stage(self, name, index, of):
            begun[name] = time.process_time()

    train([archive / "a"], tmp_path / "m", spec, Clock())
    taken_s = time.process_time() - begun["fit"]
    assert taken_s / 2.5 < result["estimate"]["fit_s"] < taken_s * 2.5
    taken_s = begun["fit"] - begun["read"]
    assert result["estimate"]["embed_s"] == pytest.approx(taken_s, rel=1.5, abs=0.3)


def test_a_survey_is_cancelled_anywhere(archive):
    spec = TrainSpec(size_px=112, epochs=1)
    inputs = SurveyInputs(folders=(str(archive / "a"), str(archive / "DICOM")))
    whole = Progress()
    survey(inputs, spec, None, whole)
    for cancel_at in range(1, whole.checks + 1, 4):
        with pytest.raises(Cancelled):
            survey(inputs, spec, None, Progress(cancel_at))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder": "nobody/has-this"}, "nobody/has-this"),
        ({"size_px": 100}, "multiple of the encoder's patch"),
    ],
)
def test_why_there_is_no_estimate(archive, changes, words):
    spec = TrainSpec(**{"size_px": 112, "device": Device.CPU} | changes)
    result = survey(SurveyInputs(folders=(str(archive / "a"),)), spec, None, SilentReporter())
    assert result["estimate"] is None
    assert words in result["estimate_problem"]["text"]
    assert len(result["rows"]) == 4


def test_without_two_scans_there_is_no_estimate(archive):
    spec = TrainSpec(size_px=112, device=Device.CPU)
    inputs = SurveyInputs(files=(str(archive / "a" / "head 1.nii.gz"),))
    result = survey(inputs, spec, None, SilentReporter())
    assert result["estimate_problem"]["code"] == "too-few-normals"
    assert "at least 2 normal scans" in SurveyResult.from_dict(result).problem.message


def test_without_torch_there_are_rows_all_the_same(archive, monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(scan_survey, "require_torch", absent)
    inputs = SurveyInputs(folders=(str(archive / "a"),))
    result = survey(inputs, TrainSpec(), None, SilentReporter())
    assert "'torch'" in result["estimate_problem"]["text"]
    assert {row["status"] for row in result["rows"]} == {"used"}


@pytest.mark.parametrize(
    "spec", [{"size_px": 0}, {"fov_mm": -1.0}, {"epochs": 0}, {"plane": "oblique"}, {"x": 1}]
)
def test_a_survey_of_an_impossible_training_is_refused(spec):
    with pytest.raises(SpecError):
        TrainSpec.from_dict(spec)


@pytest.mark.parametrize(
    "source",
    [
        {},
        {"path": ""},
        {"path": "/a", "voxels": "/b", "affine": np.eye(4).tolist()},
        {"voxels": "/b"},
        {"path": "/a", "name": "x"},
        {"voxels": "/b", "affine": np.eye(4).tolist(), "series": "1"},
    ],
)
def test_an_incomplete_source_is_refused(source):
    with pytest.raises(SpecError):
        ScanSource.from_dict(source)


# The command line


def test_the_command_prints_the_table(archive):
    result = run("normals", archive, "--size-px", 112, "--epochs", 1, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    text = " ".join(result.stdout.split())
    assert "5 of 13 scans can be used, of 2 patients" in text
    assert "field of view" in text
    assert "temporary disk space" in text
    events = run("normals", archive, "--size-px", 112, "--epochs", 1, "--json").stdout
    last = json.loads(events.splitlines()[-1])
    assert last["event"] == "result"
    assert {row["name"]: row["code"] for row in last["rows"]} == BAD | dict.fromkeys(GOOD)


def test_training_on_usable_scans_names_the_excluded_ones(archive, tmp_path):
    options = ("--size-px", 112, "--epochs", 1, "--device", "cpu", "--out", tmp_path / "model")
    refused = run("train", archive / "a", archive / "b", *options)
    assert refused.exit_code == 2
    result = run("train", archive, *options, "--skip-unusable", "--json")
    assert result.exit_code == 0, result.stderr
    events = [json.loads(line) for line in result.stdout.splitlines()]
    told = [event["text"] for event in events if event.get("code") == "normal-left-out"]
    assert {text.split(" is excluded: ")[0] for text in told} == set(BAD)
    assert events[-1]["training_volumes"] + events[-1]["held_out_volumes"] == len(GOOD)
    nothing = run("train", archive / "b", *options[:-1], tmp_path / "m", "--skip-unusable")
    assert nothing.exit_code == 2
    assert "at least 2 normal scans" in nothing.stderr


# Patients


def patients(found) -> dict:
    return {row.name: row.patient for row in found.rows if row.used}


def copies(folder, *names):
    """Different small heads under these names."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        head = small_head(0)
        head.voxels[0, 0, 0] = number + 1
        write_nifti(folder / name, head)


def test_a_folder_below_the_searched_one_is_a_patient(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_patients, "MAX_SCANS", 3)
    names = ["alone.nii", "b/p/1.nii", "b/p/ses/2.nii", "b/3.nii", "b/4.nii", "c/5.nii", "c/6.nii"]
    copies(tmp_path, *names)
    assert patients(survey_of(tmp_path)) == {
        "alone.nii": "single 1", "b/3.nii": "single 2", "b/4.nii": "single 3",
        "b/p/1.nii": "folder 1", "b/p/ses/2.nii": "folder 1",
        "c/5.nii": "folder 2", "c/6.nii": "folder 2",
    }  # fmt: skip
    # Named one by one, the folder that all have in common counts as searched.
    named = patients(survey_of(*(tmp_path / name for name in ("c/5.nii", "c/6.nii", "b/3.nii"))))
    assert named == {"5.nii": "folder 1", "6.nii": "folder 1", "3.nii": "folder 2"}
    flat = patients(survey_of(tmp_path / "c"))
    assert flat == {"5.nii": "single 1", "6.nii": "single 2"}


def test_a_patient_id_counts_more_than_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(scan_patients, "MAX_SCANS", 3)
    ids = {"x/1": "A", "x/2": "B", "y/3": "A", "z/4": "", "z/5": ""}
    ids |= {f"anonymized/{number}": "ANON" for number in range(6, 10)}
    for number, (place, patient_id) in enumerate(ids.items()):
        dicom_head(number, uid=f"1.2.{number}", PatientID=patient_id).write(tmp_path / place)
    found = survey_of(tmp_path)
    told = patients(found)
    assert told["x/1"] == told["y/3"] != told["x/2"]
    assert {told[one] for one in ("x/1", "x/2")} == {"DICOM 1", "DICOM 2"}
    assert told["z/4"] == told["z/5"]
    assert told["z/4"].startswith("folder ")
    # An ID that too many scans share tells nothing, nor does their folder.
    assert len({told[f"anonymized/{number}"] for number in range(6, 10)}) == 4
    # Neither an ID nor its hash leaves the program.
    hashes = [scan.patient_hash for scan in found.used if scan.patient_hash]
    text = json.dumps([row.to_dict() for row in found.rows])
    assert not any(one in text for one in ("ANON", *hashes))


def test_a_table_names_patients_and_training_holds_them_together(tmp_path, archive):
    copies(tmp_path, *(f"{number}.nii" for number in range(6)))
    rows = [f"{number}.nii;Dr {'ABC'[number % 3]};x" for number in range(6)]
    table = tmp_path / "normals.csv"
    table.write_text("\ufeffScan;Patient;Note\r\n" + "\r\n".join(rows), encoding="utf-8")
    found = survey_of(table)
    assert [*patients(found).values()] == ["table 1", "table 2", "table 3"] * 2
    options = ("--size-px", 112, "--epochs", 1, "--device", "cpu", "--json", "--out")
    told = run("train", table, *options, tmp_path / "m")
    assert told.exit_code == 0, told.stderr
    result = json.loads(told.stdout.splitlines()[-1])
    assert (result["training_patients"], result["held_out_patients"]) == (2, 1)
    normals = read_card(tmp_path / "m").normals
    number_of = {scan.sha256: scan.patient for scan in found.used}
    trained, held = ({number_of[one] for one in side} for side in
                     (normals.training_sha256, normals.held_out_sha256))  # fmt: skip
    assert len(normals.held_out_sha256) == 2
    assert not trained & held
    assert "Dr A" not in (tmp_path / "m.safetensors").read_bytes().decode("latin-1")
    table.write_text("scan,patient\n0.nii,a\n1.nii,a\n")
    refused = run("train", table, *options, tmp_path / "n")
    assert json.loads(refused.stdout.splitlines()[-1])["code"] == "too-few-patients"
    table.write_text("scan,patient,volume\n0.nii,a,first\n")
    refused = run("train", table, *options, tmp_path / "n")
    assert "its column volume holds 'first'" in refused.stdout
    table.write_text("patient\na\n")
    refused = run("train", table, *options, tmp_path / "n")
    assert json.loads(refused.stdout.splitlines()[-1])["code"] == "scan-table"


def test_a_table_chooses_one_of_several_volumes(tmp_path, archive):
    copies(tmp_path, "0.nii")
    image = nib.load(tmp_path / "0.nii")
    voxels = np.asarray(image.dataobj)
    both = np.stack([np.flip(voxels, 0), voxels], axis=-1)
    nib.save(nib.Nifti1Image(both, image.affine), tmp_path / "both.nii")
    table = tmp_path / "normals.csv"
    table.write_text("scan,volume\n0.nii,\nboth.nii,\nboth.nii,2\n")
    rows = survey_of(table).rows
    assert [row.code for row in rows] == [None, "unreadable", "duplicate"]
    assert "found 2 volumes" in rows[1].reason


@pytest.mark.parametrize("name", BAD)
def test_training_refuses_what_a_survey_excludes(archive, tmp_path, name):
    """The same rules, without `--skip-unusable` by the first reason."""
    normals = [archive / "a" / f"head {number}.nii.gz" for number in range(3)]
    refused = run("train", *normals, archive / name, "--size-px", 112, "--out", tmp_path / "m")
    assert refused.exit_code == 2
    assert name.split("/")[1] in refused.stderr
    assert not any(tmp_path.iterdir())


def test_files_of_other_kinds_are_counted(tmp_path):
    for name in ("test-SR.dcm", "rtstruct.dcm", "reportsi.dcm", "no_meta_group_length.dcm"):
        shutil.copy(DICOM_FILES / name, tmp_path)
    (tmp_path / "a.mnc").write_bytes(b"CDF\1")
    (tmp_path / "notes.txt").write_text("none")
    told = {}

    class Notices(SilentReporter):
        def notice(self, code, text):
            told[code] = text

    assert find_candidates([tmp_path], (), Notices()) == []
    assert told == {
        "files-skipped": "Files of other kinds are left out: 1 × DICOM without an image, "
        "1 × MINC volume, 1 × radiotherapy structures, 2 × report."
    }
