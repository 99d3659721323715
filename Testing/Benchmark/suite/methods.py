"""The compared methods: all are fitted on the same scans and score the same scans.

To add one, write a function that takes a `Lesson` and returns a scorer, and register it:

    @method("my method")
    def my_method(lesson):
        model = fit([scan.tokens for scan in lesson.training])
        return lambda scan: model.score(scan.tokens)  # [n, h, w], higher is less normal

A scan also has `inside` (tokens in the body), `positions_mm` (position of every token),
`stack` (its slices) and `stored.volume` (its voxels). Another network of ours takes one
line: `METHODS["name"] = autoregressive(AutoregressiveSpec(...))`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from Benchmark.peers.memory_bank import CORESET_RATIO, Distance, MemoryBank
from Benchmark.peers.position_gaussian import PositionGaussian
from Benchmark.suite.scans import Scan
from scipy import ndimage
from SpatialARAnomalyLib.engine.encoder.encoder import Encoder
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.model.training import fit
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import (
    SCORED_AT_ONCE,
    slice_nll,
)
from SpatialARAnomalyLib.engine.slices.intensity import scale_intensity
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    Preset,
    TrainingSpec,
)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """The data for fitting a method."""

    training: Sequence[Scan]
    held_out: Sequence[Scan]
    """Normal scans for choosing an epoch, a variance or a threshold."""
    spec: TrainingSpec
    hidden_channels: int | None
    """Hidden channels of all networks, to save time; None keeps each network's own."""
    device: torch.device
    encoder: Encoder
    """The encoder, for methods that need other tokens than those of the scans."""


Scorer = Callable[[Scan], np.ndarray]
"""Scores of a scan's tokens [n, h, w], or of its voxels [k, j, i]; higher is less normal."""

METHODS: dict[str, Callable[[Lesson], Scorer]] = {}
"""Methods by name, in the order of the tables."""


def method(name: str) -> Callable[[Callable[[Lesson], Scorer]], Callable[[Lesson], Scorer]]:
    """Register a function in `METHODS`."""

    def named(function: Callable[[Lesson], Scorer]) -> Callable[[Lesson], Scorer]:
        METHODS[name] = function
        return function

    return named


def autoregressive(spec: AutoregressiveSpec) -> Callable[[Lesson], Scorer]:
    """Make the method of one network of `engine.model.autoregressive`."""

    def learn(lesson: Lesson) -> Scorer:
        model = train_network(spec, lesson)
        return lambda scan: score_scan(model, scan)

    return learn


def train_network(spec: AutoregressiveSpec, lesson: Lesson) -> AutoregressiveModel:
    """Train the network, with the lesson's width if that is given."""
    if lesson.hidden_channels is not None:
        spec = replace(spec, hidden_channels=lesson.hidden_channels)
    run = fit(
        [scan.tokens for scan in lesson.training],
        [scan.tokens for scan in lesson.held_out],
        spec,
        lesson.spec,
        report=SilentReporter(),
        device=lesson.device,
    )
    return run.model.eval()


def score_scan(model: AutoregressiveModel, scan: Scan) -> np.ndarray:
    """Compute the NLL [n, h, w] of a scan's tokens."""
    return in_batches(scan.tokens, lambda batch: slice_nll(batch, model))


def in_batches(tokens: np.ndarray, score: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Score tokens [n, c, h, w] as [n, h, w], some slices at a time."""
    starts = range(0, len(tokens), SCORED_AT_ONCE)
    return np.concatenate(
        [score(np.asarray(tokens[at : at + SCORED_AT_ONCE], np.float32)) for at in starts]
    )


def near_body(scan: Scan, score: Callable[[torch.Tensor], torch.Tensor]) -> np.ndarray:
    """Score the tokens in the body and beside it, which alone reach a voxel of it.

    For methods that score every token by itself. Other tokens get the lowest score.
    """
    near = ndimage.binary_dilation(scan.inside, np.ones((1, 3, 3)))
    chosen = np.moveaxis(scan.tokens, 1, -1)[near].astype(np.float32)
    found = score(torch.from_numpy(chosen)[:, :, None, None])[:, 0, 0].cpu().numpy()
    scores = np.full(near.shape, found.min(), np.float32)
    scores[near] = found
    return scores


for preset in Preset:
    METHODS[preset.value] = autoregressive(AutoregressiveSpec.from_preset(preset))


def _memory_bank(lesson: Lesson, distance: Distance, coreset_ratio: float | None) -> Scorer:
    bank = MemoryBank.fit(
        [scan.tokens for scan in lesson.training],
        [scan.inside for scan in lesson.training],
        distance=distance,
        coreset_ratio=coreset_ratio,
        seed=lesson.spec.seed,
        device=lesson.device,
    )
    return lambda scan: near_body(scan, bank.score)


@method("memory bank")
def memory_bank(lesson: Lesson) -> Scorer:
    """Memory bank of all normal tokens with the cosine distance (AnomalyDINO)."""
    return _memory_bank(lesson, Distance.COSINE, None)


@method("coreset")
def coreset(lesson: Lesson) -> Scorer:
    """Memory bank of a tenth of the tokens with the Euclidean distance (PatchCore)."""
    return _memory_bank(lesson, Distance.EUCLIDEAN, CORESET_RATIO)


@method("position Gaussian")
def position_gaussian(lesson: Lesson) -> Scorer:
    """Gaussian per position (PaDiM)."""
    slices = sum(len(scan.tokens) for scan in lesson.training)
    gaussian = PositionGaussian.fit(
        [scan.tokens for scan in lesson.training],
        [scan.inside for scan in lesson.training],
        # A position is inside the body in a part of the slices only: with more channels
        # most positions would use the Gaussian of all positions.
        channels=max(1, slices // 16),
        seed=lesson.spec.seed,
    )
    return lambda scan: in_batches(
        scan.tokens, lambda batch: gaussian.score(torch.from_numpy(batch)).numpy()
    )


def intensities(scan: Scan) -> np.ndarray:
    """Return the encoder's input on the voxels [k, j, i]."""
    stack = scan.stack
    scaled = scale_intensity(stack.voxels, stack.value_range, stack.intensity)
    return np.ascontiguousarray(stack.plane_volume.orientation.undo(scaled))


@method("intensity")
def intensity(lesson: Lesson) -> Scorer:
    """Score a voxel by its brightness."""
    return intensities


@method("intensity from median")
def intensity_from_median(lesson: Lesson) -> Scorer:
    """Score a voxel by the distance of its brightness from the training heads' median."""
    values = [intensities(scan)[scan.stored.volume.voxels > 0] for scan in lesson.training]
    median = np.median(np.concatenate(values))
    return lambda scan: np.abs(intensities(scan) - median)
