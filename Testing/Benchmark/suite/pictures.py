"""Pictures of the suite's results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from Benchmark.suite.heads import Head
from Benchmark.suite.scans import Scan
from Benchmark.suite.trial import Trial

matplotlib.use("Agg")

from matplotlib import pyplot as plt

DPI = 80


def _bars(axes: Any, at: np.ndarray, found: Sequence[dict[str, Any]], **style: Any) -> None:
    mean, low, high = (
        np.array([np.nan if one[part] is None else one[part] for one in found], float)
        for part in ("mean", "low", "high")
    )
    # A resampled interval may exclude the mean of a few heads.
    spread = np.clip([mean - low, high - mean], 0, None)
    axes.bar(at, mean, yerr=spread, capsize=2, error_kw={"lw": 1}, **style)


def draw_ranking(results: dict[str, Any], path: Path) -> None:
    """Draw the average precision of every method, best first, with intervals over patients."""
    methods = sorted(
        results["methods"].items(), key=lambda item: -(item[1]["average_precision"]["mean"] or 0)
    )
    figure, axes = plt.subplots(figsize=(1.5 + 0.9 * len(methods), 3.6), layout="constrained")
    _bars(axes, np.arange(len(methods)), [one["average_precision"] for _, one in methods])
    axes.set_xticks(np.arange(len(methods)), [name for name, _ in methods], rotation=30, ha="right")
    axes.set_ylabel("average precision")
    _save(figure, path)


def draw_families(results: dict[str, Any], path: Path) -> None:
    """Draw the average precision of every method, family by family."""
    methods = results["methods"]
    families = list(next(iter(methods.values()))["families"])
    figure, axes = plt.subplots(
        figsize=(2 + 0.22 * len(families) * (len(methods) + 2), 3.6), layout="constrained"
    )
    width = 0.85 / len(methods)
    for place, (name, one) in enumerate(methods.items()):
        at = np.arange(len(families)) + (place - (len(methods) - 1) / 2) * width
        found = [one["families"][family]["average_precision"] for family in families]
        _bars(axes, at, found, width=width, label=name)
    axes.set_xticks(np.arange(len(families)), families)
    axes.set_ylabel("average precision")
    axes.legend(fontsize="x-small", ncols=2)
    _save(figure, path)


def draw_examples(
    trials: Mapping[str, Trial], scans: Mapping[Head, Scan], heads: Sequence[Head], path: Path
) -> None:
    """Draw a row per head: the slice with most of its anomaly, the truth, every method's map.

    A map runs from the median to the 99.9th percentile of the method's scores in that head's body,
    so that methods of different units can be compared.
    """
    columns = 2 + len(trials)
    figure, axes = plt.subplots(
        len(heads), columns, figsize=(1.7 * columns, 2.1 * len(heads)), layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for place, (row, head) in enumerate(zip(axes, heads, strict=True)):
        scan = scans[head]
        truth, voxels = scan.stored.truth, scan.stored.volume.voxels
        k = int(truth.sum(axis=(1, 2)).argmax())
        inside = scan.stack.inside_volume()
        for axis in row[:2]:
            axis.imshow(voxels[k], cmap="gray", origin="lower", vmin=0, vmax=voxels.max() * 0.9)
        row[1].contour(truth[k], [0.5], colors="tab:red", linewidths=1)
        row[0].set_ylabel(f"{head.family}, {head.size}", fontsize="small")
        for axis, trial in zip(row[2:], trials.values(), strict=True):
            scores = trial.maps[head]
            low, high = np.percentile(scores[inside], (50, 99.9))
            shown = np.where(inside[k], scores[k], np.nan)
            axis.imshow(shown, cmap="inferno", origin="lower", vmin=low, vmax=high)
            axis.contour(truth[k], [0.5], colors="tab:cyan", linewidths=0.7)
        for axis, name in zip(row, ("slice", "truth", *trials), strict=True):
            axis.set_xticks([])
            axis.set_yticks([])
            if place == 0:
                axis.set_title(name, fontsize="small")
    _save(figure, path)


def draw_anomalies(made: Mapping[str, Any], path: Path) -> None:
    """Draw one anomaly of each family: the head without it, with it, and its truth."""
    figure, axes = plt.subplots(
        3, len(made), figsize=(1.8 * len(made), 6.4), layout="constrained", squeeze=False
    )
    for column, (family, one) in zip(axes.T, made.items(), strict=True):
        k = int(one.truth.sum(axis=(1, 2)).argmax())
        bright = one.healthy.voxels.max() * 0.9
        for axis, head in zip(column, (one.healthy, one.head, one.head), strict=True):
            axis.imshow(head.voxels[k], cmap="gray", origin="lower", vmin=0, vmax=bright)
            axis.set_xticks([])
            axis.set_yticks([])
        column[2].contour(one.truth[k], [0.5], colors="tab:red", linewidths=1)
        if one.ignored[k].any():
            changed = one.ignored[k] | one.truth[k]
            column[2].contour(changed, [0.5], colors="tab:orange", linewidths=0.6)
        column[0].set_title(family, fontsize="small")
    for axis, name in zip(axes[:, 0], ("without", "with", "truth, ignored"), strict=True):
        axis.set_ylabel(name, fontsize="small")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
