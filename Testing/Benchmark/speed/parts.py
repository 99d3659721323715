"""The parts of the benchmark: each is the module of its name, with `run(options)`."""

import importlib

from Benchmark.speed.tables import Part

PARTS = {
    "encoder": "the encoder's share of the machine's best float32 matrix-product rate",
    "precision": "bf16 beside float32: the encoder's time and the ranks of the NLL",
    "autoregressive": "scoring beside full 3×3 kernels and beside the encoder",
    "memory_bank": "scoring and bytes beside nearest-neighbor memory banks",
    "scaling": "time against slices, resolution and size of the encoder",
    "detection": "a whole job, from file to all files, beside the bare encoder",
    "training": "40 epochs through the store beside embedding in every epoch",
    "memory": "peaks of detection and training, and their growth",
    "cold_start": "from a process's start to its first output; a second detection",
    "profile": "the time of a detection by function",
}
"""Parts and their descriptions, in the order in which they run."""


def part(name: str) -> Part:
    """Import the part of that name and return its `run`."""
    run: Part = importlib.import_module(f"Benchmark.speed.{name}").run
    return run
