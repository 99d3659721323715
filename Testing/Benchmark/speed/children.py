"""Jobs that run in separate processes, so that their memory can be measured.

    python -m Benchmark.speed.children JOB ARGUMENTS

prints a JSON object: seconds, peak memory, and the job's own results.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import SpatialARAnomalyLib
from Benchmark.speed.peaks import PeakMemory

TESTING = Path(__file__).parents[2]
LIBRARY = Path(SpatialARAnomalyLib.__file__).parents[1]

VOLUME_SLICES = 40
"""Slices of each volume in a feature store."""


def environment() -> dict[str, str]:
    """Return this process's environment, extended so that a child finds package and benchmark."""
    earlier = os.environ.get("PYTHONPATH", "")
    paths = [str(TESTING), str(LIBRARY), *filter(None, [earlier])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def run_child(job: str, **settings: Any) -> dict[str, Any]:
    """Run a job in a child process and return its results.

    Raises `CalledProcessError` if it fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__, job, json.dumps(settings)],
        env=environment(),
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def detect(scan: str, model: str, encoder: str, out: str, device: str) -> None:
    """Run a detection as the command line does."""
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.engine.progress import SilentReporter
    from SpatialARAnomalyLib.service.detection.result_files import ResultsSpec, detect_to_files
    from SpatialARAnomalyLib.service.scans import ScanSource

    spec = ResultsSpec(
        model=Path(model),
        encoder=encoder,
        device=Device(device),
        overwrite=True,
        # A few slices of a tall body do not suit the model.
        allow_mismatch=True,
    )
    detect_to_files(ScanSource(path=Path(scan)), spec, Path(out), SilentReporter())


def fit(store: str, slices: int, preset: str, device: str) -> None:
    """Train the network for one epoch on tokens in a store."""
    from SpatialARAnomalyLib.engine.model.feature_store import FeatureStore
    from SpatialARAnomalyLib.engine.model.training import fit as run
    from SpatialARAnomalyLib.engine.progress import SilentReporter
    from SpatialARAnomalyLib.engine.specs import (
        AutoregressiveSpec,
        Preset,
        TrainingSpec,
    )

    kept = FeatureStore(Path(store))
    volumes = [kept.open(f"{number}") for number in range(slices // VOLUME_SLICES)]
    held_out = max(1, len(volumes) // 5)
    run(
        volumes[held_out:],
        volumes[:held_out],
        AutoregressiveSpec.from_preset(Preset(preset)),
        TrainingSpec(epochs=1),
        report=SilentReporter(),
        device=device,
    )


def train(normals: list[str], out: str, size_px: int, preset: str, device: str) -> None:
    """Run a whole training of one epoch with the demonstration encoder."""
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.engine.progress import SilentReporter
    from SpatialARAnomalyLib.engine.specs import Preset
    from SpatialARAnomalyLib.service.training.request import TrainSpec
    from SpatialARAnomalyLib.service.training.train import train as run

    spec = TrainSpec(
        size_px=size_px, preset=Preset(preset), epochs=1, device=Device(device), overwrite=True
    )
    run([Path(one) for one in normals], Path(out), spec, SilentReporter())


def two_detections(
    scan: str, model: str, encoder: str, work: str, device: str
) -> list[dict[str, Any]]:
    """Run two detections as the worker does; report time, imports and warm parts of each."""
    import shutil

    import numpy as np
    from SpatialARAnomalyLib.engine.volumes.files import read_volume_file

    volume = read_volume_file(Path(scan))
    folder = Path(work)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    np.save(folder / "voxels.npy", volume.voxels)

    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.engine.progress import SilentReporter
    from SpatialARAnomalyLib.service.worker.detection import (
        DetectInputs,
        DetectSpec,
    )
    from SpatialARAnomalyLib.service.worker.detection import detect as run

    inputs = DetectInputs.from_dict(
        {
            "voxels": str(folder / "voxels.npy"),
            "ras_from_voxel": volume.ras_from_voxel.tolist(),
            "model": model,
        }
    )
    spec = DetectSpec(device=Device(device), encoder=encoder, allow_mismatch=True)
    said = []
    for number in (1, 2):
        modules, start = len(sys.modules), time.perf_counter()
        found = run(inputs, spec, folder / f"{number}", SilentReporter())
        said.append(
            {
                "seconds": time.perf_counter() - start,
                "stages": found["seconds"],
                "modules": len(sys.modules) - modules,
                "warm": found["warm"],
            }
        )
    return said


def only_imports() -> None:
    """Import PyTorch and transformers, for comparison."""
    import torch  # noqa: F401
    from transformers import DINOv3ViTModel  # noqa: F401


JOBS: dict[str, Callable[..., Any]] = {
    "detect": detect,
    "fit": fit,
    "train": train,
    "two_detections": two_detections,
    "only_imports": only_imports,
}


def main() -> None:
    """Run the job given on the command line."""
    job, settings = sys.argv[1], json.loads(sys.argv[2])
    start = time.perf_counter()
    with PeakMemory() as memory:
        says = JOBS[job](**settings)
    peak = memory.peak()
    seconds = time.perf_counter() - start
    found = {"seconds": seconds, "resident_mb": peak.resident, "own_mb": peak.own, "says": says}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
