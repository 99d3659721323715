"""A whole detection, from a file to all files, beside the bare encoder on the same slices."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from Benchmark.speed.encoders import random_images
from Benchmark.speed.site import own_settings
from Benchmark.speed.tables import Options, Table, Target
from Benchmark.speed.timing import in_turn, ratio, spread
from Benchmark.speed.warm_job import WarmJob

if TYPE_CHECKING:
    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder

MOST = 1.10
REPEATS = 3
"""Maximum number of repeats; a whole job takes a minute."""

BATCHES = {"cpu": (1, 2, 4, 8), "cuda": (1, 8, 16, 32, 64, 155)}
"""Batch sizes tried for the bare encoder, by device."""
BATCH_REPEATS = 2


def run(options: Options) -> list[Table]:
    """Measure the detection and its bare encoder."""
    with own_settings(options.work):
        return _tables(options)


def _tables(options: Options) -> list[Table]:
    import torch

    job = WarmJob.make(options)
    job()
    stack, encoder = job.stack()
    batch = best_batch(encoder, stack.rows.spec.size_px, options)
    images = torch.from_numpy(np.concatenate([stack.images(index) for index in stack.indices]))
    stages: list[dict[str, float]] = []

    def whole() -> None:
        stages.append(job().seconds)

    def bare() -> None:
        for first in range(0, len(images), batch):
            encoder.embed(images[first : first + batch])

    seconds = in_turn(
        {"job": whole, "encoder": bare}, min(options.repeats, REPEATS), options.device
    )
    slices = len(stack.indices)
    whole_s, bare_s = spread(seconds["job"]), spread(seconds["encoder"])
    over = ratio(seconds["job"], seconds["encoder"])
    measured = stages[1:]  # the first one warms up
    rows = [
        (stage, spread([one[stage] for one in measured]), None)
        for stage in ("read", "embed", "find", "write")
    ]
    k, j, i = stack.voxels.shape
    return [
        Table(
            "detection",
            "A detection from its file to all files written, model and encoder warm",
            ("Work", "Seconds", "Beside the bare encoder"),
            (
                ("bare encoder, the same slices as images in memory", bare_s, None),
                ("whole job", whole_s, over),
                *((f"of it: {stage}", took, None) for stage, took, _ in rows),
            ),
            (
                f"{k} slices of {j}×{i} voxels, {slices} with body; images of "
                f"{stack.rows.spec.size_px} px; {encoder.card.channels} channels; preset standard; "
                f"bare encoder in batches of {batch}, the fastest for it here.",
                "Stages as in run.json: read (with body mask), embed (with scoring and the way "
                "back to voxels), find, write.",
            ),
            (Target(what="job / bare encoder", reached=over, at_most=MOST),),
        )
    ]


def best_batch(encoder: "Encoder", side_px: int, options: Options) -> int:
    """Find the batch size at which the bare encoder is fastest."""
    sizes = BATCHES.get(options.device.type, BATCHES["cpu"])
    images = random_images(2 if options.quick else max(sizes), side_px)
    sizes = tuple(size for size in sizes if size <= len(images))

    def forward(size: int) -> None:
        for first in range(0, len(images), size):
            encoder.embed(images[first : first + size])

    works = {str(size): partial(forward, size) for size in sizes}
    seconds = in_turn(works, BATCH_REPEATS, options.device)
    return min(sizes, key=lambda size: min(seconds[str(size)]))
