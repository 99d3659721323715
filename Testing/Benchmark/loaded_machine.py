"""How much slower a detection is while other programs keep the processor busy.

    PYTHONPATH=Testing:SpatialARAnomaly python Testing/Benchmark/loaded_machine.py

Detects in a head of the demo in one warm worker, five times quietly and five times beside busy
processes, and prints the medians and their ratio. `OMP_WAIT_POLICY=ACTIVE` and
`OMP_NUM_THREADS=1` in the environment measure the alternatives.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from service.worker_process import WorkerProcess
from SpatialARAnomalyLib.engine.volumes.files import write_nifti
from SpatialARAnomalyLib.service.demo.phantom import normal_head


def measure(worker: WorkerProcess, request: dict[str, object], folder: Path, times: int) -> float:
    """Return the median seconds of a warm detection."""
    seconds = []
    for number in range(times):
        begun_s = time.perf_counter()
        worker.result("detect", request, {"device": "cpu"}, folder / f"{time.time_ns()} {number}")
        seconds.append(time.perf_counter() - begun_s)
    return statistics.median(seconds)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=4, help="number of busy processes")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--size-px", type=int, default=448)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        normals = [{"path": str(folder / f"{number}.nii.gz")} for number in range(2)]
        for number, normal in enumerate(normals):
            write_nifti(Path(normal["path"]), normal_head(number))
        head = normal_head(9)
        np.save(folder / "head.npy", head.voxels)
        request = {
            "voxels": str(folder / "head.npy"),
            "ras_from_voxel": head.ras_from_voxel.tolist(),
            "modality": "MR",
            "model": str(folder / "model"),
        }
        settings = {"size_px": asked.size_px, "epochs": 1, "device": "cpu", "preset": "standard"}
        # Not the number of threads that the tests choose.
        threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
        with WorkerProcess(folder / "desk", OMP_NUM_THREADS=threads) as worker:
            worker.result("train", {"normals": normals}, settings, folder / "model")
            measure(worker, request, folder, 1)
            quiet = measure(worker, request, folder, asked.times)
            busy = [
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
                for _ in range(asked.busy)
            ]
            try:
                loaded = measure(worker, request, folder, asked.times)
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
    print(
        f"{os.cpu_count()} cores, {threads} threads, load before {os.getloadavg()[0]:.1f}: quiet "
        f"{quiet:.2f} s, beside {asked.busy} busy processes {loaded:.2f} s, {loaded / quiet:.2f} ×"
    )


if __name__ == "__main__":
    main()
