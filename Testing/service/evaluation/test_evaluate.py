"""The command `evaluate` and the worker's job: figures, files, and what is refused."""

import csv
import json

import matplotlib.image
import nibabel as nib
import numpy as np
import pytest
from service.small_site import SHAPE_KJI, SPACING_MM, run, tree
from sklearn.metrics import average_precision_score, roc_auc_score
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import Cancelled, InputError
from SpatialARAnomalyLib.engine.evaluation.evaluation import METRICS
from SpatialARAnomalyLib.engine.model.model_file import load_model
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume
from SpatialARAnomalyLib.engine.specs import EvaluationSpec
from SpatialARAnomalyLib.engine.volumes.files import (
    read_volume_file,
    write_nifti,
    write_nifti_labels,
    write_nrrd,
)
from SpatialARAnomalyLib.service.batch.places import HERE, Here
from SpatialARAnomalyLib.service.demo.phantom import (
    add_lesion,
    normal_head,
)
from SpatialARAnomalyLib.service.detection.segmentation_file import (
    Segment,
    write_segmentation,
)
from SpatialARAnomalyLib.service.evaluation.cases import find_cases
from SpatialARAnomalyLib.service.evaluation.files import (
    EVALUATION_FILES,
    EvaluateRequest,
    evaluate_to_files,
)
from SpatialARAnomalyLib.service.evaluation.picture import thinned
from SpatialARAnomalyLib.service.evaluation.wording import METRIC_WORDS
from SpatialARAnomalyLib.service.worker.evaluation import (
    EvaluateInputs,
    EvaluateSpec,
)
from SpatialARAnomalyLib.service.worker.evaluation import evaluate as evaluate_one

OPTIONS = ("--device", "cpu", "--false-positive-rate", 0.05, "--resamples", 20)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Two heads with a lesion and two of one normal patient, with a table."""
    folder = tmp_path_factory.mktemp("Fälle")
    rows = ["scan,truth,patient"]
    for number in range(20, 24):
        head = normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
        name = f"Müller {number}"
        truth = ""
        if number < 22:
            head, lesion = add_lesion(head, number, contrast=0.8)
            truth = f"{name}_truth.nii.gz"
            write_nifti_labels(folder / truth, lesion.astype(np.uint8), head.ras_from_voxel)
        write_nifti(folder / f"{name}.nii.gz", head)
        rows.append(f"{name}.nii.gz,{truth},Müller {number // 2 if number > 21 else number}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def evaluation(cases, site, tmp_path_factory):
    """The folder of an evaluation, and its events."""
    out = tmp_path_factory.mktemp("out") / "evaluation"
    told = run(
        "evaluate", cases / "table.csv", "--model", site.model, "--out", out, *OPTIONS, "--json"
    )
    assert told.exit_code == 0, (told.stderr, told.exception)
    return out, [json.loads(line) for line in told.stdout.splitlines()]


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_files_are_there_and_tell_the_same(evaluation):
    out, events = evaluation
    assert sorted(path.name for path in out.iterdir()) == sorted(EVALUATION_FILES.values())
    told = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    assert told["cases"] == {"scans": 4, "patients": 3, "normal_scans": 2, "lesions": 2}
    assert events[-1]["cases"] == told["cases"]
    assert tuple(METRIC_WORDS) == METRICS == tuple(told["scores"]["nll"]["metrics"])
    assert list(told["scores"]) == ["nll", "intensity", "intensity_distance"]
    for row, event_row in zip(rows_of(out / "metrics.csv"), events[-1]["metrics"], strict=True):
        metric = told["scores"][row["score"]]["metrics"][row["metric"]]
        assert row["value"] == ("" if metric["value"] is None else str(metric["value"]))
        assert event_row["value"] == metric["value"]
        assert bool(row["reason"]) or metric["low"] <= metric["value"] <= metric["high"]
    assert told["false_positive_rate_asked"] == 0.05
    assert (told["seed"], told["device"]) == (0, "cpu")
    assert told["packages"]["scikit-learn"]


def test_scores_are_those_of_a_detection(evaluation, cases, site, tmp_path):
    """One case by hand: NLL volume of `detect`, body, scikit-learn on voxels."""
    out, _ = evaluation
    scan = cases / "Müller 20.nii.gz"
    done = run(
        "detect", scan, "--model", site.model, "--out", tmp_path,
        "--device", "cpu", "--false-positive-rate", 0.05, "--json",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    nll = read_volume_file(tmp_path / "Müller 20_nll.nrrd").voxels
    truth = nib.load(cases / "Müller 20_truth.nii.gz").get_fdata().T > 0
    card, _ = load_model(site.model)
    volume = read_volume_file(scan)
    turned = PlaneVolume(volume, card.slices.plane, card.modality)
    body = turned.orientation.undo(turned.counted)
    told = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    case = told["per_case"][0]
    # All lesion voxels lie in the body here.
    assert case["missed_ml"] == 0 < case["lesion_ml"]
    assert case["voxel_auroc"] == pytest.approx(roc_auc_score(truth[body], nll[body]), abs=1e-6)
    assert case["average_precision"] == pytest.approx(
        average_precision_score(truth[body], nll[body]), rel=1e-5
    )
    assert case["case_score"] == pytest.approx(result["case_score"], rel=1e-5)
    assert case["case_p_value"] == result["case_p_value"]
    assert case["scan_sha256"] == volume.content_sha256()
    labels = nib.load(tmp_path / "Müller 20_labels.nii.gz").get_fdata().T
    overlapping = set(labels[truth].tolist()) - {0}
    assert case["false_findings"] == len(result["findings"]) - len(overlapping)
    assert case["lesions_found"] == bool(overlapping)


def test_no_file_names_a_patient_or_a_path(evaluation, cases):
    out, _ = evaluation
    for name in EVALUATION_FILES.values():
        content = (out / name).read_bytes()
        named = name == "cases.csv"  # it names the files of the scans
        for told in (*([] if named else ["Müller", "ller"]), str(cases.parent), "table.csv"):
            assert told.encode() not in content, (name, told)
    rows = rows_of(out / "cases.csv")
    assert [row["patient"] for row in rows] == ["1", "2", "3", "3"]
    assert [row["scan"] for row in rows] == [f"Müller {number}" for number in range(20, 24)]


def test_curves_lead_to_their_areas(evaluation):
    out, _ = evaluation
    told = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    rows = rows_of(out / "curves.csv")
    for score, values in told["scores"].items():
        points = [
            (float(row["x"]), float(row["y"]))
            for row in rows
            if (row["score"], row["curve"]) == (score, "roc")
        ]
        x, y = np.array(points).T
        assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
        area = float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2))
        assert area == pytest.approx(values["metrics"]["voxel_auroc"]["value"], abs=0.01)
    assert {row["curve"] for row in rows} == {"roc", "precision_recall", "pro", "froc"}


def test_thinned_curves_keep_their_shape():
    x = np.linspace(0, 1, 20_000) ** 4
    y = np.sqrt(x)
    few_x, few_y = thinned(x, y)
    assert few_x.size <= 502
    assert (few_x[0], few_x[-1]) == (0, 1)
    assert np.abs(np.interp(x, few_x, few_y) - y).max() < 2e-3
    assert thinned(x[:9], y[:9])[0].tolist() == x[:9].tolist()


def test_the_picture_shows_all_curves(evaluation):
    out, _ = evaluation
    picture = matplotlib.image.imread(out / "evaluation.png")[..., :3]
    for color in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00), (0x00, 0x9E, 0x73)):
        near = np.abs(picture * 255 - color).max(axis=-1) < 3
        halves = near.reshape(2, near.shape[0] // 2, 2, near.shape[1] // 2).sum(axis=(1, 3))
        assert (halves > 20).all(), (color, halves)


def test_events_count_over_all_scans(evaluation):
    _, events = evaluation
    stages = [(one["name"], one["index"], one["of"]) for one in events if one["event"] == "stage"]
    assert stages == [("check", 1, 4), ("score", 2, 4), ("resample", 3, 4), ("write", 4, 4)]
    last = {one["unit"]: one for one in events if one["event"] == "progress"}
    assert all(one["done"] == one["total"] for one in last.values())
    assert last["scan"]["total"] == 4
    assert last["resample"]["total"] == 3 * 20
    assert last["slice"]["total"] > 4


def test_a_folder_is_read_by_the_names_of_its_files(cases):
    found = find_cases(cases)
    assert [case.scan.name for case in found] == [f"Müller {n}.nii.gz" for n in range(20, 24)]
    assert [case.truth is None for case in found] == [False, False, True, True]
    assert {case.patient for case in found} == {""}


def test_a_table_s_paths_count_from_its_folder(cases, tmp_path):
    table = tmp_path / "semicolons.csv"
    table.write_text(f"\ufeffscan; truth\n{cases / 'Müller 20.nii.gz'};\n", encoding="utf-8")
    (case,) = find_cases(table)
    assert case.truth is None
    volume, truth = case.read()
    assert volume.voxels.shape == truth.shape == SHAPE_KJI
    assert not truth.any()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "cases-table"),
        ("scan,truth\n", "cases-none"),
        ("scan\na.nii\n", "cases-table"),
        ("scan,truth,scan\na.nii,,3\n", "cases-table"),
        ("scan,truth\na.nii\n", "cases-table"),
        ("scan,truth\na.nii,,x\n", "cases-table"),
        ("scan,truth\n,b.nii\n", "cases-table"),
        ("scan,truth\nnone.nii,\n", "cases-missing"),
        ("scan,truth\nscan.nii,\n./scan.nii,\n", "cases-twice"),
        ("scan,truth\n\x81,\n", "cases-table"),
        ('scan,truth\n"a.nii,\n', "cases-table"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(text, code, cases, site, tmp_path):
    (tmp_path / "scan.nii").write_bytes(b"")
    (tmp_path / "table.csv").write_bytes(text.encode("latin-1"))
    before = tree(tmp_path)
    refused = run(
        "evaluate", tmp_path / "table.csv", "--model", site.model, "--out", tmp_path / "out",
        "--json",
    )  # fmt: skip
    assert refused.exit_code == 2
    assert json.loads(refused.stdout.splitlines()[-1])["code"] == code
    assert tree(tmp_path) == before


class Notices(SilentReporter):
    def __init__(self):
        self.codes = []

    def notice(self, code, text):
        self.codes.append(code)


@pytest.mark.parametrize(
    ("encoding", "codes"),
    [
        ("utf-8", ["columns-ignored"]),
        ("utf-8-sig", ["columns-ignored"]),
        ("utf-16", ["columns-ignored"]),
        ("cp1252", ["table-encoding", "columns-ignored"]),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_excel_are_read(encoding, codes, delimiter, tmp_path):
    (tmp_path / "Müller.nii").write_bytes(b"")
    lines = [
        ["Scan", "Diagnose, Alter", "Truth", "patient", ""],
        ["Müller.nii", 'a "sign"', "", "Müller", ""],
        ["", "", "", "", ""],
    ]
    table = tmp_path / "Fälle.csv"
    with table.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\r\n").writerows(lines)
    report = Notices()
    (case,) = find_cases(table, report)
    assert (case.name, case.truth, case.patient) == ("Müller", None, "Müller")
    assert report.codes == codes


def test_a_line_that_names_the_delimiter_is_no_header(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"")
    (tmp_path / "cases.csv").write_text("sep=;\nscan;truth\na.nii;\n")
    assert len(find_cases(tmp_path / "cases.csv")) == 1


@pytest.mark.slow
def test_an_evaluation_at_another_place_is_the_same_and_is_resumed(cases, site, tmp_path):
    class Interrupted(Here):
        """Computes some cases, and notes them."""

        def __init__(self, after):
            self.after, self.begun = after, []

        def run(self, work, requests, report):
            for request, outcome in super().run(work, requests, report):
                if len(self.begun) == self.after:
                    raise Cancelled
                self.begun.append(request.name)
                yield request, outcome

    def evaluated(name, place):
        request = EvaluateRequest(
            cases=cases, model=site.model, out=tmp_path / name, keep=True,
            spec=EvaluationSpec(resamples=20), device=Device.CPU, allow_mismatch=True,
        )  # fmt: skip
        evaluate_to_files(request, SilentReporter(), place)
        found = tree(tmp_path / name)
        values = json.loads(found.pop("evaluation.json"))
        del values["finished"], values["seconds"]
        return found, values

    expected = evaluated("here", HERE)
    with pytest.raises(Cancelled):
        evaluated("there", Interrupted(1))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["here", "there.evaluation"]
    rest = Interrupted(99)
    assert evaluated("there", rest) == expected
    assert "00001" not in rest.begun
    assert sorted(one.name for one in tmp_path.iterdir()) == ["here", "there"]


def test_kept_files_are_those_of_a_detection(cases, site, tmp_path):
    """Two scans of one name in two folders: the NLL volumes and pictures of both."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    for number, folder in ((20, "a"), (22, "b")):
        head = (cases / f"Müller {number}.nii.gz").read_bytes()
        (tmp_path / folder / "t1.nii.gz").write_bytes(head)
    truth = (cases / "Müller 20_truth.nii.gz").read_bytes()
    (tmp_path / "truth.nii.gz").write_bytes(truth)
    (tmp_path / "table.csv").write_text(
        "scan,truth,site\na/t1.nii.gz,truth.nii.gz,1\nb/t1.nii.gz,,2\n"
    )
    out = tmp_path / "out"
    told = run(
        "evaluate", tmp_path / "table.csv", "--model", site.model, "--out", out, *OPTIONS, "--keep"
    )
    assert told.exit_code == 0, (told.stderr, told.exception)
    assert "Columns of 'table.csv' not used: site" in told.stderr
    kept = {
        f"{number}_t1{end}" for number in ("001", "002") for end in ("_nll.nrrd", "_review.png")
    }
    assert {path.name for path in out.iterdir()} == kept | {*EVALUATION_FILES.values()}
    assert all("t1" in line for line in told.stdout.splitlines() if line.startswith("│ 1 "))
    done = run(
        "detect", tmp_path / "a" / "t1.nii.gz", "--model", site.model, "--out", tmp_path / "one",
        "--device", "cpu",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert (out / "001_t1_nll.nrrd").read_bytes() == (tmp_path / "one/t1_nll.nrrd").read_bytes()
    plain = matplotlib.image.imread(tmp_path / "one" / "t1_review.png")
    assert matplotlib.image.imread(out / "001_t1_review.png").shape[1] == plain.shape[1]


def shifted(volume, mm):
    affine = volume.ras_from_voxel.copy()
    affine[0, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda head: (head.voxels[1:], head.ras_from_voxel), "truth-size"),
        (lambda head: (head.voxels, shifted(head, 1.0)), "truth-place"),
        (lambda head: (head.voxels, shifted(head, 0.1)), None),
    ],
)
def test_a_truth_must_lie_on_the_scan_s_voxels(make, code, cases, site, tmp_path):
    head = read_volume_file(cases / "Müller 20.nii.gz")
    write_nifti(tmp_path / "a.nii", head)
    voxels, affine = make(head)
    write_nrrd(tmp_path / "b.nrrd", (voxels > 0.5).astype(np.uint8), affine)
    (tmp_path / "cases.csv").write_text("scan,truth\na.nii,b.nrrd\n")
    case = find_cases(tmp_path / "cases.csv")[0]
    if code is None:
        assert case.read()[1].any()
        return
    refused = run(
        "evaluate", tmp_path / "cases.csv", "--model", site.model, "--out", tmp_path, "--json"
    )
    last = json.loads(refused.stdout.splitlines()[-1])
    assert (refused.exit_code, last["event"], last["code"]) == (2, "failed", "output-exists")
    refused = run(
        "evaluate", tmp_path / "cases.csv", "--model", site.model, "--out", tmp_path / "o", "--json"
    )
    last = json.loads(refused.stdout.splitlines()[-1])
    assert (refused.exit_code, last["code"]) == (2, code)
    assert last["text"].startswith("Case 1 (a.nii): ")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 0, 1)])
def test_a_truth_in_another_axis_order_is_turned_onto_its_scan(order, cases, tmp_path):
    """A truth stored in another order, and from the other end, is of the same voxels."""
    head = read_volume_file(cases / "Müller 20.nii.gz")
    write_nifti(tmp_path / "a.nii", head)
    truth = read_volume_file(cases / "Müller 20_truth.nii.gz", labels=True)
    image = nib.Nifti1Image(truth.voxels.T, truth.ras_from_voxel)
    other = image.as_reoriented(np.array([[axis, -1.0] for axis in order]))
    assert other.shape != image.shape
    nib.save(other, tmp_path / "b.nii.gz")
    (tmp_path / "cases.csv").write_text("scan,truth\na.nii,b.nii.gz\n")
    _, found = find_cases(tmp_path / "cases.csv")[0].read()
    np.testing.assert_array_equal(found, truth.voxels > 0)


def test_a_truth_at_fault_is_named(cases, tmp_path):
    head = read_volume_file(cases / "Müller 20.nii.gz")
    write_nifti(tmp_path / "a.nii", head)
    (tmp_path / "b.nii").write_bytes(b"\0" * 400)
    (tmp_path / "cases.csv").write_text("scan,truth\na.nii,b.nii\n")
    with pytest.raises(InputError, match=r"^The truth b\.nii: The volume file cannot be read"):
        find_cases(tmp_path / "cases.csv")[0].read()


def test_a_truth_of_negative_values_is_refused(cases, tmp_path):
    head = read_volume_file(cases / "Müller 20.nii.gz")
    write_nifti(tmp_path / "a.nii", head)
    labels = np.where(head.voxels > 100, -1, 0).astype("i2")
    write_nrrd(tmp_path / "b.nrrd", labels, head.ras_from_voxel)
    (tmp_path / "cases.csv").write_text("scan,truth\na.nii,b.nrrd\n")
    with pytest.raises(InputError, match="holds negative values") as caught:
        find_cases(tmp_path / "cases.csv")[0].read()
    assert caught.value.code == "truth-values"
    with pytest.raises(InputError, match="The mask must hold labels; it holds negative values"):
        head.masked(labels)


def test_a_segmentation_of_slicer_is_a_truth(cases, tmp_path):
    head = read_volume_file(cases / "Müller 20.nii.gz")
    labels = np.zeros(head.voxels.shape, dtype=np.uint16)
    labels[2, 20:24, 20:24], labels[3, 20:24, 20:24] = 1, 2
    segments = [
        Segment(value=value, id=f"s{value}", name=f"part {value}", color=(1.0, 0.0, 0.0))
        for value in (1, 2)
    ]
    write_nifti(tmp_path / "a.nii", head)
    write_segmentation(tmp_path / "b.seg.nrrd", labels, head.ras_from_voxel, segments)
    (tmp_path / "cases.csv").write_text("scan,truth\na.nii,b.seg.nrrd\n")
    assert (find_cases(tmp_path / "cases.csv")[0].read()[1] == (labels > 0)).all()


def test_a_truth_without_its_scan_is_refused(tmp_path):
    (tmp_path / "x_truth.nii.gz").write_bytes(b"")
    with pytest.raises(Exception, match=r"'x_truth.nii.gz' has none"):
        find_cases(tmp_path)


def test_only_an_earlier_evaluation_is_replaced(cases, site, evaluation, tmp_path):
    (tmp_path / "cases.csv").write_bytes((cases / "table.csv").read_bytes())
    told = run("evaluate", cases, "--model", site.model, "--out", tmp_path, "--overwrite", *OPTIONS)
    assert told.exit_code == 2
    assert "Only an earlier evaluation is replaced" in told.stderr
    assert (tmp_path / "cases.csv").read_bytes() == (cases / "table.csv").read_bytes()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_person_gets_a_table(cases, site, evaluation, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    out, events = evaluation
    told = run(
        "evaluate", cases, "--model", site.model, "--out", out, "--overwrite",
        *OPTIONS[:4], "--resamples", 0,
    )  # fmt: skip
    assert told.exit_code == 0, told.stderr
    value = {row["metric"]: row["value"] for row in events[-1]["metrics"][: len(METRICS)]}
    for name in ("voxel_auroc", "pro", "lesions_found"):
        row = next(line for line in told.stdout.splitlines() if METRIC_WORDS[name][0] in line)
        assert f"{value[name]:.3f}" in row
    assert "each scan is treated as a separate patient" in told.stderr


@pytest.mark.parametrize("options", [("--resamples", -1), ("--seed", -1), ("--resamples", 10**6)])
def test_settings_out_of_range_are_refused(options, cases, site, tmp_path):
    told = run("evaluate", cases, "--model", site.model, "--out", tmp_path / "o", *options)
    assert told.exit_code == 2
    assert f"{options[0][2:]} must" in told.stderr
    assert not (tmp_path / "o").exists()


# The worker's job


def inputs_for(folder, nll, truth, voxels=None, **more):
    arrays = {"nll": nll, "truth": truth} | ({} if voxels is None else {"voxels": voxels})
    files = {}
    for name, array in arrays.items():
        files[name] = str(folder / f"{name}.npy")
        np.save(files[name], array)
    affine = tuple(map(tuple, np.diag([2.0, 2.0, 2.0, 1.0]).tolist()))
    calibration = {
        "levels": [0.0, 0.5, 1.0], "nll": [0.0, 1.0, 2.0], "token_nll": [0.0, 1.0, 2.0],
        "tokens": 500, "volumes": 3,
    }  # fmt: skip
    return EvaluateInputs.from_dict(
        files | {"ras_from_voxel": affine, "calibration": calibration, "model": "brain"} | more
    )


def test_the_worker_evaluates_one_result(tmp_path):
    generator = np.random.default_rng(0)
    nll = generator.random((8, 9, 10)).astype(np.float32) + 0.5
    truth = np.zeros(nll.shape, dtype=np.uint8)
    truth[2:4, 2:4, 2:4] = 3
    nll[truth > 0] += 1.0
    nll[0] = -4.0  # outside the body
    voxels = (100 * generator.random(nll.shape)).astype(np.int16)
    inputs = inputs_for(tmp_path, nll, truth, voxels, modality="MR")
    spec = EvaluateSpec(false_positive_rate=0.2, min_volume_ml=0.0)
    result = evaluate_one(inputs, spec, tmp_path / "out", SilentReporter())
    body = nll > -4
    values = {(row["score"], row["metric"]): row for row in result["metrics"]}
    auroc = roc_auc_score(truth[body] > 0, nll[body])
    assert values["nll", "voxel_auroc"]["value"] == pytest.approx(auroc, abs=1e-12)
    assert values["intensity", "voxel_auroc"]["value"] == pytest.approx(0.5, abs=0.2)
    assert values["nll", "voxel_auroc"]["low"] is None
    assert values["nll", "case_auroc"]["reason"] == "no scan is normal"
    assert result["threshold_nll"] == pytest.approx(1.6)
    assert {*EVALUATION_FILES, "preview"} == set(result["files"])
    assert (tmp_path / "out" / "evaluation.png").stat().st_size > 10_000
    plain = evaluate_one(
        inputs_for(tmp_path, nll, truth), spec, tmp_path / "plain", SilentReporter()
    )
    assert plain["metrics"] == result["metrics"][: len(METRICS)]


def test_the_worker_refuses_what_does_not_fit(tmp_path):
    nll = np.random.default_rng(1).random((4, 5, 6)).astype(np.float32)
    spec = EvaluateSpec()
    with pytest.raises(Exception, match="The truth must have 6 × 5 × 4 voxels"):
        evaluate_one(
            inputs_for(tmp_path, nll, np.zeros((4, 5, 5), np.uint8)), spec, tmp_path / "o",
            SilentReporter(),
        )  # fmt: skip
    with pytest.raises(Exception, match="The scan must have 6 × 5 × 4 voxels"):
        evaluate_one(
            inputs_for(tmp_path, nll, nll > 2, nll[1:]), spec, tmp_path / "o", SilentReporter()
        )
    assert not (tmp_path / "o").exists()


def test_a_normal_scan_s_evaluation_says_what_it_cannot(tmp_path):
    nll = np.random.default_rng(2).random((4, 5, 6)).astype(np.float32)
    result = evaluate_one(
        inputs_for(tmp_path, nll, np.zeros(nll.shape, np.uint8)), EvaluateSpec(), tmp_path / "o",
        SilentReporter(),
    )  # fmt: skip
    values = {row["metric"]: row for row in result["metrics"]}
    assert (values["pro"]["value"], values["pro"]["reason"]) == (None, "no scan has a lesion")
    assert values["false_positive_rate"]["value"] == 0.0
    assert (tmp_path / "o" / "evaluation.png").exists()
