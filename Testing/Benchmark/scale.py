"""Costs of a batch, measured on this machine, and an archive on 1 to 64 GPUs, simulated.

PYTHONPATH=Testing .venv/bin/python Testing/Benchmark/scale.py measure --model MODEL.safetensors
PYTHONPATH=Testing .venv/bin/python Testing/Benchmark/scale.py memory --model MODEL.safetensors
PYTHONPATH=Testing .venv/bin/python Testing/Benchmark/scale.py simulate

`measure` detects in small generated heads: in a loop, as a batch in this process, and in two
processes. Processor time is what counts on a machine that others share; that of a batch is also
divided into the detections and the rest. `memory` runs the command `detect` on 100 scans and on
as many as `--scans`. `simulate` prints the tables of `Resources/Docs/scale.md`.
"""

import argparse
import heapq
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SHAPE_KJI, SPACING_MM = (6, 48, 48), (4.8, 4.8, 20.0)


@dataclass(frozen=True)
class Costs:
    """Costs of a scan of 155 slices at 448 px with ViT-S/16, and of what the machines share."""

    gpu_s: float = 155 * 48.3e9 / 50e12
    """Encoder and scoring: GFLOP a slice (`benchmarks.md`), on a GPU that sustains 50 TFLOP/s."""
    cpu_s: float = 2.3
    """One core: reading, body mask, slices, findings, writing (`benchmarks.md`, profile)."""
    read_bytes: float = 10e6
    write_bytes: float = 12e6
    server_bytes_s: float = 1.0e9
    """Of the file server and its network (10 Gbit/s), for all machines together."""
    scheduler_s: float = 0.002
    """Of Dask's scheduler and of the command, for each scan."""
    workers: int = 16
    """Worker processes that share a GPU."""


EMBEDDING = replace(
    Costs(), gpu_s=155 * 45.4e9 / 50e12, cpu_s=0.45, write_bytes=155 * 384 * 28 * 28 * 2
)
"""Embedding for a training: tokens in half precision instead of results."""


def simulate(costs: Costs, gpus: int, scans: int = 20_000) -> tuple[float, dict[str, float]]:
    """Return scans an hour, and how busy each resource was, for scans that come one by one."""
    free = [(0.0, worker) for worker in range(gpus * costs.workers)]
    gpu, server, scheduler = [0.0] * gpus, 0.0, 0.0
    end = 0.0
    for _ in range(scans):
        now, worker = heapq.heappop(free)
        scheduler = max(scheduler, now) + costs.scheduler_s
        server = max(server, scheduler) + costs.read_bytes / costs.server_bytes_s
        ready = server + costs.cpu_s / 2
        gpu[worker % gpus] = max(gpu[worker % gpus], ready) + costs.gpu_s
        done = gpu[worker % gpus] + costs.cpu_s / 2
        # Written bytes take the server's time in the order of the scans, not of their ends.
        server += costs.write_bytes / costs.server_bytes_s
        done = max(done, server)
        end = max(end, done)
        heapq.heappush(free, (done, worker))
    busy = {
        "GPU": scans * costs.gpu_s / gpus / end,
        "processor": scans * costs.cpu_s / (gpus * costs.workers) / end,
        "file server": scans * (costs.read_bytes + costs.write_bytes) / costs.server_bytes_s / end,
        "scheduler": scans * costs.scheduler_s / end,
    }
    return scans / end * 3600, busy


def print_simulation() -> None:
    """Print a table of scans an hour for each kind of work."""
    fast = {"server_bytes_s": 10e9}
    for title, costs in {
        "Detection, one worker a GPU": replace(Costs(), workers=1),
        "Detection, 16 workers a GPU": Costs(),
        "Embedding, 16 workers a GPU": EMBEDDING,
        "Embedding, 16 workers a GPU, file server of 10 GB/s": replace(EMBEDDING, **fast),
    }.items():
        print(f"\n**{title}**\n")
        print(
            "| GPUs | scans an hour | hours for 10⁵ scans | busiest |\n| ---: | ---: | ---: | --- |"
        )
        for gpus in (1, 2, 4, 8, 16, 32, 64):
            rate, busy = simulate(costs, gpus)
            most = max(busy, key=lambda name: busy[name])
            print(
                f"| {gpus} | {rate:,.0f} | {1e5 / rate:.1f} | {most} ({100 * busy[most]:.0f} %) |"
            )


def processor_s() -> float:
    """Return the processor time of this process and of its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def timed(name: str, scans: int, run: Callable[[], object]) -> None:
    """Run and print the wall and processor time of a scan."""
    wall, processor = time.perf_counter(), processor_s()
    run()
    wall, processor = time.perf_counter() - wall, processor_s() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:14} {1e3 * wall / scans:8.1f} ms wall, {1e3 * processor / scans:8.1f} ms processor "
        f"a scan; peak of this process {peak:.0f} MiB; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


@contextmanager
def many_heads(scans: int) -> Iterator[tuple[Path, list[Path]]]:
    """Give a folder, and the files of as many heads in its folder `in`."""
    from SpatialARAnomalyLib.engine.volumes.files import write_nifti
    from SpatialARAnomalyLib.service.demo.phantom import normal_head

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        (folder / "in").mkdir()
        for number in range(8):
            head = normal_head(number, shape_kji=SHAPE_KJI, spacing_mm=SPACING_MM)
            write_nifti(folder / "in" / f"{number}.nii.gz", head)
        files = sorted((folder / "in").iterdir())
        for number in range(8, scans):
            files.append(folder / "in" / f"{number}.nii.gz")
            os.link(files[number % 8], files[-1])
        yield folder, files


def measure_memory(model: Path, scans: int) -> None:
    """Print the peak memory of the command `detect` for 100 scans and for as many."""
    main = "from SpatialARAnomalyLib.service.cli.main import main; main()"
    for count in (100, scans):
        with many_heads(count) as (folder, _):
            command = [sys.executable, "-c", main, "detect", folder / "in", "--model", model]
            process = subprocess.Popen([*map(str, command), "--out", str(folder / "out")])
            _, status, used = os.wait4(process.pid, 0)
            assert status == 0
            print(f"{count} scans: peak {used.ru_maxrss / 1024:.1f} MiB", flush=True)


def measure(model: Path, scans: int) -> None:
    """Measure a loop, a batch in this process and in two, with as many small heads."""
    from SpatialARAnomalyLib.engine.progress import SilentReporter
    from SpatialARAnomalyLib.service.batch.places import Here, Place
    from SpatialARAnomalyLib.service.batch.processes import Processes
    from SpatialARAnomalyLib.service.detection import result_files
    from SpatialARAnomalyLib.service.detection.detect_many import detect_batch, find_batch
    from SpatialARAnomalyLib.service.detection.result_files import ResultsSpec, detect_to_files
    from SpatialARAnomalyLib.service.scans import ScanSource

    report, spec = SilentReporter(), ResultsSpec(model=model)
    inside_s = 0.0

    def counted(*arguments: Any) -> Any:
        nonlocal inside_s
        begun = processor_s()
        try:
            return detect_to_files(*arguments)
        finally:
            inside_s += processor_s() - begun

    result_files.detect_to_files = counted
    with many_heads(scans) as (folder, files):

        def batch(name: str, place: Place) -> None:
            found = find_batch([folder / "in"], report) or []
            source = ScanSource(path=folder)
            out = folder / name
            outcome = detect_batch([folder / "in"], found, source, spec, out, place, report)
            assert outcome.is_complete, outcome.counts

        def loop(name: str) -> None:
            for file in files:
                detect_to_files(ScanSource(path=file), spec, folder / name / file.name, report)

        batch("warm", Here())
        timed("loop", scans, lambda: loop("loop"))
        inside_s, begun = 0.0, processor_s()
        timed("batch", scans, lambda: batch("one", Here()))
        rest_s = processor_s() - begun - inside_s
        print(
            f"beside detections: {1e3 * rest_s / scans:.2f} ms a scan, "
            f"{100 * rest_s / inside_s:.1f} %"
        )
        timed("loop again", scans, lambda: loop("again"))
        timed("batch again", scans, lambda: batch("more", Here()))
        timed("1 process", scans, lambda: batch("first", Processes(1)))
        timed("2 processes", scans, lambda: batch("two", Processes(2)))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("measure", "memory", "simulate"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--scans", type=int, default=200)
    options = parser.parse_args()
    if options.what == "simulate":
        print_simulation()
    elif options.what == "memory":
        measure_memory(options.model, options.scans)
    else:
        measure(options.model, options.scans)


if __name__ == "__main__":
    main()
