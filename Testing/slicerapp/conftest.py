"""The application for the tests of the Slicer side: started once, its scene clean for each test."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from Harness import LoadedModule, run_events, wait_until
from Harness.fixtures import (  # noqa: F401 - fixtures of the tests below
    _no_slot_errors,
    app,
    load_module,
    rendering,
    scene,
    settings,
)
from service.small_site import SHAPE_KJI, SPACING_MM, Site, run
from slicerapp.dialogs import make_answers
from slicerapp.results import add_result
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.service.demo.phantom import normal_head

MODULE = Path(__file__).parents[2] / "SpatialARAnomaly" / "SpatialARAnomaly.py"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Small normal heads and a quick model that finds large masses; not to be changed."""
    folder = tmp_path_factory.mktemp("slicer site")
    normals = []
    for number in range(6):
        normals.append(folder / f"normal_{number}.nii.gz")
        write_nifti(normals[-1], normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM))
    model = folder / "model.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPATIAL_AR_ANOMALY_HOME", str(folder / "settings"))
        trained = run(
            "train", *normals, "--out", model, "--name", "small heads", "--size-px", 224,
            "--preset", "standard", "--epochs", 10, "--batch-size", 8, "--device", "cpu",
        )  # fmt: skip
    assert trained.exit_code == 0, trained.stderr
    return Site(tuple(normals), model)


@pytest.fixture(scope="session")
def warm_worker(app: Any) -> Iterator[Any]:
    """A worker process shared by all tests, so that torch is loaded once."""
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    worker = WorkerProcess()
    yield worker
    worker.stop()


@pytest.fixture
def models_folder(site: Site, tmp_path: Path) -> Path:
    """A folder with the quick model."""
    folder = tmp_path / "modèles de test"
    folder.mkdir()
    shutil.copy(site.model, folder / "quick.safetensors")
    return folder


@pytest.fixture
def dialogs(app: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answers that replace the module's dialogs."""
    from SpatialARAnomalyLib.slicerapp import Widget

    answers = make_answers()
    monkeypatch.setattr(Widget, "Dialogs", lambda parent: answers)
    return answers


@pytest.fixture
def opened(
    load_module: Callable[[Path | str], LoadedModule],
    settings: Any,
    dialogs: Any,
    warm_worker: Any,
    models_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> LoadedModule:
    """The module, entered, with the quick model chosen, on the CPU, and the shared worker.

    A job that an earlier test left to be cancelled must have ended: the panel runs one at a time.
    """
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.slicerapp import Settings
    from SpatialARAnomalyLib.slicerapp.worker import WorkerProcess as worker_module

    wait_until(lambda: not warm_worker.busy, 120, "the end of an earlier test's job")
    Settings.setModelsFolder(models_folder)
    Settings.setDevice(Device.CPU)
    monkeypatch.setattr(worker_module, "_worker", warm_worker)
    monkeypatch.setattr(worker_module, "_batchWorker", warm_worker)
    module = load_module(MODULE)
    monkeypatch.setattr(sys.modules["SpatialARAnomaly"], "stopSharedWorker", lambda: None)
    module.enter()
    return module


@pytest.fixture
def shown(opened: LoadedModule) -> tuple[LoadedModule, Any]:
    """The module with a result of known blobs under review, whose NLL is not yet in a file."""
    result = add_result()
    opened.widget.panel.review.review(result)
    run_events()
    return opened, result
