"""The BMAD command on tiny sets: complete, resumed, cancelled and refused."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
import typer
from Benchmark.bmad import job, methods
from Benchmark.bmad.choices import Peer, parse_methods, parse_seeds
from Benchmark.bmad.command import app
from Benchmark.bmad.images import load_batch
from Benchmark.bmad.layout import DatasetName, Protocol, find_dataset
from Benchmark.bmad.table import METRICS, MethodRow
from Benchmark.peers.brightness import brightness
from Benchmark.tests.bmad_sets import TRAINING, make_set
from filelock import FileLock
from service.small_site import tree
from sklearn.metrics import average_precision_score, roc_auc_score
from SpatialARAnomalyLib.engine.errors import (
    Cancelled,
    SpecError,
)
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import (
    Preset,
    TrainingSpec,
)
from typer.testing import CliRunner

pytestmark = pytest.mark.slow

OPTIONS = ("--size-px", 64, "--epochs", 1, "--batch-size", 4, "--device", "cpu")
METHODS = "dilated,bank,gaussian,bright,dark"


def bmad(root, which, out, *options):
    arguments = (root, "--set", which, "--out", out, *OPTIONS, *options)
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("BMAD")
    return {which: make_set(root / which, which) for which in DatasetName}


@pytest.fixture(scope="module")
def tables(sets, tmp_path_factory):
    """Compare every set in both protocols; the second reuses tokens and networks of the first."""
    found = {}
    for which, root in sets.items():
        out = tmp_path_factory.mktemp("tables")
        for protocol in Protocol:
            options = ("--protocol", protocol, "--methods", METHODS, "--seeds", "1,2")
            result = bmad(root, which, out, *options, "--json")
            assert result.exit_code == 0, result.stderr
            events = [json.loads(line) for line in result.stdout.splitlines()]
            assert [one["event"] for one in events].count("result") == 1
            found[which, protocol] = (out, events)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("protocol", Protocol)
@pytest.mark.parametrize("which", DatasetName)
def test_every_set_gives_a_table_in_every_protocol(tables, which, protocol):
    out, events = tables[which, protocol]
    stem = f"bmad_{which}_{protocol}"
    content = json.loads((out / f"{stem}.json").read_text(encoding="utf-8"))
    assert events[-1]["files"] == [f"{stem}.{kind}" for kind in ("csv", "json", "png")]
    about = content["about"]
    assert (about["training_images"], about["training_patients"]) == (6, 3)
    assert (about["test_images"], about["test_anomalous_images"]) == (6, 4)
    assert about["test_patients"] == 3
    assert about["seeds"] == [1, 2]
    rows = {row["method"]: row for row in content["rows"]}
    assert ",".join(rows) == METHODS
    with (out / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    for name, row in rows.items():
        drawing = name in ("dilated", "gaussian")
        assert len(row["values"]["pro"]) == (2 if drawing else 1)
        for metric in METRICS:
            mean = row["mean"][metric]
            assert mean == pytest.approx(np.mean(row["values"][metric]))
            assert float(lines[name][f"{metric}_mean"]) == pytest.approx(mean)
            if drawing:
                assert row["std"][metric] == pytest.approx(np.std(row["values"][metric], ddof=1))
            else:
                assert row["std"][metric] is None
                assert lines[name][f"{metric}_std"] == ""
        assert row["image_ms"] == pytest.approx(row["encode_ms"] + row["score_ms"])
    assert rows["bank"]["mean"]["pixel_auroc"] > 0.9  # bright lesions on similar patients
    assert rows["bank"]["size_bytes"] == 6 * 16 * about["encoder"]["channels"] * 2
    assert rows["bright"]["mean"]["pixel_auroc"] + rows["dark"]["mean"][
        "pixel_auroc"
    ] == pytest.approx(1.0, abs=1e-3)
    assert matplotlib.image.imread(out / f"{stem}.png").shape[1] > 600


@pytest.mark.slow
@pytest.mark.parametrize("protocol", Protocol)
def test_metrics_are_those_of_all_pixels_together(sets, tables, protocol):
    """Brightness is computed again from the images alone."""
    which = DatasetName.RESC
    data = find_dataset(sets[which], which)
    scores, labels = [], []
    for image in data.test:
        given = load_batch([image], 64)[0]
        shape = (240, 240)
        if protocol is Protocol.NATIVE:
            shape = matplotlib.image.imread(image.path).shape
        score = torch.nn.functional.interpolate(
            brightness(given, 1)[None], size=shape, mode="bilinear", align_corners=False
        )
        scores.append(score[0, 0].numpy())
        label = np.zeros(shape, bool)
        if image.label is not None:
            label = matplotlib.image.imread(image.label) > 0
            if protocol is Protocol.PAPER:
                rows, columns = (
                    np.floor((np.arange(240) * 64 // 240 + 0.5) * side / 64).astype(int)
                    for side in label.shape
                )
                label = label[np.ix_(rows, columns)]
        labels.append(label)
    out, _ = tables[which, protocol]
    content = json.loads((out / f"bmad_{which}_{protocol}.json").read_text(encoding="utf-8"))
    (found,) = (row["mean"] for row in content["rows"] if row["method"] == "bright")
    score = np.concatenate([one.ravel() for one in scores])
    label = np.concatenate([one.ravel() for one in labels])
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(label, score), abs=2e-4)
    assert found["pixel_ap"] == pytest.approx(average_precision_score(label, score), abs=1e-3)
    assert found["image_auroc"] == pytest.approx(
        roc_auc_score([one.any() for one in labels], [one.max() for one in scores])
    )


@pytest.mark.slow
def test_the_table_holds_no_path_or_patient(tables):
    for (which, protocol), (out, _) in tables.items():
        text = (out / f"bmad_{which}_{protocol}.json").read_text(encoding="utf-8")
        assert str(out.parent) not in text
        assert not re.search(r"\d_6[01]|\.png", text)


@pytest.mark.slow
def test_the_second_protocol_reuses_tokens_and_networks(tables):
    for which in DatasetName:
        out, events = tables[which, Protocol.NATIVE]
        work = out / job.WORK_FOLDER
        assert len(list((work / "tokens").iterdir())) == 2  # of training and of test
        assert len(list(work.glob("*.checkpoint"))) == 2  # one per seed
        assert [
            one for one in events if one["event"] == "progress" and one["unit"] == "batch"
        ] == []


@pytest.mark.slow
def test_a_finished_run_is_not_repeated(sets, tables, monkeypatch, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(tables[DatasetName.LIVER, Protocol.PAPER][0], out)
    before = json.loads((out / "bmad_liver_paper.json").read_text(encoding="utf-8"))

    def never(*_args):
        raise AssertionError("nothing is to be fitted")

    monkeypatch.setattr(job, "fit_autoregressive", never)
    monkeypatch.setattr(job, "fit_peer", never)
    options = ("--methods", METHODS, "--seeds", "1,2")
    refused = bmad(sets[DatasetName.LIVER], DatasetName.LIVER, out, *options)
    assert refused.exit_code == 2
    assert "must not hold these files yet: bmad_liver_paper.csv" in refused.stderr
    assert (
        bmad(sets[DatasetName.LIVER], DatasetName.LIVER, out, *options, "--overwrite").exit_code
        == 0
    )
    after = json.loads((out / "bmad_liver_paper.json").read_text(encoding="utf-8"))
    assert [row["values"] for row in after["rows"]] == [row["values"] for row in before["rows"]]


class Impatient(SilentReporter):
    """Cancels when the second method begins."""

    def stage(self, name: str, index: int, of: int) -> None:
        self.last = index

    def check_cancelled(self) -> None:
        if self.last == 4:
            raise Cancelled


def request(root, out, **changes):
    values = {
        "root": root,
        "which": DatasetName.LIVER,
        "protocol": Protocol.PAPER,
        "encoder": "demonstration",
        "out": out,
        "methods": (Preset.STANDARD, Peer.CORESET),
        "seeds": (3,),
        "training": TrainingSpec(epochs=1, batch_size=4),
        "size_px": 64,
    }
    return job.ComparisonRequest(**values | changes)


@pytest.mark.slow
def test_a_cancelled_command_resumes(sets, tmp_path, monkeypatch):
    asked = request(sets[DatasetName.LIVER], tmp_path / "out")
    with pytest.raises(Cancelled):
        job.compare(asked, Impatient())
    assert [one.name for one in asked.out.iterdir()] == [job.WORK_FOLDER]
    straight, _ = job.compare(
        request(sets[DatasetName.LIVER], tmp_path / "straight"), SilentReporter()
    )
    monkeypatch.setattr(job, "fit_autoregressive", None)  # it has its result
    resumed, files = job.compare(asked, SilentReporter())
    assert all(file.exists() for file in files)
    assert [row.values for row in resumed.rows] == [row.values for row in straight.rows]


def test_a_method_that_does_not_fit_is_a_row_with_the_reason(sets, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "_memory_bytes", lambda _device: 30_000)
    monkeypatch.setattr(methods, "CORESET_DISTANCES_CPU", 100)
    monkeypatch.setattr(methods, "TOKENS_PER_CHANNEL", 7)
    compared = (Peer.BANK, Peer.CORESET, Peer.GAUSSIAN, Peer.BRIGHT)
    table, files = job.compare(
        request(sets[DatasetName.LIVER], tmp_path, methods=compared), SilentReporter()
    )
    bank, coreset, gaussian, bright = table.rows
    assert bank.not_run == "not run: needs 0.0246 MB of memory; 0.015 MB may be used"
    assert coreset.not_run == "not run: needs 8.6e+02 distances; 1e+02 are allowed on cpu"
    assert gaussian.not_run == "not run: needs 7 normal images; there are 6"
    assert bright.not_run == ""
    assert bright.mean("pixel_auroc") > 0.9
    line = files[0].read_text(encoding="utf-8").splitlines()[1]
    assert line.startswith("bank,0,,,")
    assert line.endswith(bank.not_run)


def test_images_without_a_patient_or_with_colors_give_a_notice(tmp_path):
    from PIL import Image

    root = make_set(tmp_path / "set", DatasetName.LIVER)
    good = root / "train" / "good"
    (good / "00001_60.png").rename(good / "17.png")
    pixels = np.random.RandomState(0).randint(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(good / "00002_60.png")
    result = bmad(root, DatasetName.LIVER, tmp_path / "out", "--methods", "bank", "--json")
    notices = {
        one["code"]: one["text"]
        for one in map(json.loads, result.stdout.splitlines())
        if one["event"] == "notice"
    }
    assert set(notices) == {"bmad-names", "bmad-color"}
    assert notices["bmad-names"].startswith("1 file names are not <patient>_<slice>.png")
    assert notices["bmad-color"] == "1 images have colors and were reduced to their luminance."


def test_a_second_comparison_in_the_same_folder_is_refused(sets, tmp_path):
    work = tmp_path / job.WORK_FOLDER
    work.mkdir()
    with FileLock(work / job.LOCK_FILE):
        result = bmad(sets[DatasetName.LIVER], DatasetName.LIVER, tmp_path, "--methods", "bright")
    assert result.exit_code == 2
    assert "Another comparison is running" in result.stderr
    assert [one.name for one in tmp_path.iterdir()] == [job.WORK_FOLDER]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "bank,best"], "Methods must be among standard, dilated"),
        (["--methods", ","], "At least one method must be named; found none"),
        (["--seeds", "1,two"], "Seeds must be whole numbers from 0; found 'two'"),
        (["--seeds", str(2**32)], "seed must lie in"),
        (["--size-px", 100], "multiple of the encoder's patch (16 px); found 100 px. Use 96 px."),
        (["--held-out-share", 0], "held_out_share must lie in (0, 1)"),
    ],
)
def test_bad_input_changes_nothing(tmp_path, options, message):
    root = make_set(tmp_path / "set", DatasetName.RESC)
    before = tree(tmp_path)
    result = bmad(root, DatasetName.RESC, tmp_path / "out", *options)
    assert result.exit_code == 2, result.stdout
    assert message in " ".join(result.stderr.split())
    assert tree(tmp_path) == before


def test_one_patient_is_not_enough(tmp_path):
    root = make_set(tmp_path / "set", DatasetName.LIVER)
    for patient in TRAINING[1:]:
        for path in (root / "train" / "good").glob(f"{patient}_*"):
            path.unlink()
    result = bmad(root, DatasetName.LIVER, tmp_path / "out")
    assert result.exit_code == 2
    assert "must be of at least 2 patients" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_documented_script_runs_from_any_folder(tmp_path):
    script = Path(job.__file__).parents[1] / "bmad.py"
    command = [sys.executable, "-W", "error", str(script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: bmad.py" in done.stdout


def test_options_named_in_the_document_exist():
    known = {one for option in typer.main.get_command(app).params for one in option.opts}
    document = Path(__file__).parents[3] / "Resources" / "Docs" / "bmad.md"
    named = set(re.findall(r"--[a-z][a-z-]+", document.read_text(encoding="utf-8")))
    assert {"--set", "--seeds"} <= named
    assert named - known == {"--help"}


def test_names_of_methods_and_seeds():
    assert parse_methods(" bank, standard,bank") == [Peer.BANK, Preset.STANDARD]
    assert parse_seeds("7, 8,7") == [7, 8]
    with pytest.raises(SpecError, match="found '-1'"):
        parse_seeds("-1")


def test_a_metric_is_formatted_with_its_standard_deviation():
    row = MethodRow(method="bank", values={"pro": (0.5, 0.6, 0.7), "pixel_ap": (0.25,)})
    assert row.percent("pro") == "60.00±10.00"
    assert row.percent("pixel_ap") == "25.00"
    assert row.percent("pixel_auroc") == "–"
    assert MethodRow(method="bank", values={"pro": (0.5, None)}).percent("pro") == "–"


@pytest.mark.slow
def test_the_table_is_printed(sets, tables, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(tables[DatasetName.LIVER, Protocol.PAPER][0], out)
    options = ("--methods", METHODS, "--seeds", "1,2", "--overwrite")
    shown = bmad(sets[DatasetName.LIVER], DatasetName.LIVER, out, *options).stdout
    assert "BMAD liver, protocol paper, encoder demonstration" in shown
    row = json.loads((out / "bmad_liver_paper.json").read_text(encoding="utf-8"))["rows"][1]
    assert f"{100 * row['mean']['pixel_auroc']:.2f}" in shown
    assert "bmad_liver_paper.png" in shown
