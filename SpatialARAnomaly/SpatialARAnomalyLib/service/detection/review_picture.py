"""The review picture: the slices through the first findings, beside their overlay."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Num

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.scoring.findings import Finding
from SpatialARAnomalyLib.engine.slices.intensity import scale_intensity
from SpatialARAnomalyLib.engine.specs import Plane
from SpatialARAnomalyLib.service.detection.detect import Detection
from SpatialARAnomalyLib.service.detection.findings_table import rank_color
from SpatialARAnomalyLib.service.models.wording import SHOWN_RATES, basis_text, expected_text
from SpatialARAnomalyLib.service.text import (
    RESEARCH_NOTICE,
    count_findings,
    position_text,
    rate_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MAX_ROWS = 4
"""Findings that are shown, one per row."""

PANEL_INCHES = 3.6
"""Longer side of one slice in inches."""

LETTERS_PER_INCH = 13
"""Letters of a line of the heading."""

OVERLAY_OPACITY = 0.65

_SIDES = {
    Plane.AXIAL: ("R", "L", "A", "P"),
    Plane.CORONAL: ("R", "L", "S", "I"),
    Plane.SAGITTAL: ("A", "P", "S", "I"),
}
"""Directions at the left, right, top and bottom of a slice."""

_COLOR_MAP = "inferno"


def overlay_range(detection: Detection) -> tuple[float, float]:
    """Return the NLL at which the color map begins and ends: one range per model.

    It begins at the NLL that one in ten normal body voxels exceeds, and ends as far above the
    highest normal NLL as that lies above the beginning.
    """
    low = detection.calibration.threshold(0.1)
    highest = detection.calibration.nll[-1]
    return low, highest + max(highest - low, 1e-6)


def write_review(
    path: Path, detection: Detection, truth: Bool[np.ndarray, "k j i"] | None = None
) -> None:
    """Write the picture as PNG: every slice plain, and with NLL overlay and outlines.

    Known lesions (`truth`) are outlined in white in the plain slices.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = detection.findings[:MAX_ROWS]
    slices = _slices_of(detection, shown)
    height_mm, width_mm = detection.stack.plane_volume.extent_mm
    width, height = PANEL_INCHES / max(width_mm, height_mm) * np.array([width_mm, height_mm])
    size = (max(2 * width, 5.0) + 1.2, len(slices) * (max(height, 1.0) + 0.5) + 0.7)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(slices), 2, squeeze=False)
    image = None
    for row, index in enumerate(slices):
        image = _draw_row(axes[row], detection, index, truth)
        title = "No findings (the most unusual slice)"
        if shown:
            title = _title(shown[row], detection.calibration)
        color = rank_color(shown[row].rank) if shown else "0.9"
        axes[row][1].set_title(title, color=color, fontsize=8)
    assert image is not None
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), aspect=40, pad=0.02, extend="max")
    bar.set_label("how rare in normal scans; the line is the threshold", color="0.9", fontsize=9)
    rates = {detection.calibration.threshold(rate): rate_text(rate) for rate in SHOWN_RATES}
    bar.set_ticks(list(rates), labels=list(rates.values()))
    bar.ax.tick_params(colors="0.9", labelsize=8)
    bar.ax.axhline(detection.threshold_nll, color="cyan", linewidth=1.5)
    # A model's name is plain text, and may have letters that the font lacks.
    cautions = [
        textwrap.fill(f"CAUTION: {one.text}", round(LETTERS_PER_INCH * size[0]))
        for one in detection.cautions
    ]
    figure.suptitle(
        "\n".join([*cautions, _heading(detection, len(shown))]),
        color="orange" if cautions else "0.95",
        fontsize=10,
        parse_math=False,
    )
    figure.supxlabel(RESEARCH_NOTICE, color="0.7", fontsize=7)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(path, facecolor="black")


def _slices_of(detection: Detection, findings: list[Finding]) -> list[int]:
    """Return the slice of every finding's peak; without findings that of the highest NLL."""
    volume, orientation = detection.volume, detection.stack.plane_volume.orientation
    if not findings:
        nll = orientation.apply(detection.nll)
        return [int(np.unravel_index(int(nll.argmax()), nll.shape)[0])]
    k, j, i = volume.voxels.shape
    plane_from_ras = np.linalg.inv(orientation.ras_from_plane(volume.ras_from_voxel, (k, j, i)))
    return [round((plane_from_ras @ [*one.peak_ras, 1.0])[2]) for one in findings]


def _title(finding: Finding, calibration: Calibration) -> str:
    return (
        f"Finding {finding.rank}: {finding.volume_ml:.1f} mL"
        f" at {position_text(finding.peak_ras)} mm\n"
        f"like this or stronger in a normal scan: {expected_text(finding, calibration)}"
    )


def _heading(detection: Detection, shown: int) -> str:
    heading = f"{detection.card.name} · {count_findings(detection.findings)}"
    heading += f" ({rate_text(detection.spec.false_positive_rate)} normal voxels"
    heading += f", first {shown} shown)" if len(detection.findings) > shown else ")"
    if detection.calibration.is_rough:
        heading += f" · {basis_text(detection.calibration)}"
    return heading


def _draw_row(
    axes: "Sequence[Axes]",
    detection: Detection,
    index: int,
    truth: Bool[np.ndarray, "k j i"] | None,
) -> "AxesImage":
    """Draw one slice plain, and under its overlay with every finding outlined."""
    stack = detection.stack
    plane_volume, plane = stack.plane_volume, detection.card.slices.plane
    nll = plane_volume.orientation.apply(detection.nll)[index]
    labels = plane_volume.orientation.apply(detection.labels)[index]
    gray = scale_intensity(stack.voxels[index], stack.value_range, stack.intensity)
    # Only half of the headroom is shown: with all of it, the tissue would be dim.
    gray = gray / (1.0 - stack.intensity.headroom / 2)
    _, row_mm, column_mm = plane_volume.spacing_mm
    for axis in axes:
        _draw_slice(axis, gray, row_mm / column_mm, plane_volume.box, _SIDES[plane])
    axes[0].set_title(
        f"slice {index + 1} of {len(stack.voxels)} ({plane})", color="0.75", fontsize=8
    )
    if truth is not None:
        lesion = plane_volume.orientation.apply(truth)[index]
        if lesion.any() and min(lesion.shape) > 1:
            axes[0].contour(lesion, [0.5], colors="white", linewidths=0.8)
    image = _draw_overlay(axes[1], detection, nll, row_mm / column_mm)
    for rank in np.unique(labels[labels > 0]).tolist():
        if min(labels.shape) > 1:  # a line has no outline
            axes[1].contour(labels == rank, [0.5], colors=[rank_color(rank)], linewidths=1.2)
    return image


def _draw_slice(
    axis: "Axes",
    gray: Float[np.ndarray, "r c"],
    aspect: float,
    box: tuple[tuple[int, int], tuple[int, int]],
    sides: tuple[str, str, str, str],
) -> None:
    """Draw one slice, cut to the body, with its four directions."""
    axis.imshow(gray, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    (first_row, last_row), (first_column, last_column) = box
    axis.set_xlim(first_column - 0.5, last_column + 0.5)
    axis.set_ylim(last_row + 0.5, first_row - 0.5)
    axis.set_axis_off()
    style: dict[str, Any] = {"transform": axis.transAxes, "color": "0.85", "fontsize": 8}
    left, right, top, bottom = sides
    axis.text(0.02, 0.5, left, ha="left", va="center", **style)
    axis.text(0.98, 0.5, right, ha="right", va="center", **style)
    axis.text(0.5, 0.98, top, ha="center", va="top", **style)
    axis.text(0.5, 0.02, bottom, ha="center", va="bottom", **style)


def _draw_overlay(
    axis: "Axes", detection: Detection, nll: Num[np.ndarray, "r c"], aspect: float
) -> "AxesImage":
    """Draw the NLL over the slice, more opaque the nearer it comes to the threshold."""
    low, high = overlay_range(detection)
    opacity = np.clip((nll - low) / max(detection.threshold_nll - low, 1e-6), 0, 1)
    return axis.imshow(
        nll,
        cmap=_COLOR_MAP,
        vmin=low,
        vmax=high,
        alpha=opacity * OVERLAY_OPACITY,
        aspect=aspect,
        interpolation="nearest",
    )
