"""One of several processes that use one library, feature store and registry at once.

    python -m Faults.hammer FOLDER SEED SECONDS

Its own model must be found, whole, after every step, whatever the others do.
"""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from service.model_folders import add_model
from SpatialARAnomalyLib.engine.errors import ModelError
from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
from SpatialARAnomalyLib.engine.model.model_file import read_card, verify_model
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.service.encoders import registry
from SpatialARAnomalyLib.service.models.library import delete_model, import_model, rename_model
from SpatialARAnomalyLib.service.models.listing import list_models

NAMES = ("brain", "abdomen", "Größe")
"""Names that all processes want."""

SHAPE = (16, 8, 8, 8)


def main() -> None:
    """Import, rename, store, remember and delete until the time is over."""
    folder, seed, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    random = np.random.RandomState(seed)
    models, store = folder / "models", FeatureStore(folder / "features")
    own = add_model(folder / f"process {seed}", "brain", seed)
    sha256 = read_card(own).weights_sha256
    rounds, until = 0, time.monotonic() + seconds
    while time.monotonic() < until or rounds < 3:
        path = import_model(own, models, SilentReporter()).path
        check(path, sha256)
        with suppress(ModelError):  # the name is taken
            path, _ = rename_model(path, str(random.choice(NAMES)))
        check(path, sha256)
        for entry in list_models(models):
            assert entry.card is not None or not entry.path.exists(), entry
        delete_model(path)

        key = f"key {random.randint(3)}"
        tokens = np.full(SHAPE, ord(key[-1]), np.float32)
        store.write(key, SHAPE, np.split(tokens, 4))
        assert (store.open(key) == ord(key[-1])).all()
        registry.remember(f"{seed} {rounds}", f"owner/{seed}-{rounds}")
        rounds += 1
    for number in range(rounds):  # no entry is lost
        assert registry.recall(f"{seed} {number}") == f"owner/{seed}-{number}", number
    print(json.dumps({"rounds": rounds}))


def check(path: Path, sha256: str) -> None:
    """Check that a model is whole and the process's own."""
    assert verify_model(path).weights_sha256 == sha256, path


if __name__ == "__main__":
    main()
