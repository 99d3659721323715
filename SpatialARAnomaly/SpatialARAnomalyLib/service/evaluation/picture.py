"""The curves of an evaluation and their picture: the model beside plain intensity."""

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from SpatialARAnomalyLib.engine.evaluation.evaluation import Evaluation
from SpatialARAnomalyLib.engine.evaluation.metrics import PRO_LIMIT, Curve
from SpatialARAnomalyLib.service.evaluation.evaluate import Evaluated
from SpatialARAnomalyLib.service.evaluation.wording import SCORE_WORDS
from SpatialARAnomalyLib.service.text import RESEARCH_NOTICE, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_POINTS = 500
"""Points of a curve in files and picture; those left out lie closest together."""

HEADING_WIDTH = {1: 48, 2: 110}
"""Characters of a line of the heading, by the number of columns."""

# Okabe and Ito's colors, distinct for color-blind readers; line styles are distinct in gray.
_LINES: dict[str, dict[str, Any]] = {
    "nll": {"color": "#0072B2", "linewidth": 2.2},
    "intensity": {"color": "#E69F00", "linewidth": 1.5, "linestyle": "--"},
    "intensity_distance": {"color": "#009E73", "linewidth": 1.5, "linestyle": "-."},
}

_GRAY = "0.35"


def write_picture(path: Path, evaluated: Evaluated, columns: int = 2) -> None:
    """Write the four curves as PNG; one column fits a narrow panel."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (10.0, 9.2) if columns == 2 else (4.6, 12.0)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(4 // columns, columns).ravel()
    roc, precision_recall, pro, froc = axes
    evaluations = evaluated.evaluations
    _frame(roc, "ROC", "false-positive rate (voxels)", "recall (voxels)")
    roc.plot([0, 1], [0, 1], color="0.7", linewidth=1, linestyle=":")
    _frame(precision_recall, "Precision and recall", "recall (voxels)", "precision (voxels)")
    share = evaluated.lesion_share
    precision_recall.axhline(share, color="0.7", linewidth=1, linestyle=":")
    _frame(pro, "Per-region overlap (PRO)", "false-positive rate (voxels)", "mean overlap")
    pro.plot([0, PRO_LIMIT], [0, PRO_LIMIT], color="0.7", linewidth=1, linestyle=":")
    pro.set_xlim(0, PRO_LIMIT)
    _frame(froc, "Lesions found (FROC)", "false findings a scan", "lesions found")
    for score, evaluation in evaluations.items():
        _draw(score, evaluation, axes)
    _scale_findings(froc)
    for axis in axes:
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="best", fontsize=8, framealpha=0.9)
        else:
            axis.text(0.5, 0.5, "undefined for these scans", ha="center", color=_GRAY,
                      transform=axis.transAxes)  # fmt: skip
    separator = " " if columns == 2 else "\n"
    heading = textwrap.fill(_heading(evaluated), HEADING_WIDTH[columns])
    figure.suptitle(heading, fontsize=11, parse_math=False)
    figure.supxlabel(
        f"Dotted: chance. Cross: the calibrated threshold.{separator}{RESEARCH_NOTICE}",
        color=_GRAY,
        fontsize=8,
    )
    figure.savefig(path, facecolor="white")


def _frame(axis: "Axes", title: str, x: str, y: str) -> None:
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.03)
    axis.tick_params(labelsize=8)
    axis.grid(color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _scale_findings(axis: "Axes") -> None:
    """Begin the axis of false findings at zero; make it logarithmic where they are many."""
    most = max((float(np.max(line.get_xdata())) for line in axis.get_lines()), default=0.0)
    if most > 10:
        axis.set_xscale("symlog", linthresh=1.0)
        axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlim(0, max(1.05 * most, 1.0))


def _draw(score: str, evaluation: Evaluation, axes: "Iterable[Axes]") -> None:
    """Draw one kind of scores into all four plots."""
    roc, precision_recall, pro, froc = axes
    curves = {name: thinned(*curve) for name, curve in evaluation.curves.items()}
    line, words = _LINES[score], SCORE_WORDS[score]
    # The curves of undefined metrics are empty, so that their zeros are not shown.
    values = {name: metric.value or 0.0 for name, metric in evaluation.metrics.items()}
    if curves["roc"][0].size:
        roc.plot(*curves["roc"], label=f"{words}: {values['voxel_auroc']:.3f}", **line)
        precision_recall.plot(
            *curves["precision_recall"],
            label=f"{words}: {values['average_precision']:.3f}",
            drawstyle="steps-post",
            **line,
        )
        pro.plot(*curves["pro"], label=f"{words}: {values['pro']:.3f}", **line)
    if curves["froc"][0].size:
        froc.plot(*curves["froc"], label=words, marker=".", markersize=5, **line)
        if evaluation.metrics["lesions_found"].value is not None:
            froc.plot(
                values["false_findings_per_scan"], values["lesions_found"], "x",
                color=line["color"], markersize=11, markeredgewidth=2.2, clip_on=False, zorder=3,
            )  # fmt: skip


def _heading(evaluated: Evaluated) -> str:
    counts = evaluated.counts
    scans = counted(counts["scans"], "scan")
    patients = counted(counts["patients"], "patient")
    lesions = counted(counts["lesions"], "lesion")
    name = evaluated.context["model"]["name"]
    return f"{name} · {scans} of {patients}, {counts['normal_scans']} normal, {lesions}"


def thinned(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Curve:
    """Return all points, or about `MAX_POINTS` evenly along the curve with both ends."""
    if x.size <= MAX_POINTS:
        return x, y
    length = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    places = np.searchsorted(length, np.linspace(0.0, length[-1], MAX_POINTS))
    kept = np.unique(np.append(np.minimum(places, x.size - 1), [0, x.size - 1]))
    return x[kept], y[kept]
