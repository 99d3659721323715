"""The worth of every switch: alone, added to the paper's network, and left out of ours.

`--methods switches` runs them all. Those of the likelihood and the network are fields of
`AutoregressiveSpec`. The others change tokens or scores and are defined here, because they
did not pay (`Resources/Docs/method.md`).
"""

from collections.abc import Callable
from dataclasses import replace
from unittest.mock import patch

import numpy as np
from Benchmark.suite.methods import (
    METHODS,
    Lesson,
    Scorer,
    autoregressive,
    score_scan,
    train_network,
)
from Benchmark.suite.scans import Scan
from scipy import ndimage
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.progress import SilentReporter
from SpatialARAnomalyLib.engine.scoring.scoring import (
    embed_slices,
    score_slices,
)
from SpatialARAnomalyLib.engine.slices.slice_stack import SliceStack
from SpatialARAnomalyLib.engine.specs import (
    AutoregressiveSpec,
    Preset,
    Variance,
)

STANDARD = AutoregressiveSpec.from_preset(Preset.STANDARD)
WHITENED = replace(STANDARD, whitened=True)
OURS = AutoregressiveSpec.from_preset(Preset.BALANCED)


def smoothed(spec: AutoregressiveSpec, sigma_mm: float) -> Callable[[Lesson], Scorer]:
    """Smooth scores along the through-plane axis with a Gaussian."""

    def learn(lesson: Lesson) -> Scorer:
        model = train_network(spec, lesson)

        def score(scan: Scan) -> np.ndarray:
            slice_mm = scan.stack.plane_volume.spacing_mm[0]
            nll = score_scan(model, scan)
            return ndimage.gaussian_filter1d(nll, sigma_mm / slice_mm, axis=0, mode="nearest")

        return score

    return learn


def lowest_direction(spec: AutoregressiveSpec) -> Callable[[Lesson], Scorer]:
    """Score by the lowest NLL of all raster directions instead of their mean."""

    def learn(lesson: Lesson) -> Scorer:
        model = train_network(spec, lesson)

        def score(scan: Scan) -> np.ndarray:
            by_direction = []
            for corner in model.corners:
                with patch.object(AutoregressiveModel, "corners", (corner,)):
                    by_direction.append(score_scan(model, scan))
            return np.min(by_direction, axis=0)

        return score

    return learn


def shifted(spec: AutoregressiveSpec) -> Callable[[Lesson], Scorer]:
    """Average the maps of four passes of the encoder, half a patch apart."""

    def learn(lesson: Lesson) -> Scorer:
        model = train_network(spec, lesson)

        def score(scan: Scan) -> np.ndarray:
            maps = [scan.on_voxels(score_scan(model, scan))]
            for down, across in ((0, 1), (1, 0), (1, 1)):
                stack = _moved(scan.stack, down / 2, across / 2)
                tokens = embed_slices(stack, lesson.encoder, SilentReporter())
                nll = list(score_slices(stack, tokens, model))
                maps.append(stack.volume_from_tokens(nll, outside=np.nan))
            return np.nanmean(np.stack(maps), axis=0)

        return score

    return learn


def _moved(stack: SliceStack, down: float, across: float) -> SliceStack:
    """Cut the same slices that many patches further down and right."""
    moved = SliceStack(stack.plane_volume, stack.rows.spec, stack.intensity, stack.rows.patch_px)
    for name, patches in (("rows", down), ("columns", across)):
        axis = getattr(moved, name)
        voxels = patches * axis.patch_px * axis.spec.pixel_mm / axis.spacing_mm
        centers = tuple(center + voxels for center in axis.centers)
        setattr(moved, name, replace(axis, centers=centers))
    return moved


SWITCHES: dict[str, Callable[[Lesson], Scorer]] = {
    "paper": autoregressive(STANDARD),
    "paper + guard of 1 token": autoregressive(replace(STANDARD, dilations=(2,) * 5)),
    "paper + channel variance": autoregressive(replace(STANDARD, variance=Variance.CHANNEL)),
    "paper + full variance": autoregressive(replace(STANDARD, variance=Variance.FULL)),
    "paper + whitened": autoregressive(WHITENED),
    "paper + whitened, full variance": autoregressive(replace(WHITENED, variance=Variance.FULL)),
    "paper + position": autoregressive(replace(STANDARD, position=True)),
    "paper + position variance": autoregressive(replace(STANDARD, position_variance=True)),
    "paper + 2 directions, mean": autoregressive(replace(STANDARD, position=True, directions=2)),
    "paper + 2 directions, min": lowest_direction(replace(STANDARD, position=True, directions=2)),
    "paper + through-plane smoothing": smoothed(STANDARD, 8.0),
    "ours": autoregressive(OURS),
    "ours, channel variance": autoregressive(replace(OURS, variance=Variance.CHANNEL)),
    "ours, not whitened": autoregressive(replace(OURS, whitened=False)),
    "ours, no position": autoregressive(replace(OURS, position=False, directions=1)),
    "ours, no position variance": autoregressive(replace(OURS, position_variance=False)),
    "ours, 1 direction": autoregressive(replace(OURS, directions=1)),
    "ours, 4 directions": autoregressive(replace(OURS, directions=4)),
    "ours, min of directions": lowest_direction(OURS),
    "ours, no guard": autoregressive(replace(OURS, dilations=(1,) * len(OURS.dilations))),
    "ours + through-plane smoothing": smoothed(OURS, 8.0),
}
"""Methods by name, in the order of the tables."""

METHODS |= SWITCHES

METHODS["ours + half-patch shifts"] = shifted(OURS)
