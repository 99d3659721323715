"""An import that is killed leaves the models as they were, and can be repeated."""

import os
import signal
import subprocess
import sys

import pytest
from service import killed_library
from service.model_folders import add_model
from service.worker_process import LIBRARY_FOLDER
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.models.library import Arrival, import_model
from SpatialARAnomalyLib.service.models.listing import list_models

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")


@pytest.mark.parametrize("moment", [0, 1])
def test_a_killed_import(tmp_path, moment):
    file = add_model(tmp_path / "here", "Größe 脳")
    there = tmp_path / "there"
    add_model(there, "other", seed=1)
    done = subprocess.run(
        [sys.executable, killed_library.__file__, file, there, str(moment)],
        env=os.environ | {"PYTHONPATH": str(LIBRARY_FOLDER)},
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert [entry.name for entry in list_models(there)] == ["other"]
    left = [one for one in os.listdir(there) if one != "other.safetensors"]
    assert [one[:9] for one in left] == [".partial-"] * moment
    found = import_model(file, there, SilentReporter())
    assert found.arrival is Arrival.ADDED
    assert found.path.read_bytes() == file.read_bytes()
