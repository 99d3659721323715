import csv
import json
import os
import signal
import subprocess
import sys
import time

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import slicerio
from service.small_site import SHAPE_KJI, SPACING_MM, TRAIN_OPTIONS, run
from SpatialARAnomalyLib.engine.scoring.calibration_fit import case_score
from SpatialARAnomalyLib.engine.volumes.files import write_nrrd
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import add_lesion, normal_head

RESULTS = [
    "_anomalies.seg.nrrd", "_findings.csv", "_labels.nii.gz", "_nll.nrrd", "_review.png",
]  # fmt: skip
COMMAND = [sys.executable, "-c", "from SpatialARAnomalyLib.service.cli.main import main; main()"]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A head with a bright mass on an oblique left-handed grid, as NRRD."""
    head, _ = add_lesion(
        normal_head(20, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM), 20, contrast=0.8
    )
    turn = np.eye(4)
    angle = 0.2
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, 3] = [3.123456789, -7.1, 100.000001]
    affine = turn @ head.ras_from_voxel
    affine[:, 3] += affine[:, 0] * (head.voxels.shape[2] - 1)
    affine[:, 0] *= -1
    path = tmp_path_factory.mktemp("scan dir é") / "Müller 7.nrrd"
    write_nrrd(path, np.ascontiguousarray(head.voxels[:, :, ::-1]), affine)
    return path, Volume(head.voxels[:, :, ::-1], affine)


@pytest.fixture(scope="module")
def detection(scan, site, tmp_path_factory):
    out = tmp_path_factory.mktemp("détection")
    result = run(
        "detect", scan[0], "--model", site.model, "--out", out, "--device", "cpu",
        "--false-positive-rate", 0.05, "--min-volume-ml", 0.5, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    return out, [json.loads(line) for line in result.stdout.splitlines()]


def test_all_result_files_exist(detection):
    out, _ = detection
    expected = sorted([f"Müller 7{suffix}" for suffix in RESULTS] + ["run.json"])
    assert sorted(path.name for path in out.iterdir()) == expected


def test_outputs_have_the_grid_of_the_input(detection, scan):
    out, _ = detection
    _, volume = scan
    lps = np.diag([-1.0, -1, 1, 1]) @ volume.ras_from_voxel
    for suffix in ("_nll.nrrd", "_anomalies.seg.nrrd"):
        image = sitk.ReadImage(str(out / f"Müller 7{suffix}"))
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        np.testing.assert_allclose(affine, lps, atol=1e-6)
        assert image.GetSize() == volume.voxels.shape[::-1]
    labels = nib.load(out / "Müller 7_labels.nii.gz")
    # NIfTI-1 holds single precision: half a step at 128 mm.
    np.testing.assert_allclose(labels.affine, volume.ras_from_voxel, atol=8e-6)


def nll_top(out) -> float:
    """The case score of the NLL volume's body."""
    nll = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "Müller 7_nll.nrrd")))
    outside = json.loads((out / "run.json").read_text())["outside_nll"]
    return case_score(nll[nll > outside + 1e-6])


def test_all_files_have_the_same_findings(detection):
    out, events = detection
    with (out / "Müller 7_findings.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    manifest = json.loads((out / "run.json").read_text())
    result = events[-1]
    assert result["event"] == "result"
    assert len(rows) > 0
    assert manifest["findings"] == result["findings"]
    for key in ("case_score", "case_p_value", "held_out_normals", "rate_interval", "rough"):
        assert manifest[key] == result[key]
    assert nll_top(out) == pytest.approx(result["case_score"], rel=1e-4)
    assert [{key: float(value) for key, value in row.items()} for row in rows] == [
        {key: float(value) for key, value in row.items()} for row in result["findings"]
    ]
    labels = np.asarray(nib.load(out / "Müller 7_labels.nii.gz").dataobj).T
    nll = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "Müller 7_nll.nrrd")))
    segmentation = slicerio.read_segmentation(str(out / "Müller 7_anomalies.seg.nrrd"))
    np.testing.assert_array_equal(segmentation["voxels"].T, labels)
    voxel_ml = 4.8 * 4.8 * 20.0 / 1000
    for row, segment in zip(result["findings"], segmentation["segments"], strict=True):
        inside = labels == row["rank"]
        assert row["voxels"] == np.count_nonzero(inside)
        assert row["volume_ml"] == pytest.approx(row["voxels"] * voxel_ml, abs=1e-3)
        assert row["peak_nll"] == pytest.approx(nll[inside].max(), abs=1e-4)
        assert nll[inside].min() >= manifest["threshold_nll"]
        assert segment["labelValue"] == row["rank"]
        assert segment["name"] == f"Finding {row['rank']}"
        assert "Neoplasm" not in str(segment)


def test_the_manifest_names_no_patient_and_no_path(detection):
    out, _ = detection
    text = (out / "run.json").read_text(encoding="utf-8")
    assert "ller" not in text
    assert str(out.parent) not in text
    manifest = json.loads(text)
    assert manifest["nll_unit"] == "nats per channel"
    assert manifest["outputs"]["nll"] == "<name>_nll.nrrd"
    assert set(manifest["seconds"]) == {"read", "embed", "find"}


def test_events_follow_the_protocol(detection):
    _, events = detection
    assert events[0]["event"] == "hello"
    assert events[0]["protocol"] == 1
    stages = [event for event in events if event["event"] == "stage"]
    assert [(stage["index"], stage["of"]) for stage in stages] == [(n, 4) for n in range(1, 5)]
    progress = [event for event in events if event["event"] == "progress"]
    assert progress
    assert all(set(e) == {"id", "event", "done", "total", "unit", "eta_s"} for e in progress)
    assert [e["event"] for e in events].count("result") == 1


def test_the_review_picture_has_a_colored_overlay(detection):
    out, _ = detection
    picture = matplotlib.image.imread(out / "Müller 7_review.png")[..., :3]
    height, width, _ = picture.shape
    assert height > 300
    assert width > 500
    colored = picture.max(axis=-1) - picture.min(axis=-1) > 0.3
    # Overlay and color bar lie right, the plain slice left, both below the cautions.
    colored = colored[height // 3 :]
    assert colored[:, width // 2 :].mean() > 10 * colored[:, : width // 3].mean()


def test_a_detection_without_findings_writes_all_files(scan, site, tmp_path):
    result = run(
        "detect", scan[0], "--model", site.model, "--out", tmp_path, "--min-volume-ml", 9999
    )
    assert result.exit_code == 0
    assert "no findings" in result.stdout
    assert len(list(tmp_path.iterdir())) == 6
    segmentation = slicerio.read_segmentation(str(tmp_path / "Müller 7_anomalies.seg.nrrd"))
    assert segmentation["segments"] == []


def test_results_are_named_by_the_option(scan, site, tmp_path):
    out = tmp_path / "out"
    result = run("detect", scan[0], "--model", site.model, "--out", out, "--name", "case-1")
    assert result.exit_code == 0
    assert sorted(path.name for path in out.iterdir())[0] == "case-1_anomalies.seg.nrrd"


@pytest.mark.parametrize("name", ["a/b", "..", ".", "../a", "a\\b"])
def test_a_name_that_is_a_path_is_refused(name, scan, site, tmp_path):
    out = tmp_path / "out"
    result = run("detect", scan[0], "--model", site.model, "--out", out, "--name", name)
    assert result.exit_code == 2
    assert not out.exists()


def test_a_mismatch_can_be_allowed(site, tmp_path):
    small = normal_head(3, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    affine = small.ras_from_voxel @ np.diag([0.3, 0.3, 1.0, 1.0])
    path = tmp_path / "small.nrrd"
    write_nrrd(path, small.voxels, affine)
    arguments = ("detect", path, "--model", site.model, "--out", tmp_path / "out")
    assert run(*arguments).exit_code == 2
    result = run(*arguments, "--allow-mismatch")
    assert result.exit_code == 0
    assert "Note: Model 'model' was trained with a pixel spacing" in result.stderr


def test_models_show_and_verify(site):
    shown = run("models", "show", site.model)
    assert shown.exit_code == 0
    words = ("MR", "axial", "demonstration", "3 trained on (of 3 patients)", "nats per channel")
    for word in words:
        assert word in shown.stdout
    verified = run("models", "verify", site.model)
    assert verified.exit_code == 0
    assert "complete and unchanged" in verified.stdout


def test_encoders_check():
    result = run("encoders", "check", "--size-px", "64", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "not for clinical or research results" in " ".join(result.stdout.split())
    events = run("encoders", "check", "demonstration", "--size-px", "64", "--json").stdout
    assert json.loads(events.splitlines()[-1])["channels"] == 128


@pytest.mark.parametrize(
    "command",
    [[], ["train"], ["normals"], ["detect"], ["models"], ["encoders"], ["demo"]],
)
def test_help_of_every_command(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    if command:
        assert "Example" in result.stdout or command[0] in ("models", "encoders")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_ctrl_c_cancels_a_training(site, tmp_path):
    """Ctrl-C gives exit code 130 and no model; the checkpoint is kept."""
    arguments = [*COMMAND, "train", *map(str, site.normals), "--out", str(tmp_path / "model")]
    arguments += [*TRAIN_OPTIONS, "--epochs", "400", "--json"]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ALONE
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "epoch":
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert json.loads(rest.splitlines()[-1])["event"] == "cancelled"
    assert not (tmp_path / "model.safetensors").exists()
    assert (tmp_path / "model.training" / "checkpoint.safetensors").exists()


@pytest.fixture(scope="module")
def killable(site, tmp_path_factory):
    """A training command without `--out`, and its model when it is not killed.

    Both run in child processes with one thread, since sums depend on the number of threads.
    """
    options = ["--size-px", "112", "--epochs", "6", "--batch-size", "4", "--device", "cpu"]
    command = [*COMMAND, "train", *map(str, site.normals), *options, "--name", "heads", "--json"]
    whole = tmp_path_factory.mktemp("whole") / "model.safetensors"
    subprocess.run([*command, "--out", str(whole)], capture_output=True, env=ALONE, check=True)
    return command, whole


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_training_resumes_to_the_same_model(seed, killable, tmp_path):
    """Killed at a seeded moment of embedding or training, and run again."""
    command, whole = killable
    command = [*command, "--out", str(tmp_path / "model")]
    stage, seconds = ("embed", "fit")[seed % 2], np.random.RandomState(seed).uniform(0, 0.2)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ALONE) as process:
        assert process.stdout is not None
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "stage" and event["name"] == stage:
                time.sleep(seconds)
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "model.safetensors").exists()
    again = subprocess.run(command, capture_output=True, text=True, env=ALONE, timeout=120)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "model.safetensors").read_bytes() == whole.read_bytes()


def test_a_name_in_brackets_is_shown_literally(site, tmp_path):
    name = "brain [/x] [bold]t1"
    result = run(
        "train", *site.normals, "--out", tmp_path / "model", *TRAIN_OPTIONS, "--name", name
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert name in run("models", "show", tmp_path / "model").stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp437", "cp932"])
def test_consoles_with_few_characters_show_help_and_cards(encoding, site):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for arguments in (["--help"], ["models", "show", str(site.model)]):
        result = subprocess.run(
            [*COMMAND, *arguments], capture_output=True, env=environment, timeout=60
        )
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate"),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA"),
    ],
    ids=["python", "cpu", "mps", "cuda"],
)
def test_errors_of_memory_have_their_own_code(error, site, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("SpatialARAnomalyLib.service.training.train.train", fail)
    result = run("train", *site.normals, "--out", tmp_path / "model", "--json")
    assert result.exit_code == 2
    event = json.loads(result.stdout.splitlines()[-1])
    assert (event["event"], event["code"]) == ("failed", "out-of-memory")


def test_an_unforeseen_error_is_internal(site, tmp_path, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("SpatialARAnomalyLib.service.training.train.train", fail)
    result = run("train", *site.normals, "--out", tmp_path / "model", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout.splitlines()[-1])["code"] == "internal"
    assert "ZeroDivisionError" in result.stderr


def test_a_model_s_name_is_not_typeset_as_a_formula(site, scan, tmp_path):
    name = "m$\\frac{$ 脳"
    result = run("train", *site.normals, "--out", tmp_path / "m", *TRAIN_OPTIONS, "--name", name)
    assert result.exit_code == 0, result.stderr
    result = run("detect", scan[0], "--model", tmp_path / "m", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr


def test_an_allowed_mismatch_is_recorded(site, tmp_path):
    head = normal_head(3, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
    path = tmp_path / "small.nrrd"
    write_nrrd(path, head.voxels, head.ras_from_voxel @ np.diag([0.3, 0.3, 1.0, 1.0]))
    out = tmp_path / "out"
    run("detect", path, "--model", site.model, "--out", out, "--allow-mismatch")
    recorded = json.loads((out / "run.json").read_text())["mismatches_allowed"]
    assert any("pixel spacing" in one for one in recorded)


def test_negative_sizes_are_refused():
    result = run("encoders", "check", "--size-px", "-16")
    assert result.exit_code == 2
    assert "The size must be positive" in result.stderr
