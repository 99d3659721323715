"""An import or a move that is killed leaves the models as they were, and can be repeated."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from Service import killed_library
from Service.model_folders import add_model
from Service.small_site import tree
from Service.worker_process import LIBRARY_FOLDER
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.model_library import Arrival, export_model, import_model
from SpatialARAnomalyLib.service.model_list import list_models
from SpatialARAnomalyLib.service.models_move import copy_models

QUIET = SilentReporter()

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")


def killed(work: str, source: Path, target: Path, moment: int) -> None:
    """Run the work in a process of its own that is killed."""
    done = subprocess.run(
        [sys.executable, killed_library.__file__, work, source, target, str(moment)],
        env=os.environ | {"PYTHONPATH": str(LIBRARY_FOLDER)},
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", [0, 1])
def test_a_killed_import(tmp_path, moment):
    model = add_model(tmp_path / "here", "Größe 脳")
    there = tmp_path / "there"
    add_model(there, "other", seed=1)
    file = export_model(model, tmp_path / "x", QUIET, overwrite=False)
    killed("import", file, there, moment)
    assert [entry.name for entry in list_models(there)] == ["other"]
    assert [one for one in os.listdir(there) if not one.startswith(".partial-")] == ["other"]
    found = import_model(file, there, QUIET)
    assert found.arrival is Arrival.ADDED
    assert tree(found.folder) == tree(model)


@pytest.mark.parametrize("moment", [0, 3, 6, 8])
def test_a_killed_move(tmp_path, moment):
    """Eight files are asked for: four to copy, four to compare; then once more."""
    models, new = tmp_path / "here", tmp_path / "new"
    for seed, name in enumerate(("brain", "Größe 脳")):
        add_model(models, name, seed)
    before = tree(models)
    killed("move", models, new, moment)
    assert tree(models) == before
    assert list_models(new) == []
    copy_models(models, new, QUIET)
    held = tree(new)
    assert {name: held[name] for name in held if not name.startswith(".partial-")} == before
