"""What a training will take: measured on this machine, on a few slices and steps, and multiplied.

How good that is, tried on normal heads on a CPU (6 of 20 slices with a ViT of 0.2
million parameters, 4 of 12 slices with a ViT-S/16; 448 px; 2 and 3 epochs): computing time
within 10 %, disk within 0.02 %, memory 19 % too much. On a machine that other programs use, the
time is as far off as their share changes: 2 min 14 s told and 2 min 25 s taken, but also
2 min 22 s told and 4 min 57 s taken when the load doubled meanwhile. A test holds computing
time to a factor of 2.5 on small heads, and the disk to 10 %. On a GPU it is untried.
"""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..engine.plane_volume import PlaneVolume
from ..engine.progress import Reporter
from ..engine.slicing import AxisTiling, SliceStack
from ..engine.specs import (
    AutoregressiveSpec,
    IntensitySpec,
    Modality,
    SliceSpec,
    Spec,
    TrainingSpec,
    Variance,
)
from ..engine.token_place import MAP_SHAPE, PLACES, POSITION_FEATURES
from .normal_scans import NormalScan, Reading
from .sources import ArrayInput

if TYPE_CHECKING:
    import torch

    from ..engine.autoregressive import AutoregressiveModel
    from ..engine.encoder import Encoder

QUICK_S = 0.5
"""What takes no longer is measured in the size of the real work."""

FEW_IMAGES = 8
"""Otherwise so many are measured at once, and one, for the share that does not grow."""

PROBE_BYTES = 1 << 24
"""Written to the disk to learn its speed."""

CARD_BYTES = 15_000
"""Size of a model file without its tensors."""

PROGRAM_BYTES = 600 << 20
"""Python, torch and transformers themselves."""


@dataclass(frozen=True, kw_only=True)
class TrainingEstimate(Spec):
    """What a training will take."""

    embed_s: float
    """Seconds of the stages `read` and `embed`."""
    fit_s: float
    """Seconds of the stages `fit` and `calibrate`."""
    memory_bytes: int
    """Held at once, on the device that computes."""
    disk_bytes: int
    """At most at once: tokens, arrays of the scene, and the checkpoint twice while it is
    replaced (the model is smaller and comes last). All of it goes away but the model."""
    model_bytes: int
    free_disk_bytes: int
    """Where the model will lie."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training as far as it decides what it takes."""

    slices: SliceSpec
    modality: Modality
    autoregressive: AutoregressiveSpec
    training: TrainingSpec


def estimate_training(
    scans: Sequence[NormalScan], plan: Plan, encoder: "Encoder", folder: Path, report: Reporter
) -> TrainingEstimate:
    """Measure and multiply, for scans that can all be used and a model that will lie in `folder`.

    Raises `SpatialARError` where a scan or the encoder cannot be used, and
    `Cancelled` through `report`.
    """
    work = _Work.of(scans, plan, encoder)
    disk = existing_folder(folder)
    report.progress(0, 3, "step")
    bytes_per_s = _disk_speed(disk)
    report.check_cancelled()
    report.progress(1, 3, "step")
    image_s, put_back_s = _embedding(scans, plan, encoder, report)
    report.progress(2, 3, "step")
    steps = _Steps.measure(work, plan, encoder.device, report)
    report.progress(3, 3, "step")

    read_s = sum(one.seconds for one in work.readings)
    held_out = work.held_out / len(scans)
    epoch_s = (
        work.batches * steps.step_s
        + held_out * work.images * steps.judged_s
        + work.checkpoint_bytes / bytes_per_s
    )
    # Once, at the end: the shape of a covariance or a map from the training scans, its level
    # from the held-out ones.
    rich_s = 0.0
    if plan.autoregressive.rich_variance:
        rich_s = (2 * (1 - held_out) + held_out) * work.images * steps.judged_s
    calibrate_s = held_out * (read_s + work.images * (steps.judged_s + put_back_s))
    return TrainingEstimate(
        embed_s=round(2 * read_s + work.images * image_s + work.token_bytes / bytes_per_s, 1),
        fit_s=round(plan.training.epochs * epoch_s + rich_s + calibrate_s, 1),
        memory_bytes=work.memory_bytes(encoder),
        disk_bytes=work.disk_bytes,
        model_bytes=work.model_bytes,
        free_disk_bytes=shutil.disk_usage(disk).free,
    )


def existing_folder(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = Path(os.path.abspath(folder))
    return next(one for one in (folder, *folder.parents) if os.path.isdir(one))


@dataclass(frozen=True, kw_only=True)
class _Work:
    """How much of everything there is to do."""

    readings: Sequence[Reading]
    images: int
    """Slices that hold some of the body, times the tiles of each."""
    held_out: int
    """Volumes."""
    batch: int
    """Images of a step."""
    batches: int
    """Of an epoch."""
    grid: tuple[int, int, int]
    """Channels, height and width of an image's tokens."""
    places: int
    """Numbers kept of where a token lies."""
    parameters: int
    statistics: int
    """Numbers that a model holds beside them."""
    widths: int
    """Channels of all layers' inputs together."""
    array_bytes: int

    @classmethod
    def of(cls, scans: Sequence[NormalScan], plan: Plan, encoder: "Encoder") -> "_Work":
        readings = [scan.reading for scan in scans if scan.reading is not None]
        images = sum(one.body_slices * _tiles(one, plan.slices, encoder) for one in readings)
        share = plan.training.held_out_share
        held_out = min(len(scans) - 1, max(1, round(share * len(scans))))
        training_images = max(1, round(images * (1 - held_out / len(scans))))
        channels, across = encoder.card.channels, plan.slices.size_px // encoder.card.patch_px
        spec = plan.autoregressive
        depth, hidden = len(spec.dilations), spec.hidden_channels
        widths = [channels, *[hidden] * (depth - 1), channels]
        arrays = [one.source.voxels for one in scans if isinstance(one.source, ArrayInput)]
        return cls(
            readings=readings,
            images=images,
            held_out=held_out,
            batch=min(plan.training.batch_size, training_images),
            batches=-(-training_images // plan.training.batch_size),
            grid=(channels, across, across),
            places=PLACES if spec.uses_places else 0,
            parameters=sum(9 * before * after + after for before, after in pairwise(widths))
            + ((POSITION_FEATURES + hidden + 2) * hidden if spec.position else 0),
            statistics=_statistics(spec, channels),
            widths=sum(widths),
            array_bytes=sum(file.stat().st_size for file in arrays),
        )

    @property
    def token_bytes(self) -> int:
        channels, height, width = self.grid
        numbers = self.images * (channels + self.places) * height * width
        return 2 * numbers + 128 * len(self.readings)

    @property
    def model_bytes(self) -> int:
        return 4 * (self.parameters + self.statistics) + CARD_BYTES

    @property
    def checkpoint_bytes(self) -> int:
        """The best weights and the last, and two moments of AdamW."""
        return 4 * (4 * self.parameters + 2 * self.statistics)

    @property
    def disk_bytes(self) -> int:
        return self.token_bytes + self.array_bytes + 2 * self.checkpoint_bytes

    def memory_bytes(self, encoder: "Encoder") -> int:
        """Of the stage that takes most: a scan and a batch of the encoder, or a step."""
        channels, height, width = self.grid
        scan = max(one.nbytes + 3 * int(np.prod(one.shape_kji)) for one in self.readings)
        pixels = height * width * encoder.card.patch_px**2
        embedding = FEW_IMAGES * 4 * (16 * channels * height * width + 8 * pixels)
        tokens = 4 * self.batch * height * width
        fitting = 4 * 6 * self.parameters + tokens * (3 * self.widths + 4 * channels)
        program = 0 if encoder.device.type == "cuda" else PROGRAM_BYTES
        return program + 4 * encoder.card.parameters + max(scan + embedding, fitting)


def _statistics(spec: AutoregressiveSpec, channels: int) -> int:
    count = channels**2 if spec.variance is Variance.FULL else channels
    if spec.whitened:
        count += channels + channels**2
    return count + (math.prod(MAP_SHAPE) if spec.position_variance else 0)


def _tiles(reading: Reading, slices: SliceSpec, encoder: "Encoder") -> int:
    """Images of each slice of a scan."""
    tiles = 1
    for extent_mm, pixel_mm in zip(reading.extent_mm, reading.pixel_mm, strict=True):
        voxels = round(extent_mm / pixel_mm)
        box = (0, voxels - 1)
        axis = AxisTiling.covering(voxels, pixel_mm, box, slices, encoder.card.patch_px)
        tiles *= len(axis.centers)
    return tiles


def _disk_speed(folder: Path) -> float:
    """Bytes a second that reach the disk, from memory; a guess where we may not write."""
    content = os.urandom(PROBE_BYTES)
    begun_s = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return 1e8
    return PROBE_BYTES / (time.perf_counter() - begun_s)


def _embedding(
    scans: Sequence[NormalScan], plan: Plan, encoder: "Encoder", report: Reporter
) -> tuple[float, float]:
    """Seconds to embed an image of a scan of middle size, and to put its values back on voxels."""
    import torch

    by_size = sorted(scans, key=lambda one: one.reading.nbytes if one.reading else 0)
    _, volume = by_size[len(by_size) // 2].source.read(report.check_cancelled)
    turned = PlaneVolume(volume, plan.slices.plane, plan.modality)
    intensity = IntensitySpec.for_modality(plan.modality)
    stack = SliceStack(turned, plan.slices, intensity, encoder.card.patch_px)
    middle = len(stack.indices) // 2

    def embed(count: int) -> float:
        report.check_cancelled()
        chosen = (stack.indices[middle:] + stack.indices[:middle])[:count]
        begun_s = time.perf_counter()
        images = np.concatenate([stack.images(index) for index in chosen])
        encoder.embed(torch.from_numpy(images)).cpu().numpy().astype(np.float16)
        return (time.perf_counter() - begun_s) / len(images)

    embed(1)  # what is made on first use is not counted
    image_s = embed(1)
    if image_s < QUICK_S:
        image_s = embed(max(1, FEW_IMAGES // stack.tiles))

    across = plan.slices.size_px // encoder.card.patch_px
    values = [np.zeros((stack.tiles, across, across), np.float32) for _ in stack.indices]
    begun_s = time.perf_counter()
    stack.put_back(values, 0.0)
    stack.inside_volume()
    put_back_s = (time.perf_counter() - begun_s) / (len(values) * stack.tiles)
    return image_s, put_back_s


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """How long the network takes."""

    step_s: float
    """A step of the optimizer on a batch."""
    judged_s: float
    """One held-out image."""

    @classmethod
    def measure(cls, work: _Work, plan: Plan, device: "torch.device", report: Reporter) -> "_Steps":
        import torch

        from ..engine.autoregressive import AutoregressiveModel

        with torch.random.fork_rng(devices=[]):
            model = AutoregressiveModel(plan.autoregressive, work.grid[0]).to(device)
        optimizer = torch.optim.AdamW(model.parameters())
        random = np.random.RandomState(0)
        stored = random.standard_normal((min(work.batch, FEW_IMAGES), *work.grid)).astype("<f2")

        def timed(images: int, do: "Callable[[torch.Tensor], None]") -> float:
            report.check_cancelled()
            begun_s = time.perf_counter()
            chosen = [stored[index % len(stored)] for index in range(images)]
            do(torch.from_numpy(np.stack(chosen).astype(np.float32)).to(device))
            return time.perf_counter() - begun_s

        def step(tokens: "torch.Tensor") -> None:
            _step(model, optimizer, tokens)

        def judge(tokens: "torch.Tensor") -> None:
            with torch.inference_mode():
                float(model.nll(tokens).mean())

        few = len(stored)
        timed(1, step)
        one_s, few_s = timed(1, step), timed(few, step)
        step_s = one_s
        if few > 1:
            step_s += (work.batch - 1) * max(0.0, few_s - one_s) / (few - 1)
        if work.batch > few and (step_s < QUICK_S or device.type != "cpu"):
            timed(work.batch, step)
            step_s = timed(work.batch, step)
        timed(1, judge)
        return cls(step_s=step_s, judged_s=timed(few, judge) / few)


def _step(
    model: "AutoregressiveModel", optimizer: "torch.optim.Optimizer", tokens: "torch.Tensor"
) -> None:
    """A step as `engine.training` takes it."""
    optimizer.zero_grad(set_to_none=True)
    target = model.scaled(tokens)
    loss = (model.predict(target, model.places_of(tokens)) - target).square().mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    float(loss.detach())  # waits for the device
