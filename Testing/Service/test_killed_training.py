"""SIGKILL at any moment of a training: it goes on where it was, and the model is the same.

One training is killed twenty times. Its workers are forked from one warm process.
"""

import json
import sys
import time
from collections import Counter

import numpy as np
import pytest
from safetensors import safe_open
from Service.forked_workers import Nursery
from Service.small_site import SHAPE_KJI, SPACING_MM, tree
from Service.worker_process import LAST
from SpatialARAnomalyLib.engine.phantom import normal_head
from SpatialARAnomalyLib.engine.volume_files import write_nifti
from SpatialARAnomalyLib.service.unfinished_trainings import list_unfinished

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends POSIX signals")

VOLUMES, EPOCHS, KILLS = 12, 60, 20
SPEC = {
    "name": "heads", "size_px": 64, "hidden_channels": 16, "epochs": EPOCHS, "batch_size": 16,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nursery")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIAL_AR_ANOMALY_HOME", str(folder / "settings"))
        one = Nursery(folder / "desk")
    yield one
    one.close()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Half of the scans in files, half as arrays of the scene."""
    folder = tmp_path_factory.mktemp("heads")
    normals = []
    for number in range(VOLUMES):
        head = normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
        if number % 2:
            np.save(folder / f"{number}.npy", head.voxels)
            normals.append({
                "voxels": str(folder / f"{number}.npy"),
                "affine": head.ras_from_voxel.tolist(),
                "name": f"node {number}",
            })  # fmt: skip
        else:
            write_nifti(folder / f"{number}.nii.gz", head)
            normals.append({"path": str(folder / f"{number}.nii.gz")})
    return {"normals": normals}


@pytest.fixture(scope="module")
def uninterrupted(nursery, inputs, tmp_path_factory):
    model = tmp_path_factory.mktemp("uninterrupted") / "model"
    worker = nursery.worker()
    result = worker.result("train", inputs, SPEC, model)
    worker.close()
    assert (result["name"], result["model"]) == ("heads", str(model))
    return model, result


def moments(seed: int):
    """When to kill: at a file operation on tokens or checkpoint, or some time into the stage."""
    random = np.random.RandomState(seed)
    for life in range(KILLS):
        stage, part = (("embed", "features"), ("fit", "checkpoint"))[life >= KILLS // 2]
        if life % 2:
            most = 5 if stage == "embed" else 9
            yield stage, f"{part} {random.randint(1, most)}", None
        else:
            most = 0.03 if stage == "embed" else 0.1
            yield stage, None, random.uniform(0, most)


def check_whole(folder) -> int:
    """Nothing under a final name is torn; how many epochs the checkpoint holds."""
    for file in (folder / "features").glob("*.npy"):
        assert np.isfinite(np.load(file)).all()
    checkpoint = folder / "checkpoint.safetensors"
    if not checkpoint.exists():
        return 0
    with safe_open(checkpoint, framework="np") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            assert np.isfinite(file.get_tensor(name)).all()
        return len(json.loads(file.metadata()["fit"])["curve"])


def test_twenty_kills_change_nothing(nursery, inputs, uninterrupted, tmp_path):
    model, log = tmp_path / "models" / "model", tmp_path / "embeddings"
    stages, tokens, epochs = Counter(), {}, 0
    spec = SPEC
    for stage, kill_at, delay in moments(seed=4):
        worker = nursery.worker(EMBED_LOG=str(log), **({"KILL_AT": kill_at} if kill_at else {}))
        worker.submit("train", inputs, spec, model)
        heard = worker.until(lambda event, stage=stage: event.get("name") == stage)
        if delay is not None:
            time.sleep(delay)
            worker.process.kill()
        heard += worker.until(lambda event: False)
        worker.close()
        assert not [event for event in heard if event["event"] in LAST], heard[-1]
        stages[[event["name"] for event in heard if event["event"] == "stage"][-1]] += 1

        folder = tmp_path / "models" / "model.training"
        now = {
            file.name: (file.stat().st_ino, file.stat().st_mtime_ns)
            for file in (folder / "features").glob("*.npy")
        }
        assert tokens.items() <= now.items(), "tokens were written again"
        tokens = now
        done = check_whole(folder)
        assert done >= epochs
        epochs = done
        (left,) = list_unfinished(model.parent)
        assert (left.epochs_done, left.volumes_embedded) == (epochs, len(tokens))
        assert (left.running, left.finished, left.epochs) == (False, False, EPOCHS)
        # From now on as after a restart of Slicer: by what the folder itself says.
        inputs, spec, model = {"normals": left.sources}, left.spec, left.model
    assert stages["embed"] >= 8
    assert stages["fit"] >= 10
    assert 0 < epochs < EPOCHS

    worker = nursery.worker(EMBED_LOG=str(log))
    last = worker.events_of(worker.submit("train", inputs, spec, model))
    worker.close()
    assert last[-1]["event"] == "result", last[-1]
    assert [event["epoch"] for event in last if event["event"] == "epoch"] == [
        *range(1, EPOCHS + 1)
    ]
    assert tree(model) == tree(uninterrupted[0])
    assert last[-1]["curve"] == uninterrupted[1]["curve"]
    assert [path.name for path in model.parent.iterdir()] == ["model"]
    # A volume whose tokens were stored is never embedded again.
    finished = set()
    for line in log.read_text().splitlines():
        what, key = line.split()
        assert what == "done" or key not in finished
        if what == "done":
            finished.add(key)
    assert len(finished) <= VOLUMES
