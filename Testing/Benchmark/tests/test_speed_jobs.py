"""The parts of the speed benchmark that run whole jobs measure, whatever the speed."""

import itertools
import math
import os
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from Benchmark.speed import cold_start, detection, memory, profile, training, watches
from Benchmark.speed.children import run_child
from Benchmark.speed.parts import PARTS
from Benchmark.speed.peaks import STATUS, PeakMemory
from Benchmark.speed.site import many_heads, own_settings
from Benchmark.speed.tables import Options
from Benchmark.speed.timing import Spread
from Benchmark.speed.training import Costs
from Benchmark.speed.warm_job import WarmJob
from Benchmark.speed.watches import Watches
from engine.model_examples import CARD
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file
from SpatialARAnomalyLib.service import user_folder
from SpatialARAnomalyLib.service.detection.result_files import result_names

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("speed")


@pytest.fixture
def options(work):
    return Options(device=torch.device("cpu"), quick=True, repeats=1, pictures=None, work=work)


def rows_of(table):
    return {row[0]: row[1:] for row in table.rows}


def positive(cell):
    values = [cell.median, cell.low, cell.high] if isinstance(cell, Spread) else [cell]
    return all(math.isfinite(value) and value > 0 for value in values)


def test_the_parts_are_known_to_the_command():
    assert {"detection", "training", "memory", "cold_start", "profile"} <= set(PARTS)


def test_a_warm_job_writes_all_that_the_command_line_does(options):
    with own_settings(options.work):
        job = WarmJob.make(options)
        detection = job()
        _, model, name = job.read()
        found = job()
        assert job.read()[1].encoder is model.encoder
    written = {path.name for path in job.out.iterdir()}
    assert written == set(result_names(name).values())
    assert set(found.seconds) == {"read", "embed", "find", "write"}
    inside = detection.stack.inside_volume()
    assert np.ptp(detection.nll[inside]) > 0
    np.testing.assert_array_equal(detection.nll, found.nll)


def test_detection_is_set_beside_its_bare_encoder(options):
    (table,) = detection.run(options)
    rows = rows_of(table)
    names = ["bare encoder, the same slices as images in memory", "whole job"]
    assert list(rows)[:2] == names
    assert [f"of it: {stage}" for stage in ("read", "embed", "find", "write")] == list(rows)[2:]
    bare, whole = (rows[name][0] for name in names)
    assert positive(bare)
    assert whole.median > bare.median
    (target,) = table.targets
    assert target.at_most == 1.1
    assert target.reached.median == pytest.approx(whole.median / bare.median)
    stages = sum(rows[name][0].median for name in list(rows)[2:])
    assert stages <= whole.median * 1.01


def test_the_gain_of_the_store_is_that_of_its_costs():
    # 10 s to embed, 1 s for an epoch: 40 · 11 against 10 + 40, and slower in the second turn.
    costs = Costs(store=[10.0, 20.0], embed=[10.0, 20.0], epoch=[1.0, 2.0])
    assert costs.through(40) == [50.0, 100.0]
    assert costs.anew(40) == [440.0, 880.0]
    gain = costs.gain(40)
    assert (gain.median, gain.low, gain.high) == (8.8, 8.8, 8.8)
    assert costs.gain(1).median == 1.0


def test_training_is_measured_in_both_ways(options):
    large, real = training.run(options)
    rows = rows_of(large)
    assert len(rows) == 6
    assert all(positive(cell) for row in large.rows for cell in row[1:] if cell is not None)
    assert large.targets[0].at_least == 3.0
    assert large.targets[0].reached == rows["gain"][1]
    rows = rows_of(real)
    measured, predicted = (
        rows[f"gain, {how}"][0] for how in ("measured", "predicted from the cost of a slice")
    )
    assert measured == pytest.approx(
        rows["embedded in every epoch"][0] / rows["through the store"][0]
    )
    assert positive(measured)
    assert positive(predicted)


def test_the_profile_counts_all_of_the_job_once(options):
    job, encoder = profile.run(options)
    rows = rows_of(job)
    assert list(rows) == [*profile.GROUPS, "all else", "whole job"]
    assert not any("Not found" in note for note in job.notes), job.notes
    parts = sum(row[0].median for name, row in rows.items() if name != "whole job")
    assert parts == pytest.approx(rows["whole job"][0].median)
    assert all(positive(row[0]) for row in rows.values())
    assert sum(row[0].median for row in rows_of(encoder).values()) == pytest.approx(1.0)
    assert rows_of(encoder)["products of matrices"][0].median > 0


def test_watches_count_the_innermost_and_go_off_again(monkeypatch):
    clock = itertools.count(0)
    monkeypatch.setattr(watches, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    from SpatialARAnomalyLib.engine.scoring import findings

    before = (findings.find_in_box, findings.voxel_ml)
    groups = {
        "outer": ("engine.scoring.findings:find_in_box",),
        "inner": (
            "engine.scoring.findings:voxel_ml",
            "engine.scoring.findings:gone",
            "engine.gone:find",
        ),
    }
    watching = Watches()
    with watching.on(groups):
        nll = np.zeros((2, 2, 2), np.float32)
        findings.find_in_box(nll, np.eye(4), CARD.calibration, 1.0, 1.0)
    # Clock: outer 0, inner 1 to 2, outer 3; the inner second is not the outer's.
    assert watching.seconds == {"outer": 2, "inner": 1}
    assert watching.missing == ["engine.scoring.findings:gone", "engine.gone:find"]
    assert (findings.find_in_box, findings.voxel_ml) == before


def test_a_peak_is_seen_after_its_memory_was_given_back():
    with PeakMemory() as memory_seen:
        block = np.ones(200_000_000, np.uint8)
        time.sleep(0.2)
        held = int(block[::4096].sum())
        del block
        time.sleep(0.1)
    peak = memory_seen.peak()
    assert held > 0
    assert peak.resident >= 200
    if STATUS.exists():
        assert 200 <= peak.own <= peak.resident


def test_memory_is_that_of_a_process_of_its_own(options):
    large = np.ones(400_000_000, np.uint8)
    found = run_child("fit", **_stored(options))
    assert large.all()
    assert found["resident_mb"] > 50
    if STATUS.exists():
        assert found["own_mb"] < 400


def _stored(options):
    from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore

    store = FeatureStore(options.work / "stored")
    random = np.random.default_rng(0)
    for number in range(2):
        store.write(f"{number}", (40, 4, 3, 3), [random.random((40, 4, 3, 3), np.float32)])
    return {"store": str(store.folder), "slices": 80, "preset": "standard", "device": "cpu"}


def test_memory_tables_tell_growth_beside_the_first(options, monkeypatch):
    asked = []

    def child(job, **settings):
        asked.append((job, settings))
        return {"seconds": 1.0, "resident_mb": 100.0 + 7 * len(asked), "own_mb": None}

    monkeypatch.setattr(memory, "run_child", child)
    detections, trainings = memory.run(options)
    assert [job for job, _ in asked] == ["detect", "fit", "fit"]
    assert detections.rows[0][1:] == (107, None, None, 1.0)
    assert [row[1] for row in trainings.rows] == [114, 121]
    (target,) = trainings.targets
    assert target.reached == pytest.approx(121 / 114)
    assert not (options.work / "memory-store").exists()


def test_the_first_words_come_in_time(tmp_path):
    talk = (
        "import json, time\n"
        "for event in ({'event': 'hello'}, {'event': 'stage', 'name': 'read'},\n"
        "              {'event': 'stage', 'name': 'embed'}, {'event': 'progress'}):\n"
        "    print(json.dumps(event), flush=True); time.sleep(0.1)\n"
        "time.sleep(600)"
    )
    seconds = cold_start.time_to_events(
        [sys.executable, "-c", talk], ("hello", "stage embed", "progress")
    )
    assert list(seconds) == ["hello", "stage embed", "progress"]
    assert seconds["stage embed"] >= seconds["hello"] + 0.2
    with pytest.raises(AssertionError, match="never said"):
        cold_start.time_to_events(
            [sys.executable, "-c", 'print(\'{"event": "goodbye"}\')'], ("hello",)
        )


def test_the_worker_says_hello_to_the_benchmark():
    seconds = cold_start.time_to_events([sys.executable, "-c", cold_start.WORKER], ("hello",))
    assert 0 < seconds["hello"] < cold_start.WAIT_S


def test_heads_are_no_two_the_same(work):
    heads = [read_volume_file(path) for path in many_heads(work, 3, 6, 24)]
    assert len({head.content_sha256() for head in heads}) == 3
    assert all(head.voxels.max() > 100 for head in heads)


def test_the_settings_of_the_user_stay_out(tmp_path, monkeypatch):
    monkeypatch.setenv(user_folder.HOME_VARIABLE, "before")
    with own_settings(tmp_path):
        assert user_folder.user_folder() == tmp_path / "settings"
    assert os.environ[user_folder.HOME_VARIABLE] == "before"
    monkeypatch.delenv(user_folder.HOME_VARIABLE)
    with own_settings(tmp_path):
        pass
    assert user_folder.HOME_VARIABLE not in os.environ
