"""Fits one method and scores every test head."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from Benchmark.suite.heads import ANOMALOUS, NORMAL, TWIN, Head
from Benchmark.suite.measures import (
    Shadow,
    VoxelFigures,
    shadow,
    voxel_figures,
)
from Benchmark.suite.methods import Lesson, Scorer
from Benchmark.suite.scans import Scan
from SpatialARAnomalyLib.engine.scoring.calibration_fit import case_score, fit_calibration

ASKED_RATES = (0.01, 0.001)
"""False-positive rates for which thresholds are set."""


@dataclass(kw_only=True)
class Trial:
    """The results of one method."""

    figures: dict[Head, VoxelFigures] = field(default_factory=dict)
    """Figures of every anomalous head."""
    shadows: dict[Head, Shadow] = field(default_factory=dict)
    """Shadows of every anomalous head; empty for a method of voxels, which has none."""
    rates: dict[float, dict[Head, float]] = field(default_factory=dict)
    """Asked rate → share of the body's voxels above its threshold, per fresh normal head."""
    case_scores: dict[Head, float] = field(default_factory=dict)
    """Case scores of all fresh normal and anomalous heads."""
    case_p_values: dict[Head, float] = field(default_factory=dict)
    """Their p-values by the calibration; empty if too few normal heads were held out."""
    fit_s_per_slice: float = 0.0
    score_s_per_slice: float = 0.0
    maps: dict[Head, np.ndarray] = field(default_factory=dict)
    """Scores on the voxels of the heads chosen for pictures."""


def run_method(
    learn: Callable[[Lesson], Scorer],
    lesson: Lesson,
    tests: Sequence[Scan],
    *,
    pictured: Sequence[Head] = (),
) -> Trial:
    """Fit a method, set its thresholds on held-out normal heads, and score every test head."""
    trial = Trial()
    start = time.perf_counter()
    scorer = learn(lesson)
    slices = sum(len(scan.tokens) for scan in lesson.training)
    trial.fit_s_per_slice = (time.perf_counter() - start) / slices

    held_out = [(scan, *_both(scorer(scan), scan)) for scan in lesson.held_out]
    voxels = [on_voxels[scan.stack.inside_volume()] for scan, _, on_voxels in held_out]
    tokens = [scores[scan.inside] for scan, scores, _ in held_out if scores is not None]
    spread = float(np.std(np.concatenate(tokens))) if tokens else float("nan")
    calibration = fit_calibration(voxels, tokens or voxels)
    thresholds = {rate: calibration.threshold(rate) for rate in ASKED_RATES}
    trial.rates = {rate: {} for rate in ASKED_RATES}

    clock, scored_slices = 0.0, 0
    twins: dict[tuple[str, str, int], np.ndarray | None] = {}
    # A twin precedes its anomalous head.
    for scan in sorted(tests, key=lambda scan: scan.head.group != TWIN):
        head, key = scan.head, (scan.head.family, scan.head.size, scan.head.seed)
        start = time.perf_counter()
        result = scorer(scan)
        clock += time.perf_counter() - start
        scored_slices += len(scan.tokens)
        scores, on_voxels = _both(result, scan)
        if head.group == TWIN:
            twins[key] = scores
            continue
        score = trial.case_scores[head] = case_score(on_voxels[scan.stack.inside_volume()])
        p_value = calibration.case_p_value(score)
        if p_value is not None:
            trial.case_p_values[head] = p_value
        if head.group == NORMAL:
            inside = on_voxels[scan.stack.inside_volume()]
            for rate, threshold in thresholds.items():
                trial.rates[rate][head] = float(np.mean(inside > threshold))
        elif head.group == ANOMALOUS:
            trial.figures[head] = voxel_figures(on_voxels, scan)
            twin = twins.pop(key)
            if scores is not None and twin is not None:
                trial.shadows[head] = shadow(scores, twin, scan, spread)
        if head in pictured:
            trial.maps[head] = on_voxels
    trial.score_s_per_slice = clock / scored_slices
    return trial


def _both(result: np.ndarray, scan: Scan) -> tuple[np.ndarray | None, np.ndarray]:
    """Return scores of the tokens (None for a method of voxels) and of the voxels."""
    if result.shape == scan.inside.shape:
        return result, scan.on_voxels(result)
    if result.shape != scan.stored.volume.voxels.shape:
        raise ValueError(
            f"A method must score tokens {scan.inside.shape} or voxels "
            f"{scan.stored.volume.voxels.shape}; found {result.shape}."
        )
    return None, result
