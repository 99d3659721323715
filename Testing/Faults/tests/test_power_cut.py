"""After a power cut at any boundary, every file under a final name is the old or the new one."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.model_examples import CARD, small_model
from Faults.power_cut import State, cut_power, read_state, write_state
from Faults.whole import is_temporary
from service.model_folders import add_model
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.model.checkpoint import Fit, save_checkpoint
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.model.model_file import save_model
from SpatialARAnomalyLib.engine.progress import EpochFigures, SilentReporter
from SpatialARAnomalyLib.service.encoders import dinov3_license, hub, registry
from SpatialARAnomalyLib.service.models.library import import_model, rename_model
from SpatialARAnomalyLib.service.outputs import write_atomically
from SpatialARAnomalyLib.service.training.folder import TrainingFolder, TrainingRecord
from SpatialARAnomalyLib.service.training.request import TrainSpec

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="audits paths as on POSIX")


def write_results(folder: Path, text: str, overwrite: bool = True) -> None:
    names = ["a.csv", "b.json", "run.json"]
    with write_atomically(folder, names, overwrite=overwrite) as new:
        for name in names:
            (new / name).write_text(f"{text} {name}" * 9)


def write_tokens(folder: Path) -> None:
    tokens = np.ones((4, 2, 3, 3), np.float32)
    FeatureStore(folder / "features").write("key", tokens.shape, np.split(tokens, 2))


def write_checkpoint(folder: Path, epochs: int) -> None:
    model: AutoregressiveModel = small_model()
    curve = [EpochFigures(epoch=one + 1, train_mse=1.0, held_out_nll=2.0) for one in range(epochs)]
    best = {name: value.clone() for name, value in model.state_dict().items()}
    run = Fit(model, curve, 1, best)
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(folder / "checkpoint.safetensors", "of this", run, optimizer)


def begin_training(folder: Path) -> None:
    training = TrainingFolder(folder / "brain")
    training.check()
    with training.hold():
        training.write_record(TrainingRecord(TrainSpec(name="brain"), ()))
        FeatureStore(training.features).write("key", (1, 1, 1, 1), [np.ones((1,) * 4, np.float32)])


def nothing(_: Path) -> None:
    pass


WORKS: dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]] = {
    "new results": (nothing, lambda folder: write_results(folder, "new", overwrite=False)),
    "results again": (
        lambda folder: write_results(folder, "earlier"),
        lambda folder: write_results(folder, "new"),
    ),
    "model": (
        lambda folder: add_model(folder, "brain"),
        lambda folder: save_model(folder / "brain", CARD, small_model(5)),
    ),
    "import": (
        lambda folder: add_model(folder / "there", "brain"),
        lambda folder: import_model(
            folder / "there" / "brain.safetensors", folder / "models", SilentReporter()
        ),
    ),
    "rename": (
        lambda folder: add_model(folder, "brain"),
        lambda folder: rename_model(folder / "brain", "abdomen"),
    ),
    "tokens": (nothing, write_tokens),
    "checkpoint": (
        lambda folder: write_checkpoint(folder, 1),
        lambda folder: write_checkpoint(folder, 2),
    ),
    "training": (nothing, begin_training),
    "registry": (
        lambda folder: registry.remember("aa", "owner/one"),
        lambda folder: registry.remember("bb", "owner/two"),
    ),
    "license": (nothing, lambda folder: dinov3_license.accept()),
    "weights": (nothing, lambda folder: hub.publish_commit("owner/name", "c" * 40)),
}


def check(state: State, before: State, after: State) -> None:
    for name, content in state.items():
        if content is not None and not is_temporary(Path(name)):
            assert content in (*before.values(), *after.values()), f"{name} is torn"
    lost = [name for name in before if name in after and name not in state]
    assert lost == []


SLOW = {"model", "import", "rename", "checkpoint"}


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.slow] * (one in SLOW)) for one in WORKS]
)
def test_a_power_cut_leaves_the_old_or_the_new_file(name, tmp_path, monkeypatch):
    prepare, work = WORKS[name]
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the recording notes it; it is slow

    def place(folder: Path) -> Path:
        monkeypatch.setenv("SPATIAL_AR_ANOMALY_HOME", str(folder / "settings"))
        monkeypatch.setenv("HF_HOME", str(folder / "hub"))
        folder.mkdir()
        return folder

    folder = place(tmp_path / "recorded")
    prepare(folder)
    before = read_state(folder)
    states = cut_power(folder, lambda: work(folder))
    after = read_state(folder)
    assert len(states) > 3
    unique = [state for number, state in enumerate(states) if state not in states[:number]]
    for state in unique:
        check(state, before, after)
    for number, state in enumerate(unique[::2]):
        again = place(tmp_path / str(number))
        write_state(again, state)
        code = ""
        try:
            work(again)
        except SpatialARError as error:  # the cut came after its end
            code = error.code
        assert code in ("", "output-exists", "model-missing", "model-name-taken")
        found = read_state(again)
        for file, content in after.items():
            assert file in found, (file, number)
            # The time of acceptance differs.
            assert content == found[file] or name == "license", (file, number)


def test_what_was_not_flushed_is_torn(tmp_path):
    """The recording itself finds a write without a flush."""

    def careless() -> None:
        (tmp_path / "new").write_bytes(b"content!")
        (tmp_path / "new").rename(tmp_path / "result")

    states = cut_power(tmp_path, careless)
    assert states[-1] == {"result": b"cont\0\0\0\0"}
