"""Growth of memory, handles and temporary files in long runs (Linux).

    PYTHONPATH=Testing:SpatialARAnomaly python -m Faults.long_run --detections 200 --epochs 2880

detects again and again in one warm worker, then writes the checkpoints of a training: 2880 are a
day of epochs that take 30 s.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from engine.model_examples import small_model
from service.small_site import Site, make_site
from service.worker_process import WorkerProcess
from SpatialARAnomalyLib.engine.model.checkpoint import Fit, save_checkpoint
from SpatialARAnomalyLib.engine.progress import EpochFigures
from SpatialARAnomalyLib.engine.volumes.files import read_volume_file

WARM_UP = 0.25
"""Share of the steps that come before the growth is fitted."""


@dataclass
class Growth:
    """What a process holds after every step of a long run."""

    memory_mb: list[float] = field(default_factory=list)
    handles: list[int] = field(default_factory=list)

    def note(self, pid: int) -> None:
        """Note what a process holds now."""
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        self.memory_mb.append(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
        self.handles.append(len(os.listdir(f"/proc/{pid}/fd")))

    @property
    def slope_mb(self) -> float:
        """MB a step, by least squares after the warm-up."""
        first = int(WARM_UP * len(self.memory_mb))
        rest = self.memory_mb[first:]
        return float(np.polyfit(np.arange(len(rest)), rest, 1)[0])

    @property
    def settled_handles(self) -> set[int]:
        """Numbers of open handles after the warm-up."""
        return set(self.handles[int(WARM_UP * len(self.handles)) :])

    def __str__(self) -> str:
        return (
            f"{len(self.memory_mb)} steps, {self.slope_mb:+.4f} MB a step, handles "
            f"{sorted(self.settled_handles)}"
        )


def detect_again(site: Site, folder: Path, times: int) -> Growth:
    """Detect in one warm worker; every result is removed, as the panel does."""
    head, growth = read_volume_file(site.normals[0]), Growth()
    np.save(folder / "head.npy", head.voxels)
    inputs = {
        "voxels": str(folder / "head.npy"),
        "ras_from_voxel": head.ras_from_voxel.tolist(),
        "modality": "MR",
        "model": str(site.model),
    }
    output, tmp = folder / "output", folder / "tmp"
    tmp.mkdir()
    with WorkerProcess(folder / "desk", TMPDIR=str(tmp)) as worker:
        for _ in range(times):
            worker.result("detect", inputs, {"device": "cpu"}, output)
            growth.note(worker.process.pid)
            for file in output.iterdir():
                file.unlink()
            output.rmdir()
    assert list(tmp.iterdir()) == []
    return growth


def write_checkpoints(folder: Path, epochs: int) -> Growth:
    """Write the checkpoints of a training in this process."""
    model, growth = small_model(), Growth()
    best = {name: value.clone() for name, value in model.state_dict().items()}
    run, optimizer = Fit(model, [], 1, best), torch.optim.AdamW(model.parameters())
    for epoch in range(1, epochs + 1):
        run.curve.append(EpochFigures(epoch=epoch, train_mse=1.0, held_out_nll=1.0 + 1 / epoch))
        save_checkpoint(folder / "checkpoint.safetensors", "of this", run, optimizer)
        growth.note(os.getpid())
    assert os.listdir(folder) == ["checkpoint.safetensors"]
    return growth


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--detections", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=2880)
    asked = parser.parse_args()

    def measure(what: str, run: Callable[[Path], Growth]) -> None:
        with tempfile.TemporaryDirectory() as name:
            print(f"{what}: {run(Path(name))}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        os.environ["SPATIAL_AR_ANOMALY_HOME"] = f"{name}/settings"
        site = make_site(Path(name))
        measure("detections", lambda folder: detect_again(site, folder, asked.detections))
    measure("checkpoints", lambda folder: write_checkpoints(folder, asked.epochs))


if __name__ == "__main__":
    main()
