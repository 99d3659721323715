"""Files of a stranger: what is promised is not allocated, and every end is one clear error."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from Faults.hostile import FILES
from Faults.mutations import KINDS, run_child
from SpatialARAnomalyLib.engine.cards.encoder_card import read_json
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.files import MAX_JSON_BYTES
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, SliceSpec
from SpatialARAnomalyLib.service.array_files import read_voxels
from SpatialARAnomalyLib.service.scan_search import search_scans
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.training.folder import TrainingFolder
from SpatialARAnomalyLib.service.training.request import TrainSpec

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")


@on_linux
@pytest.mark.slow
def test_what_a_file_promises_is_not_allocated(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "Faults.hostile", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=600,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: code for name, (*_, code) in FILES.items()}
    assert done.stderr == ""


@on_linux
@pytest.mark.slow
def test_mutated_inputs_end_in_a_reading_or_one_error():
    """`python -m Faults.mutations --readers 5000 --parsers 20000` is the longer run."""
    ends = run_child(KINDS, range(10_000, 10_025))
    assert {kind: sum(found.values()) for kind, found in ends.items()} == dict.fromkeys(KINDS, 25)


def test_sizes_that_no_machine_has_are_refused():
    for make in (
        lambda: SliceSpec(fov_mm=240.0, size_px=100_000),
        lambda: AutoregressiveSpec(layers=10**9),
        lambda: AutoregressiveSpec(dilations=(1,) * 1000),
    ):
        with pytest.raises(SpatialARError, match="at most"):
            make()


def test_a_json_file_is_bounded(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'"' + b"x" * (MAX_JSON_BYTES - 2) + b'"')
    with pytest.raises(SpatialARError, match="must hold a JSON object"):
        read_json(path)
    path.write_bytes(b" " * MAX_JSON_BYTES + b"{}")
    with pytest.raises(SpatialARError):
        read_json(path)
    path.write_bytes(b" " * (MAX_JSON_BYTES - 2) + b"{}")
    assert read_json(path) == {}


@pytest.mark.parametrize("values", ["x", 3, None, [1], [["epochs", 3]]])
def test_settings_that_are_no_object_are_an_error(tmp_path, values):
    with pytest.raises(SpatialARError, match="must be an object"):
        TrainSpec.from_dict(values)
    folder = TrainingFolder(tmp_path / "a")
    folder.path.mkdir()
    folder.request.write_text(json.dumps({"spec": values, "sources": []}))
    assert folder.read_record() is None


@pytest.mark.parametrize("end", [b"(", b"\xff", b"1,}", b"[" * 400])
def test_a_damaged_header_of_an_array_is_an_error(tmp_path, end):
    path = tmp_path / "key.npy"
    np.save(path, np.zeros((2, 3, 4), "<f2"))
    data = path.read_bytes()
    path.write_bytes(data[:20] + end + data[20 + len(end) :])
    assert "key" not in FeatureStore(tmp_path)
    with pytest.raises(SpatialARError) as caught:
        read_voxels(path)
    assert caught.value.code == "array-format"


@pytest.mark.parametrize("text", ["scan\na\0.nii\n", "scan;truth\na.nii;\0\n", "scan,mask\nb,\0\n"])
def test_a_table_that_names_no_file_is_an_error(tmp_path, text):
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(SpatialARError, match="not a text of comma-separated values"):
        search_scans([path], [], SilentReporter())
    with pytest.raises(SpatialARError, match="path"):
        ScanSource.from_dict({"path": "a\0.nii"})
