"""Response of the panel on a large scan: pauses of Slicer's event loop, slider, new findings.

    PYTHONPATH=Testing .venv/bin/python Testing/Benchmark/panel.py [--slices 300]

Makes a 512×512 scan with its NLL volume, and a worker that returns it at once, so that only the
panel is timed: sending the scan, loading the result, moving the threshold with three slice views
drawn after every move, and updating findings (with the real worker). The processor draws (Mesa),
not a GPU.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from Harness import gui_gap, load_scripted_module, run_events, start, wait_until
from scipy import ndimage

ROOT = Path(__file__).parents[2]

ANSWERING_WORKER = """
import json, os, shutil, sys
def say(**event): print(json.dumps(event), flush=True)
say(event="hello", protocol=1, engine="benchmark", pid=os.getpid(), device="cpu")
answer = json.load(open(sys.argv[1]))
for line in sys.stdin:
    request = json.loads(line)
    if "job" in request:
        say(id=request["id"], event="result", **answer)
"""


def nll_and_labels(slices: int, work: Path) -> tuple[np.ndarray, dict]:
    """Make a smooth NLL volume with twelve balls, and the worker's answer with it."""
    from SpatialARAnomalyLib.engine.scoring.calibration_fit import fit_calibration
    from SpatialARAnomalyLib.engine.scoring.findings import find_in_box
    from SpatialARAnomalyLib.service.detection.findings_table import finding_row

    random = np.random.default_rng(0)
    coarse = random.normal(size=(-(-slices // 8), 64, 64)).astype(np.float32)
    nll = np.ascontiguousarray(ndimage.zoom(coarse, 8, order=1)[:slices])
    normal = nll[::3, ::4, ::4].ravel()
    calibration = fit_calibration([normal], [normal])
    radius = 14
    ball = np.indices((2 * radius + 1,) * 3) - radius
    for center in random.integers(radius, (slices - radius, 512 - radius, 512 - radius), (12, 3)):
        box = tuple(slice(one - radius, one + radius + 1) for one in center)
        nll[box] += 6.0 * ((ball**2).sum(axis=0) <= radius**2)
    affine = np.diag([-0.7, -0.7, 1.0, 1.0])
    rate = 0.001
    found = find_in_box(nll, affine, calibration, calibration.threshold(rate), 0.5)
    findings, labels = found[0], found[1]
    np.save(work / "nll.npy", nll)
    np.save(work / "labels.npy", labels.labels)
    answer = {
        "files": {"nll": str(work / "nll.npy"), "labels": str(work / "labels.npy")},
        "labels_start_kji": list(labels.start_kji),
        "findings": [finding_row(one) for one in findings],
        "calibration": calibration.to_dict(),
        "case_score": 3.0,
        "cautions": [],
        "false_positive_rate": rate,
        "model": {"name": "benchmark"},
    }
    (work / "answer.json").write_text(json.dumps(answer))
    return nll, answer


def milliseconds(times_s: list[float]) -> str:
    """Format median and largest of times in ms."""
    return f"{1000 * statistics.median(times_s):6.1f} {1000 * max(times_s):6.1f}"


def measure(slices: int, work: Path) -> None:
    """Print the table."""
    app = start(work / "slicer")
    import slicer
    from SpatialARAnomalyLib.engine.device import Device
    from SpatialARAnomalyLib.slicerapp.tasks.Detection import DetectionSettings
    from SpatialARAnomalyLib.slicerapp.worker.WorkerProcess import WorkerProcess

    nll, _answer = nll_and_labels(slices, work)
    module = load_scripted_module(ROOT / "SpatialARAnomaly/SpatialARAnomaly.py")
    module.enter()
    logic, review = module.widget.logic, module.widget.panel.review
    real = logic.worker
    (work / "worker.py").write_text(ANSWERING_WORKER)
    command = (sys.executable, str(work / "worker.py"), str(work / "answer.json"))
    scan = slicer.util.addVolumeFromArray((100 * nll).astype(np.int16), name="Large")
    matrix = slicer.util.vtkMatrixFromArray(np.diag([-0.7, -0.7, 1.0, 1.0]))
    scan.SetIJKToRASMatrix(matrix)
    slicer.util.setSliceViewerLayers(background=scan, fit=True)
    views = [app.layoutManager().sliceWidget(name).view for name in ("Red", "Yellow", "Green")]
    for view in views:
        view.pixels()
    logic.worker = WorkerProcess(command=command)
    settings = DetectionSettings(
        model=work, falsePositiveRate=0.001, leastVolumeMl=0.5,
        device=Device.CPU, allowMismatch=False,
    )  # fmt: skip
    ended = []
    begun = time.perf_counter()
    with gui_gap() as gap:
        logic.detect(scan, settings, ended.append)
        wait_until(lambda: ended, 120, "the detection")
    sent_s = time.perf_counter() - begun
    logic.worker.stop()
    logic.worker = real
    assert ended[0].error is None, ended[0].error
    review.review(ended[0].result)
    run_events(0.2)
    findings = len(review._rows)
    print(f"{slices} slices of 512×512, {findings} findings, {os.cpu_count()} cores")
    print(f"sending and loading       {sent_s:6.2f} s, longest pause {1000 * gap.longest_s:.0f} ms")
    slider_s, drawn_s = [], []
    for value in np.linspace(2.0, 4.0, 15):
        begun = time.perf_counter()
        module.ui.thresholdSlider.setValue(float(value))
        slider_s.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for view in views:
            view.pixels()
        drawn_s.append(time.perf_counter() - begun)
    print(f"slider to display node    {milliseconds(slider_s)} ms (median, largest)")
    print(f"drawing three views        {milliseconds(drawn_s)} ms")
    module.ui.thresholdSlider.setValue(2.7)
    review._rest.stop()
    for turn in ("cold worker, NLL sent", "warm"):
        begun = time.perf_counter()
        with gui_gap() as gap:
            review.updateFindings()
            wait_until(lambda: not logic.finding, 120, "the findings")
        took = time.perf_counter() - begun
        print(f"update ({turn})  {took:5.2f} s, longest pause {1000 * gap.longest_s:.0f} ms")
        module.ui.thresholdSlider.setValue(3.1)
        review._rest.stop()
    print(f"findings at the end       {len(review._rows)}")
    module.unload()


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=300)
    with tempfile.TemporaryDirectory() as work:
        os.environ.setdefault("SPATIAL_AR_ANOMALY_HOME", work)
        measure(parser.parse_args().slices, Path(work))


if __name__ == "__main__":
    main()
