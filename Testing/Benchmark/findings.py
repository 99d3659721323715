"""Time to extract findings from a large volume, beside labeling its whole grid: prints a table.

    python Testing/Benchmark/findings.py            # under a minute, 3 GB of memory

The grid has 300 × 512 × 512 voxels of 0.5 mm. `smooth` is like the result of a detection: values
of tokens, linear in between, of which a share reaches the threshold. `specks` are single voxels
and some balls. Columns: the share above the threshold, the findings, seconds to label every
voxel (`grid`) and to connect runs (`runs`), their ratio, and seconds of the worker's job `find`
in a warm process, from file to files. All must find the same.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy import ndimage
from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.scoring.findings import find_in_box

SHAPE_KJI, PATCH = (300, 512, 512), 16
RAS_FROM_VOXEL = np.diag([0.5, 0.5, 0.5, 1.0])
VOXEL_ML, MIN_ML = 0.5**3 / 1000, 0.5
CALIBRATION = Calibration(
    levels=(0.0, 1.0), nll=(0.0, 9.0), token_nll=(0.0, 9.0), tokens=1000, volumes=2
)


def label_every_voxel(nll, threshold, min_ml):
    """Find voxels, peak, mean and label map of every finding by labeling the whole grid."""
    regions, count = ndimage.label(nll >= threshold, structure=np.ones((3, 3, 3), dtype=bool))
    labels = np.zeros(nll.shape, dtype=np.uint16)
    if count == 0:
        return [], labels
    sizes = np.zeros(count + 1, dtype=np.int64)
    for one_slice in regions:
        counts = np.bincount(one_slice.ravel())
        sizes[: counts.size] += counts
    kept = []
    for region, box in enumerate(ndimage.find_objects(regions), start=1):
        if sizes[region] * VOXEL_ML >= min_ml * (1 - 1e-6):
            inside = regions[box] == region
            kept.append((float(nll[box][inside].max()), region, box))
    kept.sort(key=lambda one: (-one[0], one[1]))
    findings = []
    for rank, (peak, region, box) in enumerate(kept, start=1):
        inside = regions[box] == region
        labels[box][inside] = rank
        np.argwhere(inside).mean(axis=0)
        values = nll[box][inside].astype(np.float64)
        findings.append((int(sizes[region]), peak, float(values.mean())))
    return findings, labels


def smooth() -> np.ndarray:
    """Make token values, linear between tokens in-plane, the same in six slices."""
    random = np.random.RandomState(0)
    tokens = random.gamma(4.0, size=(SHAPE_KJI[0] // 6, 33, 33)).astype(np.float32)
    at = np.arange(SHAPE_KJI[1]) / PATCH
    low = at.astype(int)
    weights = np.zeros((at.size, 33), dtype=np.float32)
    weights[np.arange(at.size), low] = 1 - (at - low)
    weights[np.arange(at.size), low + 1] = at - low
    planes = weights @ tokens @ weights.T
    return np.ascontiguousarray(np.repeat(planes, 6, axis=0))


def specks(share: float) -> np.ndarray:
    """Make a share of single voxels and twelve balls above 1, all else below."""
    random = np.random.RandomState(1)
    nll = random.random_sample(SHAPE_KJI).astype(np.float32)
    nll += np.float32(share)
    k, j, i = np.ogrid[-20:21, -20:21, -20:21]
    ball = k**2 + j**2 + i**2 <= 400
    for center in random.randint(21, np.array(SHAPE_KJI) - 21, size=(12, 3)):
        box = tuple(slice(one - 20, one + 21) for one in center)
        nll[box][ball] = 1.5 + random.random_sample(np.count_nonzero(ball))
    return nll


def cases():
    """Yield name, NLL volume, threshold and least volume."""
    nll = smooth()
    for share in (0.001, 0.003, 0.01, 0.1):
        yield "smooth", nll, float(np.quantile(nll[::7], 1 - share)), MIN_ML
    for share in (0.001, 0.01):
        yield "specks", specks(share), 1.0, MIN_ML
    yield "everything", nll, 0.0, MIN_ML


def timed(function, *arguments):
    """Return the function's result and its seconds."""
    begin = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - begin


class Worker:
    """The worker's process, for the job `find`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "SpatialARAnomalyLib.service.worker.main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.process.stdout.readline()
        self.asked = 0

    def find(self, nll: Path, threshold: float, min_ml: float):
        """Return the voxels of the findings and their label map's box."""
        self.asked += 1
        # The calibration is linear from −99 to 99, so that any threshold has a rate.
        calibration = CALIBRATION.to_dict() | {"nll": [-99.0, 99.0]}
        request = {
            "protocol": 1,
            "id": self.asked,
            "job": "find",
            "inputs": {
                "nll": str(nll),
                "ras_from_voxel": RAS_FROM_VOXEL.tolist(),
                "calibration": calibration,
            },
            "spec": {"false_positive_rate": (99 - threshold) / 198, "min_volume_ml": min_ml},
            "output": str(self.folder / f"out{self.asked}"),
        }
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        while (event := json.loads(self.process.stdout.readline()))["event"] != "result":
            assert event["event"] != "failed", event
        return event


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        worker = Worker(Path(folder))
        compare(worker, Path(folder) / "nll.npy")
        worker.process.stdin.close()
        worker.process.wait()


def compare(worker: Worker, file: Path) -> None:
    """Print a row per case."""
    tiny = np.zeros((2, 2, 2), np.float32)
    find_in_box(tiny, RAS_FROM_VOXEL, CALIBRATION, 0.0, 0.0)
    np.save(file, tiny)
    worker.find(file, 0.0, 0.0)
    print("case           above  findings  grid s  runs s  faster  worker s")
    for name, nll, threshold, min_ml in cases():
        (findings, box), new_s = timed(
            find_in_box, nll, RAS_FROM_VOXEL, CALIBRATION, threshold, min_ml
        )
        (expected, labels), old_s = timed(label_every_voxel, nll, threshold, min_ml)
        found = [(one.voxels, one.peak_nll) for one in findings]
        assert found == [one[:2] for one in expected]
        assert np.allclose([one.mean_nll for one in findings], [one[2] for one in expected])
        assert np.array_equal(labels, labels * 0 if box is None else box.on_grid(nll.shape))
        np.save(file, nll)
        event, worker_s = timed(worker.find, file, threshold, min_ml)
        assert [row["voxels"] for row in event["findings"]] == [one.voxels for one in findings]
        above = np.count_nonzero(nll >= threshold) / nll.size
        print(
            f"{name:12}{above:8.2%}{len(findings):10}{old_s:8.2f}{new_s:8.2f}{old_s / new_s:8.1f}"
            f"{worker_s:10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
