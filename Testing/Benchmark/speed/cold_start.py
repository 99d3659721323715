"""Time until the first output, and the work left for a second detection."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence

from Benchmark.speed.children import environment, run_child
from Benchmark.speed.site import own_settings
from Benchmark.speed.tables import Options, Table, Target
from Benchmark.speed.timing import spread
from Benchmark.speed.warm_job import WarmJob

REPEATS = 5
COMMAND = "from SpatialARAnomalyLib.service.cli.main import main; main()"
WORKER = "from SpatialARAnomalyLib.service.worker.main import main; main()"
IMPORTS = (
    "import torch; from transformers import DINOv3ViTModel; "
    'print(\'{"event": "imported"}\', flush=True)'
)
"""The imports that every detection needs."""
WAIT_S = 120.0
MOST_AFTER_IMPORTS_S = 1.2
"""Largest accepted time in seconds from those imports to a detection's first progress."""
MOST_HELP_S = 0.3


def run(options: Options) -> list[Table]:
    """Measure both tables."""
    with own_settings(options.work):
        job = WarmJob.make(options)
        return [_first_words(job, options), _second_detection(job, options)]


def _first_words(job: WarmJob, options: Options) -> Table:
    detect = ["detect", str(job.scan), "--model", str(job.model), "--out"]
    detect += [str(options.work / "cold"), "--encoder", str(job.encoder_folder)]
    detect += ["--device", options.device.type, "--allow-mismatch", "--overwrite", "--json"]
    help_s, hello_s, detect_help_s, imported_s = [], [], [], []
    seconds: dict[str, list[float]] = {}
    repeats = 1 if options.quick else min(options.repeats, REPEATS)
    for _ in range(repeats):
        help_s.append(time_to_end([sys.executable, "-c", COMMAND, "--help"]))
        detect_help_s.append(time_to_end([sys.executable, "-c", COMMAND, "detect", "--help"]))
        hello_s.append(time_to_events([sys.executable, "-c", WORKER], ("hello",))["hello"])
        imported_s.append(
            time_to_events([sys.executable, "-c", IMPORTS], ("imported",))["imported"]
        )
        events = ("hello", "stage read", "stage embed", "progress")
        for event, took in time_to_events([sys.executable, "-c", COMMAND, *detect], events).items():
            seconds.setdefault(event, []).append(took)
    shown = {
        "hello": "detect --json: hello",
        "stage read": "detect --json: reading begins",
        "stage embed": "detect --json: scan, model and encoder loaded",
        "progress": "detect --json: first progress, a slice embedded",
    }
    pairs = zip(seconds["progress"], imported_s, strict=True)
    after_imports = spread([progress - imported for progress, imported in pairs])
    return Table(
        "cold-start",
        "From the start of a process, files in the system's cache",
        ("Until", "Seconds"),
        (
            ("--help is printed", spread(help_s)),
            ("detect --help is printed", spread(detect_help_s)),
            ("worker: hello", spread(hello_s)),
            *((shown[event], spread(found)) for event, found in seconds.items()),
            ("torch and transformers' DINOv3 are imported, nothing else", spread(imported_s)),
            ("first progress, less those imports", after_imports),
        ),
        (f"All in turn; medians of {repeats}, with least and largest.",),
        (
            Target(what="seconds to --help", reached=spread(help_s), at_most=MOST_HELP_S),
            Target(
                what="first progress, seconds after what the imports take",
                reached=after_imports,
                at_most=MOST_AFTER_IMPORTS_S,
            ),
        ),
    )


def time_to_end(command: Sequence[str]) -> float:
    """Measure the seconds from the start of a process to its end, which must succeed."""
    start = time.perf_counter()
    subprocess.run(command, env=environment(), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def time_to_events(command: Sequence[str], events: Sequence[str]) -> dict[str, float]:
    """Measure the seconds from the start of a process to each of these events, in this order.

    A stage is given as `stage NAME`. The process is ended after the last event.
    """
    start = time.perf_counter()
    seconds: dict[str, float] = {}
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                event = json.loads(line)
                name = event["event"]
                name += f" {event['name']}" if name == "stage" else ""
                if name in events and name not in seconds:
                    seconds[name] = time.perf_counter() - start
                if events[-1] in seconds:
                    break
        finally:
            process.kill()
            process.communicate(timeout=WAIT_S)
    missing = [event for event in events if event not in seconds]
    assert not missing, f"never said: {missing}"
    return seconds


def _second_detection(job: WarmJob, options: Options) -> Table:
    found = run_child(
        "two_detections",
        scan=str(job.scan),
        model=str(job.model),
        encoder=str(job.encoder_folder),
        work=str(options.work / "worker"),
        device=options.device.type,
    )["says"]
    rows = tuple(
        (
            name,
            one["seconds"],
            one["stages"]["read"],
            one["modules"],
            "yes" if one["warm"] == {"encoder": True, "model": True} else "no",
        )
        for name, one in zip(("first", "second"), found, strict=True)
    )
    return Table(
        "second-detection",
        "Two detections in one worker",
        ("Detection", "Seconds", "Of it: read", "Modules imported", "Model and encoder warm"),
        rows,
        ("Read: the scan, its body, and what must be loaded. The worker's own function, which "
         "takes and gives arrays; whether all was warm is what its result says.",),
    )  # fmt: skip
