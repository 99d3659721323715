"""The Python interface: its documentation runs, its names are lazy and known to type checkers."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SpatialARAnomalyLib
from service.small_site import SHAPE_KJI, SPACING_MM, run
from SpatialARAnomalyLib.engine.errors import InputError, ModelError
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.demo.phantom import add_lesion, normal_head
from SpatialARAnomalyLib.service.training.folder import TrainingFolder

PACKAGE = Path(SpatialARAnomalyLib.__file__)
PAGE = Path(__file__).parents[2] / "Resources" / "Docs" / "python.md"


@pytest.fixture(scope="module")
def model(site):
    return SpatialARAnomalyLib.load_model(site.model, "cpu")


def head(seed):
    return normal_head(seed, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)


def test_the_page_s_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    values: dict[str, object] = {}
    exec("\n".join(blocks), values)
    detection, evaluated = values["detection"], values["evaluated"]
    assert detection.nll.shape == detection.labels.shape == SHAPE_KJI
    assert evaluated.counts == {"scans": 3, "patients": 3, "normal_scans": 2, "lesions": 1}
    assert type(values["events"][0]).__name__ == "StageEvent"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["heads.safetensors", "nll.nii.gz"]
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "held-out scans" in printed.out


def test_importing_the_package_imports_none_of_its_modules():
    code = "import sys, SpatialARAnomalyLib; print([n for n in sys.modules if 'AnomalyLib.' in n])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_all_names_are_there_and_no_other():
    for name in SpatialARAnomalyLib.__all__:
        assert getattr(SpatialARAnomalyLib, name) is not None
    assert set(SpatialARAnomalyLib.__all__) < set(dir(SpatialARAnomalyLib))
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = SpatialARAnomalyLib.segment


def test_type_checkers_see_the_names_where_python_finds_them():
    tree = ast.parse(PACKAGE.read_text(encoding="utf-8"))
    seen = {
        (alias.name, f"{node.module}")
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    found = {
        (name, f"SpatialARAnomalyLib.{module}")
        for module, names in SpatialARAnomalyLib._MODULES.items()
        for name in names
    }
    assert seen == found
    assert sorted(name for name, _ in found) == sorted(SpatialARAnomalyLib.__all__)


def test_detection_in_memory_is_that_of_the_command_line(site, model, tmp_path):
    done = run(
        "detect", site.normals[1], "--model", site.model, "--out", tmp_path, "--device", "cpu"
    )
    assert done.exit_code == 0, done.stderr
    detection = SpatialARAnomalyLib.detect(SpatialARAnomalyLib.read_volume(site.normals[1]), model)
    written = SpatialARAnomalyLib.read_volume(tmp_path / "normal_1_nll.nrrd")
    np.testing.assert_array_equal(detection.nll, written.voxels)


def test_an_array_in_double_precision_is_the_same_scan(site, model):
    volume = SpatialARAnomalyLib.read_volume(site.normals[0])
    double = SpatialARAnomalyLib.Volume(volume.voxels.astype(np.float64), volume.ras_from_voxel)
    first, second = (SpatialARAnomalyLib.detect(one, model) for one in (volume, double))
    np.testing.assert_array_equal(first.nll, second.nll)
    assert second.volume.voxels.dtype == np.float32


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda voxels: np.full(voxels.shape, np.nan), "voxels-not-finite"),
        (lambda voxels: np.zeros_like(voxels), "volume-constant"),
        (lambda voxels: (voxels > 100).astype(np.int16), "label-map"),
    ],
)
def test_an_array_that_cannot_be_a_scan_is_refused(spoil, code, model):
    scan = head(3)
    spoiled = SpatialARAnomalyLib.Volume(spoil(scan.voxels), scan.ras_from_voxel)
    with pytest.raises(InputError) as caught:
        SpatialARAnomalyLib.detect(spoiled, model)
    assert caught.value.code == code


def test_a_mismatch_is_refused_unless_it_is_allowed(model):
    scan = head(3)
    large = SpatialARAnomalyLib.Volume(scan.voxels, scan.ras_from_voxel @ np.diag([4, 4, 1, 1]))
    with pytest.raises(ModelError):
        SpatialARAnomalyLib.detect(large, model)
    assert len(SpatialARAnomalyLib.detect(large, model, allow_mismatch=True).mismatches) == 2


def test_a_training_on_volumes_is_that_on_their_files(site, tmp_path):
    spec = SpatialARAnomalyLib.TrainSpec(size_px=112, epochs=1, batch_size=8)
    volumes = [SpatialARAnomalyLib.read_volume(path) for path in site.normals]
    cards = [
        SpatialARAnomalyLib.train(normals, tmp_path / name, spec)
        for name, normals in (("same", volumes), ("same again", site.normals[0].parent))
    ]
    assert cards[0].weights_sha256 == cards[1].weights_sha256
    assert cards[0].normals == cards[1].normals
    assert not TrainingFolder(tmp_path / "same").path.exists()


def test_a_training_on_volumes_names_the_one_that_cannot_be_used(tmp_path):
    scan = head(0)
    flat = SpatialARAnomalyLib.Volume(np.zeros_like(scan.voxels), scan.ras_from_voxel)
    spec = SpatialARAnomalyLib.TrainSpec(size_px=112)
    with pytest.raises(InputError, match="volume 2: The volume must hold an image"):
        SpatialARAnomalyLib.train([scan, flat], tmp_path / "model", spec)
    assert list(tmp_path.iterdir()) == []


def test_cases_in_memory_are_evaluated_as_those_in_files(site, model, tmp_path):
    scan, lesion = add_lesion(head(20), 20, contrast=0.8)
    cases = [
        SpatialARAnomalyLib.Case(scan, lesion, "A"),
        SpatialARAnomalyLib.Case(scan, lesion.astype(np.float64), "B"),
        SpatialARAnomalyLib.Case(str(site.normals[0])),
    ]
    spec = SpatialARAnomalyLib.EvaluationSpec(resamples=0)
    evaluated = SpatialARAnomalyLib.evaluate(cases, model, spec, report=SilentReporter())
    first, second, normal = (case["nll"] for case in evaluated.cases)
    assert evaluated.counts == {"scans": 3, "patients": 3, "normal_scans": 1, "lesions": 2}
    assert (first.case_score, first.lesion_voxels) == (second.case_score, second.lesion_voxels)
    assert (normal.normal, normal.patient) == (True, "scan 3")
    with pytest.raises(InputError, match="there are none"):
        SpatialARAnomalyLib.evaluate([], model)
    with pytest.raises(InputError, match="Case 1: The truth must have the scan's"):
        SpatialARAnomalyLib.evaluate([SpatialARAnomalyLib.Case(scan, lesion[1:])], model)
