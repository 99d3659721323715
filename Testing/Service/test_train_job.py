import json
import shutil

import pytest
from Service.small_site import SHAPE_KJI, SPACING_MM, tree
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import Cancelled, SpatialARError
from SpatialARAnomalyLib.engine.phantom import normal_head
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, TrainingSpec
from SpatialARAnomalyLib.engine.volume_files import write_nifti
from SpatialARAnomalyLib.service import train_job
from SpatialARAnomalyLib.service.train_job import TrainRequest, train


def request_for(site, out, **changes) -> TrainRequest:
    settings = {
        "normals": site.normals,
        "out": out,
        "name": "heads",
        "size_px": 112,
        "autoregressive": AutoregressiveSpec(hidden_channels=16),
        "training": TrainingSpec(epochs=3, batch_size=8),
        "device": Device.CPU,
    }
    return TrainRequest(**settings | changes)


class Recorder(SilentReporter):
    """Notes stages and epochs; cancels at the n-th question whether to."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.stages, self.epochs, self.asked, self.cancel_at = [], [], 0, cancel_at
        self.embedded = 0

    def stage(self, name, index, of) -> None:
        self.stages.append((name, index, of))

    def progress(self, done, total, unit) -> None:
        assert 0 <= done <= total
        self.embedded += unit == "slice" and done > 0

    def epoch(self, figures) -> None:
        self.epochs.append(figures.epoch)

    def check_cancelled(self) -> None:
        self.asked += 1
        if self.asked == self.cancel_at:
            raise Cancelled


@pytest.fixture(scope="module")
def uninterrupted(site, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "model"
    recorder = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIAL_AR_ANOMALY_HOME", str(out.parent / "settings"))
        train(request_for(site, out), recorder)
    return out, recorder


def test_stages_and_epochs_are_told(uninterrupted):
    _, recorder = uninterrupted
    assert recorder.stages == [
        ("read", 1, 4), ("embed", 2, 4), ("fit", 3, 4), ("calibrate", 4, 4)
    ]  # fmt: skip
    assert recorder.epochs == [1, 2, 3]


def test_twice_from_one_seed_gives_identical_files(site, uninterrupted, tmp_path):
    train(request_for(site, tmp_path / "model"), SilentReporter())
    assert tree(tmp_path / "model") == tree(uninterrupted[0])
    # Nothing else is left: no work in progress.
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_the_order_of_the_normals_does_not_matter(site, uninterrupted, tmp_path):
    request = request_for(site, tmp_path / "model", normals=site.normals[::-1])
    train(request, SilentReporter())
    assert tree(tmp_path / "model") == tree(uninterrupted[0])


def test_cancelling_anywhere_and_resuming_gives_the_same_model(site, uninterrupted, tmp_path):
    out, recorder = uninterrupted
    for cancel_at in range(1, recorder.asked + 1, 3):
        model = tmp_path / f"cancelled-{cancel_at}"
        with pytest.raises(Cancelled):
            train(request_for(site, model), Recorder(cancel_at))
        assert not model.exists()
        train(request_for(site, model), SilentReporter())
        assert tree(model) == tree(out), cancel_at


def test_embedded_volumes_are_not_embedded_again(site, tmp_path):
    first, second = Recorder(cancel_at=10), Recorder()
    with pytest.raises(Cancelled):
        train(request_for(site, tmp_path / "model"), first)
    features = list((tmp_path / "model.training" / "features").glob("*.npy"))
    assert features
    before = {path: path.stat().st_mtime_ns for path in features}
    with pytest.raises(Cancelled):
        train(request_for(site, tmp_path / "model"), Recorder(cancel_at=12))
    assert {path: path.stat().st_mtime_ns for path in features} == before
    train(request_for(site, tmp_path / "model"), second)
    assert second.embedded < 4 * SHAPE_KJI[0]


def test_an_unfinished_training_with_other_settings_is_not_mixed_up(site, tmp_path):
    with pytest.raises(Cancelled):
        train(request_for(site, tmp_path / "model"), Recorder(cancel_at=12))
    other = request_for(site, tmp_path / "model", training=TrainingSpec(epochs=3, batch_size=4))
    # Cancelled before the first epoch: nothing to mix up yet. After one: refused.
    with pytest.raises(Cancelled):
        train(request_for(site, tmp_path / "model"), CancelAfterEpoch(1))
    with pytest.raises(SpatialARError, match="other volumes or settings"):
        train(other, SilentReporter())
    train(request_for(site, tmp_path / "model", **{"training": other.training, "restart": True}),
          SilentReporter())  # fmt: skip
    card = json.loads((tmp_path / "model" / "model.json").read_text())
    assert card["training"]["batch_size"] == 4


class CancelAfterEpoch(SilentReporter):
    def __init__(self, epoch: int) -> None:
        self.last, self.over = epoch, False

    def epoch(self, figures) -> None:
        self.over = figures.epoch >= self.last

    def check_cancelled(self) -> None:
        if self.over:
            raise Cancelled


def test_a_scan_that_changes_meanwhile_is_noticed(site, tmp_path, monkeypatch):
    normals = [tmp_path / path.name for path in site.normals]
    for source, copy in zip(site.normals, normals, strict=True):
        shutil.copy(source, copy)

    class ChangeAfterReading(SilentReporter):
        def stage(self, name, index, of) -> None:
            if name == "embed":
                head = normal_head(50, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
                write_nifti(normals[2], head)

    request = request_for(site, tmp_path / "model", normals=tuple(normals))
    with pytest.raises(SpatialARError, match=r"normal_2\.nii\.gz changed"):
        train(request, ChangeAfterReading())
    assert not (tmp_path / "model").exists()


def test_the_default_field_of_view_fits_the_largest_body(site, uninterrupted):
    card = json.loads((uninterrupted[0] / "model.json").read_text())
    largest = card["normals"]["extent_mm"][1]
    assert card["slices"]["fov_mm"] % train_job.FOV_STEP_MM == 0
    assert 1.1 * largest <= card["slices"]["fov_mm"] < 1.1 * largest + train_job.FOV_STEP_MM
