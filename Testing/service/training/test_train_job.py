import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SpatialARAnomalyLib
from service.small_site import SHAPE_KJI, SPACING_MM, tree
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import (
    Cancelled,
    InputError,
    OutputError,
    SpatialARError,
    SpecError,
)
from SpatialARAnomalyLib.engine.model.model_file import read_card
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.slices.slice_stack import PlaneVolume, SliceStack
from SpatialARAnomalyLib.engine.specs import Modality, Plane, Preset
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file, write_nifti
from SpatialARAnomalyLib.service import scans as inputs
from SpatialARAnomalyLib.service.batch.places import HERE, do
from SpatialARAnomalyLib.service.batch.processes import Processes
from SpatialARAnomalyLib.service.demo.phantom import normal_head
from SpatialARAnomalyLib.service.scans import ScanSource
from SpatialARAnomalyLib.service.training import train as train_job
from SpatialARAnomalyLib.service.training.candidates import ScanReader
from SpatialARAnomalyLib.service.training.folder import TrainingFolder
from SpatialARAnomalyLib.service.training.request import TrainSpec
from SpatialARAnomalyLib.service.training.survey import FOV_STEP_MM
from SpatialARAnomalyLib.service.training.train import train


def train_on(normals, out, report=None, place=HERE, **changes):
    """Train a small network on these scans, with other settings where they are given."""
    settings = {
        "name": "heads", "size_px": 112, "preset": Preset.STANDARD, "hidden_channels": 16,
        "epochs": 3, "batch_size": 8, "device": Device.CPU,
    }  # fmt: skip
    spec = TrainSpec(**settings | changes)
    return train(normals, out, spec, report or SilentReporter(), place)


class Recorder(SilentReporter):
    """Notes stages and epochs; cancels at the n-th check."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.stages, self.epochs, self.checks, self.cancel_at = [], [], 0, cancel_at
        self.embedded = 0

    def stage(self, name, index, of) -> None:
        self.stages.append((name, index, of))

    def progress(self, done, total, unit) -> None:
        assert 0 <= done <= total
        self.embedded += unit == "slice" and done > 0

    def epoch(self, figures) -> None:
        self.epochs.append(figures.epoch)

    def check_cancelled(self) -> None:
        self.checks += 1
        if self.checks == self.cancel_at:
            raise Cancelled


@pytest.fixture(scope="module")
def uninterrupted(site, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "model.safetensors"
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIAL_AR_ANOMALY_HOME", str(out.parent / "settings"))
        train_on(site.normals, out, recorder)
    return out, recorder


def test_stages_and_epochs_are_reported(uninterrupted):
    _, recorder = uninterrupted
    assert recorder.stages == [
        ("read", 1, 4), ("embed", 2, 4), ("fit", 3, 4), ("calibrate", 4, 4)
    ]  # fmt: skip
    assert recorder.epochs == [1, 2, 3]


def test_twice_from_one_seed_gives_identical_files(site, uninterrupted, tmp_path):
    train_on(site.normals, tmp_path / "model")
    assert (tmp_path / "model.safetensors").read_bytes() == uninterrupted[0].read_bytes()
    # Nothing else is left: no work in progress.
    assert os.listdir(tmp_path) == ["model.safetensors"]


@pytest.mark.slow
def test_embedding_in_two_processes_gives_the_same_model(site, uninterrupted, tmp_path):
    train_on(site.normals, tmp_path / "model", place=Processes(2))
    assert (tmp_path / "model.safetensors").read_bytes() == uninterrupted[0].read_bytes()
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_a_scan_that_changes_before_a_process_embeds_it_ends_the_training(site, tmp_path):
    class Changed:
        """A place whose processes find another scan in each file."""

        def run(self, work, requests, report):
            for request in requests:
                inputs = request.inputs | {"sha256": "0" * 64}
                yield request, do(work, dataclasses.replace(request, inputs=inputs))

    with pytest.raises(InputError) as caught:
        train_on(site.normals, tmp_path / "model", place=Changed())
    assert caught.value.code == "normal-changed"
    assert os.listdir(tmp_path) == []


def test_the_order_of_the_normals_does_not_matter(site, uninterrupted, tmp_path):
    train_on(site.normals[::-1], tmp_path / "model")
    assert (tmp_path / "model.safetensors").read_bytes() == uninterrupted[0].read_bytes()


def test_cancelling_anywhere_and_resuming_gives_the_same_model(site, uninterrupted, tmp_path):
    out, recorder = uninterrupted
    for cancel_at in range(1, recorder.checks + 1, 3):
        model = tmp_path / f"cancelled-{cancel_at}.safetensors"
        with pytest.raises(Cancelled):
            train_on(site.normals, model, Recorder(cancel_at))
        assert not model.exists()
        train_on(site.normals, model)
        assert model.read_bytes() == out.read_bytes(), cancel_at


def test_embedded_volumes_are_not_embedded_again(site, tmp_path):
    second = Recorder()
    with pytest.raises(Cancelled):
        train_on(site.normals, tmp_path / "model", CancelAfterSlices(13))
    features = list((tmp_path / "model.training" / "features").glob("*.npy"))
    assert features
    before = {path: path.stat().st_mtime_ns for path in features}
    with pytest.raises(Cancelled):
        train_on(site.normals, tmp_path / "model", CancelAfterSlices(14))
    assert {path: path.stat().st_mtime_ns for path in features} == before
    train_on(site.normals, tmp_path / "model", second)
    assert second.embedded < 4 * SHAPE_KJI[0]


def test_an_unfinished_training_with_other_settings_is_not_mixed_up(site, tmp_path):
    with pytest.raises(Cancelled):
        train_on(site.normals, tmp_path / "model", CancelAfterSlices(7))
    # Cancelled before the first epoch: nothing to mix up yet. After one: refused.
    with pytest.raises(Cancelled):
        train_on(site.normals, tmp_path / "model", CancelAfterEpoch(1))
    with pytest.raises(SpatialARError, match="other volumes or settings"):
        train_on(site.normals, tmp_path / "model", batch_size=4)
    train_on(site.normals, tmp_path / "model", batch_size=4, restart=True)
    assert read_card(tmp_path / "model").training.batch_size == 4


class CancelAfterSlices(SilentReporter):
    """Cancels once so many slices are embedded."""

    def __init__(self, slices: int) -> None:
        self.slices, self.over = slices, False

    def progress(self, done, total, unit) -> None:
        self.over |= unit == "slice" and done >= self.slices

    def check_cancelled(self) -> None:
        if self.over:
            raise Cancelled


class CancelAfterEpoch(SilentReporter):
    def __init__(self, epoch: int) -> None:
        self.last, self.over = epoch, False

    def epoch(self, figures) -> None:
        self.over = figures.epoch >= self.last

    def check_cancelled(self) -> None:
        if self.over:
            raise Cancelled


class Readings:
    """Counts how often the file of every scan is read, while it is in place of the reader."""

    def __init__(self, monkeypatch) -> None:
        self.count = Counter()
        monkeypatch.setattr(inputs, "read_volume_file", self._read)

    def _read(self, path, **choices):
        self.count[path.name] += 1
        return read_volume_file(path, **choices)


@pytest.mark.parametrize("settings", [{}, {"skip_unusable": True}])
def test_every_scan_is_read_once_where_memory_allows(
    site, uninterrupted, tmp_path, monkeypatch, settings
):
    readings = Readings(monkeypatch)
    train_on(site.normals, tmp_path / "model", **settings)
    assert readings.count == dict.fromkeys((path.name for path in site.normals), 1)
    monkeypatch.setattr(train_job, "KEPT_BYTES", 0)
    readings.count.clear()
    train_on(site.normals, tmp_path / "again", **settings)
    # Once for the survey, once to embed, and the held-out one three times to calibrate.
    assert sorted(readings.count.values()) == [2, 2, 2, 5]
    models = [tmp_path / "model.safetensors", tmp_path / "again.safetensors", uninterrupted[0]]
    assert len({model.read_bytes() for model in models}) == 1


def test_no_more_voxels_are_kept_than_allowed(site):
    reader = ScanReader(Plane.AXIAL, None)
    size = next(reader.read(ScanSource(path=one), lambda: None).nbytes for one in site.normals)
    masks = int(np.prod(SHAPE_KJI))
    reader = ScanReader(Plane.AXIAL, None, kept_bytes=2 * (size + masks) + 1)
    scans = [reader.read(ScanSource(path=one), lambda: None) for one in site.normals]
    kept = [reader.voxels(scan, Modality.MR, lambda: None) for scan in scans]
    again = [reader.voxels(scan, Modality.MR, lambda: None) for scan in scans]
    assert [a is b for a, b in zip(kept, again, strict=True)] == [True, True, False, False]
    for a, b in zip(kept, again, strict=True):
        assert np.array_equal(a.voxels, b.voxels)
        assert np.array_equal(a.counted, b.counted)
    reader.drop(scans[0])
    assert reader.voxels(scans[0], Modality.MR, lambda: None) is not kept[0]


@pytest.mark.parametrize("kept_bytes", [0, train_job.KEPT_BYTES])
def test_a_scan_that_changes_meanwhile_changes_no_model(
    site, uninterrupted, tmp_path, monkeypatch, kept_bytes
):
    """It is refused where it has to be read again; else the voxels read before are used."""
    monkeypatch.setattr(train_job, "KEPT_BYTES", kept_bytes)
    normals = [tmp_path / path.name for path in site.normals]
    for source, copy in zip(site.normals, normals, strict=True):
        shutil.copy(source, copy)

    class ChangeAfterReading(SilentReporter):
        def stage(self, name, index, of) -> None:
            if name == "embed":
                head = normal_head(50, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
                write_nifti(normals[2], head)

    if kept_bytes:
        train_on(normals, tmp_path / "model", ChangeAfterReading())
        assert (tmp_path / "model.safetensors").read_bytes() == uninterrupted[0].read_bytes()
        return
    with pytest.raises(SpatialARError, match=r"normal_2\.nii\.gz changed"):
        train_on(normals, tmp_path / "model", ChangeAfterReading())
    assert not (tmp_path / "model.safetensors").exists()


def test_the_default_field_of_view_fits_the_largest_body(site, uninterrupted):
    card = read_card(uninterrupted[0])
    largest = card.normals.extent_mm[1]
    assert card.slices.fov_mm % FOV_STEP_MM == 0
    assert 1.1 * largest <= card.slices.fov_mm < 1.1 * largest + FOV_STEP_MM


# The folder of the training in progress


def never(*_: object) -> None:
    pytest.fail("not reached")


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("marker", [None, "{}", '{"what": "my own training"}'])
def test_a_folder_of_something_else_is_left_alone(site, tmp_path, monkeypatch, marker, restart):
    work = tmp_path / "model.training"
    (work / "features").mkdir(parents=True)
    (work / "features" / "mine.npy").write_text("text")
    if marker is not None:
        (work / "training.json").write_text(marker)
    before = tree(tmp_path)
    monkeypatch.setattr(train_job, "load_training_encoder", never)
    with pytest.raises(OutputError, match="which exists and is not a training's") as caught:
        train_on(site.normals, tmp_path / "model", restart=restart)
    assert caught.value.code == "output-not-a-training"
    assert tree(tmp_path) == before


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "model.training").write_text("text")
    (tmp_path / "other.training").symlink_to(tmp_path / "nowhere")
    for name in ("model", "other"):
        with pytest.raises(OutputError) as caught:
            TrainingFolder(tmp_path / name).check()
        assert caught.value.code == "output-not-a-training"


@pytest.mark.parametrize("folder", ["model.training", "model.training/features"])
def test_scans_in_a_folder_that_is_written_are_refused(site, tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "model.training" / "training.json").write_text(
        '{"what": "SpatialARAnomaly training in progress"}'
    )
    scan = tmp_path / folder / "normal.nii.gz"
    shutil.copy(site.normals[0], scan)
    monkeypatch.setattr(train_job, "load_training_encoder", never)
    with pytest.raises(InputError, match=r"must lie outside the folder 'model.*normal\.nii\.gz"):
        train_on((*site.normals, scan), tmp_path / "model")
    assert scan.exists()


def test_only_what_the_training_wrote_is_removed(site, tmp_path):
    work = tmp_path / "model.training"
    with pytest.raises(Cancelled):
        train_on(site.normals, tmp_path / "model", CancelAfterEpoch(1))
    assert set(tree(work)) >= {"training.json", "features", "checkpoint.safetensors"}
    (work / "notes.txt").write_text("mine")
    (work / "features" / "mine.txt").write_text("mine")
    (work / "features" / "torn.npy.partial").write_text("left by a kill")
    (work / "checkpoint.safetensors.partial").write_text("left by a kill")
    train_on(site.normals, tmp_path / "model")
    left = {name for name, content in tree(work).items() if content is not None}
    assert left - {"lock", "training.json"} == {"notes.txt", "features/mine.txt"}


def test_a_training_that_fails_before_anything_is_kept_leaves_no_folder(site, tmp_path):
    with pytest.raises(InputError, match=r"normal_\d.nii.gz: The body must be wider than 2 tokens"):
        train_on(site.normals, tmp_path / "model", fov_mm=9000.0, size_px=64)
    assert os.listdir(tmp_path) == []


def test_a_restart_keeps_the_tokens(site, tmp_path):
    with pytest.raises(Cancelled):
        train_on(site.normals, tmp_path / "model", CancelAfterEpoch(2))
    recorder = Recorder()
    train_on(site.normals, tmp_path / "model", recorder, restart=True)
    assert recorder.embedded == 0
    assert recorder.epochs == [1, 2, 3]


def test_a_clean_up_that_fails_is_a_notice(site, uninterrupted, tmp_path, monkeypatch):
    class Notices(SilentReporter):
        def __init__(self) -> None:
            self.notices = []

        def notice(self, code, text) -> None:
            self.notices.append((code, text))

    def forbidden(_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(TrainingFolder, "clear", forbidden)
    report = Notices()
    train_on(site.normals, tmp_path / "model", report)
    assert [notice for notice in report.notices if notice[0] != "model-not-learned"] == [
        (
            "training-left",
            "The model is saved; 'model.training' cannot be removed (Permission denied).",
        )
    ]
    assert (tmp_path / "model.safetensors").read_bytes() == uninterrupted[0].read_bytes()


def test_a_second_training_of_that_name_is_refused(site, tmp_path):
    with TrainingFolder(tmp_path / "model").hold():
        with pytest.raises(OutputError, match=r"is running in 'model\.training'") as caught:
            train_on(site.normals, tmp_path / "model")
        assert caught.value.code == "training-running"
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_a_killed_training_releases_its_folder(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from SpatialARAnomalyLib.service.training.folder import TrainingFolder
folder = TrainingFolder(Path(sys.argv[1]))
with folder.hold():
    folder.checkpoint.write_text("of an epoch")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(SpatialARAnomalyLib.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    folder = TrainingFolder(tmp_path / "model")
    with folder.hold():
        assert folder.checkpoint.read_text() == "of an epoch"
        folder.clear()
    assert os.listdir(tmp_path) == []


# The request


def test_the_default_name_of_a_model_is_its_file_s(site, tmp_path):
    card = train_on(site.normals, tmp_path / "brain.v2", name=None)
    assert card.name == "brain.v2"
    assert os.listdir(tmp_path) == ["brain.v2.safetensors"]


def test_a_folder_is_no_name_for_a_model(site, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError) as caught:
        train_on(site.normals, Path("."), overwrite=True)
    assert caught.value.code == "output-name"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message", "nearest_px"),
    [
        ({"fov_mm": 0.0}, "fov_mm must be positive; found", None),
        ({"fov_mm": -5.0}, "fov_mm must be positive; found", None),
        ({"size_px": 0}, "size_px must be positive; found", None),
        ({"size_px": 7}, r"must be a multiple of .*; found 7 px\.", 16),
        ({"size_px": 100}, r"must be a multiple of .*; found 100 px\.", 96),
    ],
)
def test_field_of_view_and_size_are_checked_before_scans_are_read(
    site, tmp_path, monkeypatch, changes, message, nearest_px
):
    monkeypatch.setattr(train_job, "_select", never)
    with pytest.raises(SpecError, match=message) as caught:
        train_on(site.normals, tmp_path / "model", **changes)
    assert caught.value.facts.get("nearest_px") == nearest_px


def test_a_scan_that_cannot_be_used_is_named(site, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_text("no scan")
    with pytest.raises(InputError) as caught:
        train_on((*site.normals, bad), tmp_path / "model")
    assert caught.value.message.startswith("bad.nii.gz: ")
    # Also where the message is read from the error itself.
    assert str(caught.value).startswith("bad.nii.gz: ")


def test_tokens_of_an_earlier_preparation_are_not_used(site, tmp_path, monkeypatch):
    with pytest.raises(Cancelled):
        train_on(site.normals, tmp_path / "model", CancelAfterEpoch(1))
    monkeypatch.setattr(train_job, "PREPARATION_VERSION", 2)
    with pytest.raises(SpatialARError, match="other volumes or settings"):
        train_on(site.normals, tmp_path / "model")


def test_p_values_rest_on_the_tokens_of_the_held_out_body(site, uninterrupted):
    card = read_card(uninterrupted[0])
    (held_out,) = (
        volume
        for volume in map(read_volume_file, site.normals)
        if volume.content_sha256() in card.normals.held_out_sha256
    )
    turned = PlaneVolume(held_out, card.slices.plane, card.modality)
    stack = SliceStack(turned, card.slices, card.intensity, card.encoder.patch_px)
    in_body = sum(int(stack.tokens_inside(index).sum()) for index in stack.indices)
    assert 50 < in_body == card.calibration.tokens < len(stack.indices) * 7 * 7
    assert card.calibration.volumes == len(card.calibration.case_scores) == 1
    assert card.calibration.case_scores[0] <= card.calibration.nll[-1]
    assert card.calibration.rate_interval(0.01) is None  # one volume says nothing of others
    assert not np.allclose(card.calibration.token_nll, card.calibration.nll)
