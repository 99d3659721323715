"""The worker's jobs through its pipes: what they write is what the command line writes."""

import csv
import importlib.metadata
import json
import shutil

import nibabel as nib
import numpy as np
import pandas
import pytest
import SimpleITK as sitk
import slicerio
from engine.grids import find
from engine.model_examples import CARD
from service.small_site import SHAPE_KJI, SPACING_MM, run, tree
from service.worker_process import WorkerProcess, without
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.engine.volumes.volume import Volume
from SpatialARAnomalyLib.service.demo.phantom import (
    add_lesion,
    normal_head,
)
from SpatialARAnomalyLib.service.detection.findings_table import FINDING_COLUMNS
from SpatialARAnomalyLib.service.setup.packages import (
    REQUIREMENTS,
    names,
)

RATE = {"false_positive_rate": 0.05, "min_volume_ml": 0.5}
SPEC = RATE | {"device": "cpu"}
MANY = {"false_positive_rate": 0.2, "min_volume_ml": 0.0}


def left_handed(affine, size_i):
    """The affine of the voxels in the other order along i."""
    affine = affine.copy()
    affine[:, 3] += affine[:, 0] * (size_i - 1)
    affine[:, 0] *= -1
    return affine


def oblique(affine):
    """Turned and moved; NIfTI keeps it in single precision, and so do we here."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    turn[:3, 3] = [3.1, -7.1, 100.0]
    return (turn @ affine).astype(np.float32).astype(np.float64)


def sheared(affine):
    """As of a tilted gantry: k leans along j; in single precision, too."""
    affine = affine.copy()
    affine[1, 2] = 5.5
    return affine.astype(np.float32).astype(np.float64)


def lesioned_head():
    head, _ = add_lesion(
        normal_head(20, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM), 20, contrast=0.8
    )
    return head


@pytest.fixture(scope="module")
def scans():
    """The same head on an oblique left-handed and on a sheared grid."""
    head = lesioned_head()
    mirrored = np.ascontiguousarray(head.voxels[:, :, ::-1])
    affine = left_handed(oblique(head.ras_from_voxel), SHAPE_KJI[2])
    assert np.linalg.det(affine[:3, :3]) * np.linalg.det(head.ras_from_voxel[:3, :3]) < 0
    return {
        "oblique": Volume(mirrored, affine),
        "sheared": Volume(head.voxels, sheared(head.ras_from_voxel)),
    }


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Where the panel and the worker exchange files."""
    return tmp_path_factory.mktemp("ein Tisch für 脳")


@pytest.fixture(scope="module")
def worker(desk):
    settings = str(desk / "settings")
    with WorkerProcess(desk / "worker", SPATIAL_AR_ANOMALY_HOME=settings) as process:
        yield process
        assert process.close() == []


def inputs_of(volume, folder, site, modality="MR"):
    """The inputs of a detection, in a folder named after a patient."""
    folder = folder / "Müller, Anna"
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "t1 gadolinium.npy", volume.voxels)
    return {
        "voxels": str(folder / "t1 gadolinium.npy"),
        "ras_from_voxel": volume.ras_from_voxel.tolist(),
        "modality": modality,
        "model": str(site.model),
    }


@pytest.fixture(scope="module")
def detections(worker, scans, site, desk):
    """By scan: every event of its detection."""
    return {
        name: worker.events_of(
            worker.submit("detect", inputs_of(volume, desk / name, site), SPEC, desk / name / "out")
        )
        for name, volume in scans.items()
    }


# Detect


@pytest.mark.parametrize("name", ["oblique", "sheared"])
def test_a_detection_is_that_of_the_command_line(detections, scans, site, name, tmp_path):
    result = detections[name][-1]
    assert result["event"] == "result", result
    write_nifti(tmp_path / "scan.nii", scans[name])
    options = ("--false-positive-rate", 0.05, "--min-volume-ml", 0.5, "--device", "cpu", "--json")
    told = run("detect", tmp_path / "scan.nii", "--model", site.model, "--out", tmp_path, *options)
    assert told.exit_code == 0, told.stderr
    expected = json.loads(told.stdout.splitlines()[-1])
    assert len(expected["findings"]) >= 1
    # Both see the same voxels and affine; sums round otherwise at other places in memory.
    rounding = 1e-5
    for row, same in zip(result["findings"], expected["findings"], strict=True):
        assert list(same) == list(FINDING_COLUMNS)
        # And positions are told in thousandths of a millimeter.
        assert {key: row[key] for key in same} == pytest.approx(same, rel=rounding, abs=1.5e-3)
    assert result["threshold_nll"] == expected["threshold_nll"]
    assert result["case_score"] == pytest.approx(expected["case_score"], rel=rounding)
    assert result["case_p_value"] == expected["case_p_value"]

    nll = np.load(result["files"]["nll"])
    written = sitk.GetArrayFromImage(sitk.ReadImage(expected["files"]["nll"]))
    assert nll.dtype == np.float32
    np.testing.assert_allclose(nll, written, rtol=1e-4, atol=2e-3)
    labels = np.asarray(nib.load(expected["files"]["labels"]).dataobj).T
    np.testing.assert_array_equal(whole_labels(result, nll.shape), labels)


def whole_labels(result, shape):
    """The label map of a result on the scan's grid; its box is as small as can be."""
    labels = np.zeros(shape, dtype=np.uint16)
    box = np.load(result["files"]["labels"])
    assert box.dtype == np.uint16
    for axis in range(3):
        others = tuple(one for one in range(3) if one != axis)
        held = box.any(axis=others)
        assert held[0]
        assert held[-1]
    start = result["labels_start_kji"]
    place = tuple(slice(a, a + b) for a, b in zip(start, box.shape, strict=True))
    labels[place] = box
    return labels


@pytest.mark.parametrize("name", ["oblique", "sheared"])
def test_the_result_says_what_the_panel_shows(detections, scans, site, name):
    result = detections[name][-1]
    card = read_card(site.model).to_dict()
    assert set(result) == {
        "id", "event", "files", "labels_start_kji", "findings", "threshold_nll", "outside_nll",
        "false_positive_rate", "supported", "model", "calibration", "device", "seconds",
        "mismatches", "warm", "case_score", "case_p_value", "token_mm", "cautions", "suitability",
    }  # fmt: skip
    words, notices = result["model"].pop("card"), result["model"].pop("notices")
    assert result["model"] == {
        "name": "model",
        "weights_sha256": card["weights_sha256"],
        "modality": "MR",
        "plane": "axial",
    }
    assert (words["name"], words["encoder"]) == ("model", card["encoder"]["name"])
    assert notices[0] == "Demonstration encoder: for trying only."
    assert result["calibration"] == card["calibration"]
    assert (result["device"], result["false_positive_rate"]) == ("cpu", 0.05)
    assert set(result["seconds"]) == {"read", "embed", "find", "write"}
    nll = np.load(result["files"]["nll"])
    assert result["outside_nll"] == nll[0, 0, 0] == nll.min()
    affine = scans[name].ras_from_voxel
    for row in result["findings"]:
        i, j, k = row["peak_ijk"]
        assert round(float(nll[k, j, i]), 5) == row["peak_nll"]
        peak_ras = [row[f"peak_{axis}_mm"] for axis in "ras"]
        np.testing.assert_allclose((affine @ [i, j, k, 1])[:3], peak_ras, atol=1e-3)


def test_progress_is_told_stage_by_stage(detections):
    events = detections["oblique"]
    stages = [(one["name"], one["index"], one["of"]) for one in events if one["event"] == "stage"]
    assert stages == [("read", 1, 4), ("embed", 2, 4), ("find", 3, 4), ("write", 4, 4)]
    progress = [one for one in events if one["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] > 0
    assert progress[-1]["unit"] == "slice"


def test_the_second_detection_loads_nothing(worker, detections, scans, site, desk):
    assert detections["oblique"][-1]["warm"] == {"encoder": False, "model": False}
    assert detections["sheared"][-1]["warm"] == {"encoder": True, "model": True}
    model = desk / "copy of the model.safetensors"
    shutil.copy(site.model, model)
    inputs = inputs_of(scans["oblique"], desk / "warm", site) | {"model": str(model)}
    result = worker.result("detect", inputs, SPEC, desk / "warm" / "out")
    assert result["warm"] == {"encoder": True, "model": False}
    assert result["findings"] == detections["oblique"][-1]["findings"]


def test_without_findings_there_is_no_label_map(worker, scans, site, desk):
    inputs = inputs_of(scans["oblique"], desk / "none", site)
    output = desk / "none" / "out"
    result = worker.result("detect", inputs, SPEC | {"min_volume_ml": 1e6}, output)
    assert result["findings"] == []
    assert (result["files"]["labels"], result["labels_start_kji"]) == (None, None)
    assert sorted(tree(output)) == ["nll.npy"]


def test_neither_patient_nor_place_is_in_an_event_or_in_the_log(worker, detections, site, desk):
    volume = Volume(np.zeros((3, 4, 5), np.int16), np.eye(4))
    worker.failure("detect", inputs_of(volume, desk / "zeros", site), SPEC, desk / "zeros" / "out")
    missing = inputs_of(volume, desk / "zeros", site) | {"voxels": "/archive/Müller, Anna/t1.npy"}
    worker.failure("detect", missing, SPEC, desk / "zeros" / "out")
    said = b"".join(worker.lines).decode() + worker.log
    assert str(desk.name) not in worker.log
    for word in ("ller", "Anna", "gadolinium", "archive"):
        assert word not in said


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.zeros((4, 5), np.int16), "array-format"),
        (np.zeros((2, 3, 4, 5), np.int16), "array-format"),
        (np.zeros((3, 4, 5), complex), "array-format"),
        (np.zeros((3, 4, 5), "U1"), "array-format"),
        (np.array([[[None]]]), "array-format"),
        (b"no array", "array-format"),
        (b"", "array-format"),
        (None, "array-unreadable"),
        (np.zeros((3, 4, 5), np.int16), "volume-constant"),
        (np.full((3, 4, 5), np.nan), "voxels-not-finite"),
        (np.zeros((0, 4, 5)), "volume-empty"),
    ],
)
def test_what_is_no_scan_is_refused(worker, site, tmp_path, array, code):
    path = tmp_path / "voxels.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array, allow_pickle=True)
    inputs = {"voxels": str(path), "ras_from_voxel": np.eye(4).tolist(), "model": str(site.model)}
    failed = worker.failure("detect", inputs, SPEC, tmp_path / "out")
    assert failed["code"] == code
    assert str(tmp_path) not in json.dumps(failed)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        (
            {"scan": 1},
            "spec-unknown-key",
            "its keys are: voxels, ras_from_voxel, modality, mask, model, dicom_files, "
            "dicom_volume.",
        ),
        ({"modality": "PT"}, "spec-value", "MR, CT"),
        ({"modality": "CT"}, "model-modality", "expects MR"),
        ({"ras_from_voxel": np.eye(3).tolist()}, "spec-type", "4 values"),
        ({"ras_from_voxel": [[0.0] * 4] * 4}, "affine-not-affine", "0, 0, 0, 1"),
        ({"ras_from_voxel": np.diag([0.0, 1, 1, 1]).tolist()}, "spacing-zero", "positive"),
        ({"model": "/nowhere/at all"}, "model-missing", "at all.safetensors"),
    ],
)
def test_inputs_that_make_no_sense_are_refused(worker, scans, site, tmp_path, changed, code, words):
    inputs = inputs_of(scans["oblique"], tmp_path, site) | changed
    failed = worker.failure("detect", inputs, SPEC, tmp_path / "out")
    assert failed["code"] == code
    assert words in failed["text"]
    assert not (tmp_path / "out").exists()


def test_settings_that_make_no_sense_are_refused(worker, scans, site, tmp_path):
    inputs = inputs_of(scans["oblique"], tmp_path, site)
    failed = worker.failure("detect", inputs, {"rate": 1}, tmp_path / "out")
    assert failed["code"] == "spec-unknown-key"
    assert "false_positive_rate, min_volume_ml, refine_outlines, device, encoder" in failed["text"]
    for spec in ({"false_positive_rate": 0}, {"min_volume_ml": -1}, {"device": "tpu"}):
        assert worker.failure("detect", inputs, spec, tmp_path / "out")["code"] == "spec-value"


def test_a_mismatch_may_be_allowed_and_is_told(worker, scans, site, tmp_path):
    inputs = inputs_of(scans["oblique"], tmp_path, site, modality="CT")
    number = worker.submit("detect", inputs, SPEC | {"allow_mismatch": True}, tmp_path / "out")
    events = worker.events_of(number)
    (told,) = [one for one in events if one.get("code") == "model-modality"]
    assert told["event"] == "notice"
    assert events[-1]["mismatches"] == [told["text"]]


def test_nothing_is_overwritten(worker, scans, site, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.npy").write_text("years of work")
    inputs = inputs_of(scans["oblique"], tmp_path, site)
    failed = worker.failure("detect", inputs, SPEC, tmp_path / "out")
    assert failed["code"] == "output-exists"
    assert tree(tmp_path / "out") == {"labels.npy": b"years of work"}


def test_a_cancelled_detection_leaves_nothing_and_the_next_one_is_right(
    worker, detections, scans, site, tmp_path
):
    inputs = inputs_of(scans["oblique"], tmp_path, site)
    running = worker.submit("detect", inputs, SPEC, tmp_path / "one")
    waiting = worker.submit("detect", inputs, SPEC, tmp_path / "two")
    kept = worker.submit("detect", inputs, SPEC, tmp_path / "three")
    worker.say({"cancel": waiting})
    worker.say({"cancel": running})
    ends = {}
    while kept not in ends:
        event = worker.event()
        if event["event"] in ("result", "failed", "cancelled"):
            ends[event["id"]] = event
    # The first may have been done before it heard of it.
    assert ends[running]["event"] in ("cancelled", "result")
    assert ends[waiting]["event"] == "cancelled"
    assert ends[kept]["findings"] == detections["oblique"][-1]["findings"]
    left = {"Müller, Anna", "three"} | ({"one"} if ends[running]["event"] == "result" else set())
    assert {path.name for path in tmp_path.iterdir()} == left


# Find


def test_find_gives_the_findings_of_the_detection(worker, detections, scans, tmp_path):
    for name, events in detections.items():
        result = events[-1]
        inputs = {
            "nll": result["files"]["nll"],
            "ras_from_voxel": scans[name].ras_from_voxel.tolist(),
            "calibration": result["calibration"],
        }
        again = worker.result("find", inputs, RATE, tmp_path / name)
        for key in ("findings", "labels_start_kji", "threshold_nll", "supported"):
            assert again[key] == result[key]
        labels = np.load(again["files"]["labels"])
        np.testing.assert_array_equal(labels, np.load(result["files"]["labels"]))

        more = worker.result("find", inputs, MANY, tmp_path / f"{name} more")
        nll = np.load(result["files"]["nll"])
        findings, whole = find(
            nll, scans[name].ras_from_voxel, CARD.calibration, more["threshold_nll"], 0.0
        )
        assert len(more["findings"]) == len(findings) >= 1
        assert np.count_nonzero(whole) > np.count_nonzero(labels)
        np.testing.assert_array_equal(whole_labels(more, nll.shape), whole)


def test_outlines_are_refined_the_same_by_both_jobs(worker, scans, site, tmp_path):
    refine = {"refine_outlines": True}
    scan = inputs_of(scans["oblique"], tmp_path, site)
    result = worker.result("detect", scan, SPEC | refine, tmp_path / "out")
    inputs = {
        "nll": result["files"]["nll"],
        "ras_from_voxel": scan["ras_from_voxel"],
        "calibration": result["calibration"],
    }
    more = {"voxels": scan["voxels"], "token_mm": result["token_mm"]}
    again = worker.result("find", inputs | more, RATE | refine, tmp_path / "again")
    assert again["findings"] == result["findings"]
    np.testing.assert_array_equal(
        np.load(again["files"]["labels"]), np.load(result["files"]["labels"])
    )
    raw = worker.result("find", inputs, RATE, tmp_path / "raw")
    for key in ("rank", "peak_nll", "mean_nll"):
        assert [one[key] for one in raw["findings"]] == [one[key] for one in again["findings"]]
    for lacking in (inputs, inputs | {"voxels": scan["voxels"]}):
        failed = worker.failure("find", lacking, RATE | refine, tmp_path / "no")
        assert failed["code"] == "spec-value"


@pytest.fixture(scope="module")
def light_worker(desk):
    """The worker where nothing is installed but what `find` and `export` need."""
    code = without("torch", "transformers", "safetensors", "typer", "rich", "filelock")
    with WorkerProcess(desk / "light", code) as process:
        yield process
        assert process.close() == []


def find_scans(folder, nll):
    np.save(folder / "nll.npy", nll)
    return {
        "nll": str(folder / "nll.npy"),
        "ras_from_voxel": np.diag([10.0, 10.0, 10.0, 1.0]).tolist(),
        "calibration": CARD.calibration.to_dict(),
    }


def test_find_needs_no_torch(light_worker, tmp_path):
    nll = np.random.RandomState(0).gamma(3.0, size=(5, 6, 7)).astype(np.float32)
    result = light_worker.result("find", find_scans(tmp_path, nll), MANY, tmp_path / "out")
    affine = np.diag([10.0, 10.0, 10.0, 1.0])
    threshold = CARD.calibration.threshold(0.2)
    findings, labels = find(nll, affine, CARD.calibration, threshold, 0.0)
    assert [row["voxels"] for row in result["findings"]] == [one.voxels for one in findings]
    np.testing.assert_array_equal(whole_labels(result, nll.shape), labels)
    assert result["supported"] is True
    rare = MANY | {"false_positive_rate": 1e-6}
    result = light_worker.result("find", find_scans(tmp_path, nll), rare, tmp_path / "rare")
    assert result["supported"] is False


def test_find_refuses_what_is_no_nll(light_worker, tmp_path):
    for array in (np.zeros((2, 3), np.float32), np.zeros((2, 3, 4), np.int32)):
        inputs = find_scans(tmp_path, array)
        assert light_worker.failure("find", inputs, {}, tmp_path / "out")["code"] == "array-format"
    inputs = find_scans(tmp_path, np.zeros((2, 3, 4), np.float32))
    broken = inputs | {"calibration": inputs["calibration"] | {"tokens": 0}}
    assert light_worker.failure("find", broken, {}, tmp_path / "out")["code"] == "spec-value"
    assert not (tmp_path / "out").exists()


def test_without_torch_a_detection_names_the_package(light_worker, tmp_path):
    inputs = {"voxels": "/x.npy", "ras_from_voxel": np.eye(4).tolist(), "model": "/model"}
    failed = light_worker.failure("detect", inputs, {}, tmp_path / "out")
    assert failed["code"] == "package-missing"
    assert "'torch'" in failed["text"]
    failed = light_worker.failure("demonstration_model", {}, {}, tmp_path / "model")
    assert failed["code"] == "package-missing"
    assert list(tmp_path.iterdir()) == []


# Export

LABELS = np.zeros((3, 4, 5), np.uint16)
LABELS[0, 0, 0], LABELS[1:, 2:, 1:3], LABELS[2, 3, 4] = 1, 2, 300
START, SIZE = (2, 1, 3), (6, 7, 9)
WHOLE = np.zeros(SIZE, np.uint16)
WHOLE[2:5, 1:5, 3:8] = LABELS
AFFINE = left_handed(oblique(np.diag([0.7, 0.9, 3.3, 1.0])), SIZE[2])
SEGMENTS = [
    {"value": 1, "id": "Finding_1", "name": "Finding 1", "color": [1.0, 0.5, 0.0]},
    {"value": 2, "id": "Finding_2", "name": "links: Größe 脳\nzweite", "color": [0.0, 0.25, 1.0]},
    {"value": 300, "id": "Segment_1", "name": "by hand", "color": [0.1, 0.2, 0.3]},
]
ROWS = [
    {"rank": 1, "x_mm": -3.5, "p": 1e-4, "status": "accepted", "comment": '=HYPERLINK("x")'},
    {"rank": 2, "x_mm": 7, "p": None, "status": "new", "comment": 'Größe, "脳";\n2. Zeile'},
    {"rank": 3, "x_mm": -0.25, "extra": [1], "status": "-1+1", "comment": "-3.5"},
]
COLUMNS = ["rank", "x_mm", "p", "status", "comment"]
ALL = ["labels_nifti", "labels_nrrd", "segmentation", "findings", "nll"]


@pytest.fixture
def inputs(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    nll = np.random.RandomState(3).normal(size=SIZE).astype(np.float32)
    np.save(tmp_path / "nll.npy", nll)
    return {
        "labels": str(tmp_path / "labels.npy"),
        "labels_start_kji": START,
        "size_kji": SIZE,
        "nll": str(tmp_path / "nll.npy"),
        "ras_from_voxel": AFFINE.tolist(),
        "findings": ROWS,
        "columns": COLUMNS,
        "segments": SEGMENTS,
    }


def lps_affine(image):
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return affine


def test_an_export_comes_back_with_other_programs(light_worker, inputs, tmp_path):
    out = tmp_path / "für 脳"
    result = light_worker.result("export", inputs, {"formats": ALL, "name": "Größe 7"}, out)
    files = result["files"]
    assert sorted(tree(out)) == [
        "Größe 7_anomalies.seg.nrrd", "Größe 7_findings.csv", "Größe 7_labels.nii.gz",
        "Größe 7_labels.nrrd", "Größe 7_nll.nrrd",
    ]  # fmt: skip
    assert list(files) == ALL
    nifti = nib.load(files["labels_nifti"])
    np.testing.assert_array_equal(np.asarray(nifti.dataobj).T, WHOLE)
    np.testing.assert_allclose(nifti.affine, AFFINE, atol=1e-5)
    lps = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    for kind, expected in (("labels_nrrd", WHOLE), ("nll", np.load(inputs["nll"]))):
        image = sitk.ReadImage(files[kind])
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)
        np.testing.assert_allclose(lps_affine(image), lps, atol=1e-5)
    segmentation = slicerio.read_segmentation(files["segmentation"])
    np.testing.assert_array_equal(segmentation["voxels"].T, WHOLE)
    np.testing.assert_allclose(segmentation["ijkToLPS"], lps, atol=1e-5)
    image = sitk.ReadImage(files["segmentation"])
    pairs = zip(segmentation["segments"], SEGMENTS, strict=True)
    for number, (segment, expected) in enumerate(pairs):
        assert segment["labelValue"] == expected["value"]
        assert segment["id"] == expected["id"]
        read = image.GetMetaData(f"Segment{number}_Name")
        assert read == expected["name"].replace("\n", " ")
        assert segment["color"] == pytest.approx(expected["color"])
        assert segment["terminology"]["type"][2] == "Abnormal Region"


def test_a_table_comes_back_and_runs_nothing(light_worker, inputs, tmp_path):
    files = light_worker.result("export", inputs, {"formats": ["findings"]}, tmp_path)["files"]
    table = pandas.read_csv(files["findings"])
    assert list(table.columns) == COLUMNS
    assert table["rank"].tolist() == [1, 2, 3]
    assert table["x_mm"].tolist() == [-3.5, 7, -0.25]
    assert table["p"][0] == 1e-4
    assert table["p"].isna().tolist() == [False, True, True]
    assert table["status"].tolist() == ["accepted", "new", "'-1+1"]
    assert table["comment"].tolist() == [
        "'=HYPERLINK(\"x\")", "Größe, \"脳\";\n2. Zeile", "-3.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-cmd", "'-cmd"),
        ("@sum", "'@sum"),
        ("\t=1", "'\t=1"),
        ("-3.5e-2", "-3.5e-2"),
        ("a=b", "a=b"),
        ("", ""),
        (True, "true"),
        (False, "false"),
        (-7, "-7"),
        (0.1, "0.1"),
    ],
)
def test_cells(light_worker, inputs, tmp_path, typed, written):
    inputs |= {"findings": [{"a": typed}], "columns": ["a", "=b"]}
    files = light_worker.result("export", inputs, {"formats": ["findings"]}, tmp_path)["files"]
    with open(files["findings"], newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["a", "'=b"], [written, ""]]


@pytest.mark.parametrize(
    ("changed", "spec", "code"),
    [
        ({"labels_start_kji": [4, 1, 3]}, {}, "array-size"),
        ({"labels_start_kji": [-1, 1, 3]}, {}, "array-size"),
        ({"size_kji": [6, 7, 8]}, {"formats": ["labels_nrrd", "nll"]}, "array-size"),
        ({"size_kji": [0, 7, 8]}, {}, "spec-value"),
        ({"nll": None}, {"formats": ["findings", "nll"]}, "nll-missing"),
        ({"findings": [{"rank": [1]}]}, {}, "table-cell"),
        ({"findings": [5]}, {}, "spec-type"),
        ({"segments": [SEGMENTS[0], SEGMENTS[0]]}, {}, "spec-value"),
        ({"segments": [SEGMENTS[0] | {"value": 0}]}, {}, "spec-value"),
        ({"segments": [SEGMENTS[0] | {"value": 1 << 16}]}, {}, "spec-value"),
        ({"segments": [SEGMENTS[0] | {"color": [1, 1, 2]}]}, {}, "spec-value"),
        ({}, {"formats": []}, "spec-value"),
        ({}, {"formats": ["dicom"]}, "spec-value"),
        ({}, {"name": " "}, "spec-value"),
        ({}, {"name": "../up"}, "output-name"),
        ({}, {"folder": "x"}, "spec-unknown-key"),
    ],
)
def test_an_export_that_fails_leaves_no_file(light_worker, inputs, tmp_path, changed, spec, code):
    failed = light_worker.failure("export", inputs | changed, spec, tmp_path / "out")
    assert failed["code"] == code
    assert not (tmp_path / "out").exists()


def test_an_export_replaces_only_when_told_to(light_worker, inputs, tmp_path):
    (tmp_path / "scan_findings.csv").write_text("years of work")
    before = tree(tmp_path)
    assert light_worker.failure("export", inputs, {}, tmp_path)["code"] == "output-exists"
    assert tree(tmp_path) == before
    light_worker.result("export", inputs, {"overwrite": True}, tmp_path)
    assert (tmp_path / "scan_findings.csv").read_text(encoding="utf-8").startswith("rank,x_mm")


def test_an_export_without_findings_is_empty_and_whole(light_worker, inputs, tmp_path):
    inputs |= {"labels": None, "segments": [], "findings": []}
    files = light_worker.result("export", inputs, {}, tmp_path)["files"]
    assert not np.asarray(nib.load(files["labels_nifti"]).dataobj).any()
    segmentation = slicerio.read_segmentation(files["segmentation"])
    assert segmentation["segments"] == []
    assert segmentation["voxels"].shape == SIZE[::-1]


def test_bytes_are_labels_too(light_worker, inputs, tmp_path):
    np.save(tmp_path / "labels.npy", np.minimum(LABELS, 255).astype(np.uint8))
    files = light_worker.result("export", inputs, {"formats": ["labels_nrrd"]}, tmp_path)["files"]
    written = sitk.GetArrayFromImage(sitk.ReadImage(files["labels_nrrd"]))
    np.testing.assert_array_equal(written, np.minimum(WHOLE, 255))


# Sample scans, the demonstration model, and what is installed

SMALL_HEADS = """
import sys; sys.path.insert(0, sys.argv.pop(1))
from functools import partial
from SpatialARAnomalyLib.service.demo import phantom
from SpatialARAnomalyLib.service.demo import demo
demo.normal_head = partial(
    phantom.normal_head, shape_kji=(6, 48, 48), spacing_mm=(4.8, 4.8, 20.0)
)
demo.NORMALS = 3
demo.SETTINGS["epochs"] = 1
from SpatialARAnomalyLib.service.worker.main import main; main()
"""


@pytest.fixture(scope="module")
def small_worker(desk):
    settings = str(desk / "small settings")
    with WorkerProcess(desk / "small", SMALL_HEADS, SPATIAL_AR_ANOMALY_HOME=settings) as process:
        yield process
        assert process.close() == []


def test_samples_are_heads_that_the_demonstration_never_saw(light_worker, tmp_path):
    results = {
        kind: light_worker.result("sample", {}, {"kind": kind}, tmp_path / kind)
        for kind in ("normal", "lesion")
    }
    unseen = normal_head(1500)
    normal = np.load(results["normal"]["files"]["voxels"])
    np.testing.assert_array_equal(normal, unseen.voxels)
    assert normal.dtype == np.int16
    assert results["normal"]["files"]["truth"] is None
    head, lesion = add_lesion(normal_head(1000), 1, contrast=0.6)
    np.testing.assert_array_equal(np.load(results["lesion"]["files"]["voxels"]), head.voxels)
    truth = np.load(results["lesion"]["files"]["truth"])
    np.testing.assert_array_equal(truth, lesion)
    assert truth.dtype == np.uint8
    for result in results.values():
        assert result["ras_from_voxel"] == head.ras_from_voxel.tolist()
        assert result["modality"] == "MR"
    trained_on = {1000 + number for number in range(1, 11)}
    assert not trained_on & {1000, 1500}


def test_a_sample_of_no_kind_is_refused(light_worker, tmp_path):
    for spec in ({"kind": "cat"}, {}, {"kind": "normal", "seed": -1}, {"kind": "normal", "x": 1}):
        code = light_worker.failure("sample", {}, spec, tmp_path / "out")["code"]
        assert code.startswith("spec-")
    failed = light_worker.failure("sample", {"x": 1}, {"kind": "normal"}, tmp_path / "out")
    assert failed["code"] == "spec-unknown-key"


@pytest.mark.slow
def test_the_demonstration_model_is_trained_and_used(small_worker, tmp_path):
    model = tmp_path / "models" / "für die Demo.safetensors"
    number = small_worker.submit("demonstration_model", spec={"device": "cpu"}, output=model)
    events = small_worker.events_of(number)
    assert events[-1] == {
        "id": number, "event": "result", "model": str(model), "name": "demonstration head",
    }  # fmt: skip
    stages = [event["name"] for event in events if event["event"] == "stage"]
    assert stages == ["make", "read", "embed", "fit", "calibrate"]
    assert [event["epoch"] for event in events if event["event"] == "epoch"] == [1]
    assert sorted(tree(tmp_path)) == ["models", "models/für die Demo.safetensors"]
    sample = small_worker.result("sample", {}, {"kind": "lesion"}, tmp_path / "sample")
    inputs = {
        "voxels": sample["files"]["voxels"],
        "ras_from_voxel": sample["ras_from_voxel"],
        "modality": sample["modality"],
        "model": str(model),
    }
    detection = small_worker.result("detect", inputs, {"device": "cpu"}, tmp_path / "out")
    assert detection["model"]["name"] == "demonstration head"

    taken = small_worker.failure("demonstration_model", spec={"device": "cpu"}, output=model)
    assert taken["code"] == "output-exists"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["make", "embed", "fit"])
def test_a_cancelled_demonstration_model_leaves_nothing(small_worker, tmp_path, stage):
    model = tmp_path / "models" / "demo"
    model.parent.mkdir()
    number = small_worker.submit("demonstration_model", spec={"device": "cpu"}, output=model)
    while (event := small_worker.event()).get("name") != stage:
        assert event["event"] not in ("result", "failed")
    small_worker.say({"cancel": number})
    while event["event"] not in ("result", "failed", "cancelled"):
        event = small_worker.event()
    assert event == {"id": number, "event": "cancelled"}
    assert list(model.parent.iterdir()) == []


def test_probe_tells_what_is_there(worker):
    found = worker.result("probe")
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["packages"]["numpy"] == np.__version__
    assert set(found["packages"]) >= set(names(REQUIREMENTS))
    assert found["import_errors"] == {}
    assert found["devices"][0]["device"] == "cpu"
    assert found["devices"][0]["memory_bytes"] > found["devices"][0]["free_bytes"] > 0


def test_probe_tells_what_is_missing_and_names_no_folder(light_worker):
    found = light_worker.result("probe")
    assert "files are missing" in found["import_errors"]["torch"]
    assert [one["device"] for one in found["devices"]] == ["cpu"]
    assert light_worker.failure("probe", {"x": 1})["code"] == "spec-unknown-key"
