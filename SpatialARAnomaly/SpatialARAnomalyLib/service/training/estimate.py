"""The estimate of a training: a few slices and steps are measured on this machine and multiplied.

On normal heads on a CPU (ViTs of 0.2 and 21 million parameters, 2 and 3 epochs) computing time
was within 10 %, disk within 0.02 %, memory 19 % too high. Other programs on the machine change
the time by their share of it. On a GPU the estimate is untested.
"""

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from SpatialARAnomalyLib.engine.progress import Reporter
from SpatialARAnomalyLib.engine.slices.slice_stack import AxisTiling, SliceStack
from SpatialARAnomalyLib.engine.specs import SliceSpec
from SpatialARAnomalyLib.service.training.candidates import KEPT_BYTES, NormalScan, ScanReader
from SpatialARAnomalyLib.service.training.request import TrainingEstimate, TrainSpec

if TYPE_CHECKING:
    import torch

    from SpatialARAnomalyLib.engine.encoder.encoder import Encoder

QUICK_S = 0.5
"""Seconds; a faster step is measured with a whole batch."""

FEW_IMAGES = 8
"""Images of a slower step: measured with so many and with one, and extrapolated."""

PROBE_BYTES = 1 << 24
"""Bytes written to measure the speed of the disk."""

DEFAULT_BYTES_PER_S = 1e8
"""Assumed speed of a disk that cannot be measured."""

CARD_BYTES = 15_000
"""Size of a model file without its tensors."""

PROGRAM_BYTES = 600 << 20
"""Memory of Python, torch and transformers themselves."""


def estimate_training(
    scans: Sequence[NormalScan],
    spec: TrainSpec,
    encoder: "Encoder",
    reader: ScanReader,
    folder: Path,
    report: Reporter,
) -> TrainingEstimate:
    """Measure a few slices and steps of a training and multiply.

    Args:
        scans: All scans of the training.
        spec: The resolved request.
        encoder: The encoder, on the device of the training.
        reader: Reads one of the scans again.
        folder: The folder of the planned model; it need not exist.
        report: Receives progress.

    Raises:
        SpatialARError: A scan or the encoder cannot be used.
        Cancelled: Through `report`.
    """
    work = _Workload(scans, spec, encoder)
    folder = Path(os.path.abspath(folder))
    disk = next(one for one in (folder, *folder.parents) if os.path.isdir(one))
    report.progress(0, 3, "step")
    bytes_per_s = _disk_speed(disk)
    report.check_cancelled()
    report.progress(1, 3, "step")
    image_s, put_back_s = _time_embedding(work, encoder, reader, report)
    report.progress(2, 3, "step")
    step_s, score_s = _time_steps(work, encoder.device, report)
    report.progress(3, 3, "step")

    read_s = sum(one.seconds for one in scans)
    again = max(0.0, 1 - KEPT_BYTES / work.scan_bytes)  # share of the scans that is read again
    held_out = work.held_out / len(scans)
    epoch_s = (
        work.batches * step_s
        + held_out * work.images * score_s
        + work.checkpoint_bytes / bytes_per_s
    )
    calibrate_s = held_out * (again * read_s + work.images * (score_s + put_back_s))
    embed_s = (1 + again) * read_s + work.images * image_s + work.token_bytes / bytes_per_s
    return TrainingEstimate(
        embed_s=round(embed_s, 1),
        fit_s=round(spec.epochs * epoch_s + calibrate_s, 1),
        memory_bytes=work.memory_bytes(encoder),
        disk_bytes=work.disk_bytes,
        model_bytes=work.model_bytes,
        free_disk_bytes=shutil.disk_usage(disk).free,
    )


class _Workload:
    """The amounts of work of a training."""

    def __init__(self, scans: Sequence[NormalScan], spec: TrainSpec, encoder: "Encoder") -> None:
        import torch

        from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
        from SpatialARAnomalyLib.engine.model.training import split_held_out

        self.scans, self.spec = scans, spec
        self.modality = spec.modality or scans[0].inferred
        self.slices = spec.slices(spec.fov_mm or 1.0)
        self.images = sum(one.body_slices * _tiles(one, self.slices, encoder) for one in scans)
        """Slices that hold some of the body, times the tiles of each."""
        hashes, patients = ([one.sha256 for one in scans], [one.patient for one in scans])
        self.held_out = len(split_held_out(hashes, spec.training, patients)[1])
        """Number of held-out scans."""
        training_images = max(1, round(self.images * (1 - self.held_out / len(scans))))
        self.batch = min(spec.batch_size, training_images)
        """Images per step."""
        self.batches = -(-training_images // spec.batch_size)
        """Steps per epoch."""
        channels, across = encoder.card.channels, spec.size_px // encoder.card.patch_px
        self.grid = (channels, across, across)
        """Channels, height and width of an image's tokens."""
        network = spec.autoregressive
        with torch.device("meta"):  # shapes without memory
            model = AutoregressiveModel(network, channels)
        self.parameters: int = sum(one.numel() for one in model.parameters())
        """Numbers that the optimizer trains."""
        self.values: int = sum(one.numel() for one in model.state_dict().values())
        """Numbers of the model: also the variances."""
        branch = 2 * channels + network.hidden_channels * (network.layers - 1)
        self.widths = branch * len(network.dilations)
        """Sum of the layers' input channels."""

    @property
    def scan_bytes(self) -> int:
        """Voxels and masks of all scans."""
        return sum(one.nbytes + math.prod(one.shape_kji) for one in self.scans)

    @property
    def token_bytes(self) -> int:
        channels, height, width = self.grid
        return 2 * self.images * channels * height * width + 128 * len(self.scans)

    @property
    def model_bytes(self) -> int:
        return 4 * self.values + CARD_BYTES

    @property
    def checkpoint_bytes(self) -> int:
        """The best and the last weights, and AdamW's two moments."""
        return 4 * (2 * self.values + 2 * self.parameters)

    @property
    def disk_bytes(self) -> int:
        arrays = (one.source.voxels for one in self.scans)
        array_bytes = sum(file.stat().st_size for file in arrays if file is not None)
        return self.token_bytes + array_bytes + 2 * self.checkpoint_bytes

    def memory_bytes(self, encoder: "Encoder") -> int:
        """Return the peak memory: of embedding (a scan and a batch) or of a step of the fit."""
        channels, height, width = self.grid
        scan = max(one.nbytes + 3 * math.prod(one.shape_kji) for one in self.scans)
        kept = min(self.scan_bytes, KEPT_BYTES)
        pixels = height * width * encoder.card.patch_px**2
        embedding = FEW_IMAGES * 4 * (16 * channels * height * width + 8 * pixels)
        tokens = 4 * self.batch * height * width
        fitting = 4 * 6 * self.parameters + tokens * (3 * self.widths + 4 * channels)
        fitting += kept * self.held_out // len(self.scans)
        program = 0 if encoder.device.type == "cuda" else PROGRAM_BYTES
        return program + 4 * encoder.card.parameters + max(kept + scan + embedding, fitting)


def _tiles(scan: NormalScan, slices: SliceSpec, encoder: "Encoder") -> int:
    """Return the number of tiles of each slice of a scan."""
    tiles = 1
    for extent_mm, pixel_mm in zip(scan.extent_mm, scan.pixel_mm, strict=True):
        voxels = round(extent_mm / pixel_mm)
        box = (0, voxels - 1)
        axis = AxisTiling.covering(voxels, pixel_mm, box, slices, encoder.card.patch_px)
        tiles *= len(axis.centers)
    return tiles


def _disk_speed(folder: Path) -> float:
    """Measure how many bytes per second reach the disk."""
    content = os.urandom(PROBE_BYTES)
    begun_s = time.perf_counter()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        return DEFAULT_BYTES_PER_S
    return PROBE_BYTES / (time.perf_counter() - begun_s)


def _time_embedding(
    work: _Workload, encoder: "Encoder", reader: ScanReader, report: Reporter
) -> tuple[float, float]:
    """Return the seconds to embed an image of a median scan, and to put its NLL back on voxels."""
    import torch

    scan = sorted(work.scans, key=lambda one: one.nbytes)[len(work.scans) // 2]
    plane_volume = reader.voxels(scan, work.modality, report.check_cancelled)
    intensity = work.spec.intensity(work.modality)
    stack = SliceStack(plane_volume, work.slices, intensity, encoder.card.patch_px)
    middle = len(stack.indices) // 2

    def embed(count: int) -> float:
        report.check_cancelled()
        chosen = (stack.indices[middle:] + stack.indices[:middle])[:count]
        begun_s = time.perf_counter()
        images = np.concatenate([stack.images(index) for index in chosen])
        encoder.embed(torch.from_numpy(images)).cpu().numpy().astype(np.float16)
        return (time.perf_counter() - begun_s) / len(images)

    embed(1)  # warm-up
    image_s = embed(1)
    if image_s < QUICK_S:
        image_s = embed(max(1, FEW_IMAGES // stack.tiles))

    values = [np.zeros((stack.tiles, *work.grid[1:]), np.float32) for _ in stack.indices]
    begun_s = time.perf_counter()
    stack.volume_from_tokens(values, 0.0)
    stack.inside_volume()
    put_back_s = (time.perf_counter() - begun_s) / (len(values) * stack.tiles)
    return image_s, put_back_s


def _time_steps(work: _Workload, device: "torch.device", report: Reporter) -> tuple[float, float]:
    """Return the seconds of an optimizer step on a batch, and of scoring one held-out image."""
    import torch

    from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel

    with torch.random.fork_rng(devices=[]):
        model = AutoregressiveModel(work.spec.autoregressive, work.grid[0]).to(device)
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
        """Do a step of `engine.model.training`."""
        optimizer.zero_grad(set_to_none=True)
        loss = (model(tokens) - tokens).square().mean()
        loss.backward()
        optimizer.step()
        float(loss.detach())  # waits for the device

    def score(tokens: "torch.Tensor") -> None:
        with torch.inference_mode():
            float(model.nll(tokens).mean())

    few = len(stored)
    timed(1, step)
    step_s, few_s = timed(1, step), timed(few, step)
    step_s += (work.batch - 1) * max(0.0, few_s - step_s) / max(1, few - 1)
    if work.batch > few and (step_s < QUICK_S or device.type != "cpu"):
        timed(work.batch, step)
        step_s = timed(work.batch, step)
    timed(1, score)
    return step_s, timed(few, score) / few
