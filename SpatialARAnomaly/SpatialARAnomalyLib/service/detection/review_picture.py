"""The review picture: the slices through the first findings, beside their overlay."""

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Num

from SpatialARAnomalyLib.engine.cards.calibration import Calibration
from SpatialARAnomalyLib.engine.slices.intensity import scale_intensity
from SpatialARAnomalyLib.engine.specs import Plane
from SpatialARAnomalyLib.service.detection.findings_table import rank_color
from SpatialARAnomalyLib.service.detection.review_case import ReviewCase, peak_of
from SpatialARAnomalyLib.service.models.wording import SHOWN_RATES
from SpatialARAnomalyLib.service.text import (
    RESEARCH_NOTICE,
    count_findings,
    number_text,
    position_text,
    rate_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MAX_ROWS = 4
"""Slices that are shown, one per row."""

TITLE_INCHES = 0.17
"""Height of a line above a slice."""

PANEL_INCHES = 3.6
"""Longer side of one slice in inches."""

LETTERS_PER_INCH = 13
"""Letters of a line of the heading."""

TITLE_LETTERS_PER_INCH = 17
"""Letters of a line above a slice."""

LEAST_PANEL_INCHES = 2.5
"""Least width of one slice in inches."""

OVERLAY_OPACITY = 0.65

_SIDES = {
    Plane.AXIAL: ("R", "L", "A", "P"),
    Plane.CORONAL: ("R", "L", "S", "I"),
    Plane.SAGITTAL: ("A", "P", "S", "I"),
}
"""Directions at the left, right, top and bottom of a slice."""

_COLOR_MAP = "inferno"


def overlay_range(case: ReviewCase) -> tuple[float, float]:
    """Return the NLL at which the colors begin and end: the threshold, and the scan's highest."""
    low = case.threshold_nll
    return low, max(float(case.nll.max()), low + 1e-6)


def write_review(
    path: Path | BytesIO,
    case: ReviewCase,
    truth: Bool[np.ndarray, "k j i"] | None = None,
    most_rows: int = MAX_ROWS,
) -> None:
    """Write the picture as PNG: every slice plain, and with overlay, outlines and numbers.

    A slice with the peaks of several findings is drawn once. Known lesions (`truth`) are outlined
    in white in the plain slices.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = rows_of(case)
    shown = list(rows.items())[:most_rows]
    height_mm, width_mm = case.plane_volume.extent_mm
    width, height = PANEL_INCHES / max(width_mm, height_mm) * np.array([width_mm, height_mm])
    letters = round(TITLE_LETTERS_PER_INCH * max(width, LEAST_PANEL_INCHES))
    titles = ["\n".join(_titles(findings, case.calibration, letters)) for _, findings in shown]
    lines = sum(title.count("\n") + 1 for title in titles)
    size = (
        2 * max(width, LEAST_PANEL_INCHES) + 1.2,
        len(shown) * (max(height, 1.0) + 0.3) + lines * TITLE_INCHES + 0.9,
    )
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(shown), 2, squeeze=False)
    image = None
    for row, (index, _) in enumerate(shown):
        image = _draw_row(axes[row], case, index, truth)
        axes[row][1].set_title(titles[row], color="0.95", fontsize=7, loc="left")
    assert image is not None
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), aspect=40, pad=0.02)
    bar.set_label("how rare in normal scans", color="0.9", fontsize=9)
    low, high = overlay_range(case)
    ticks = {
        nll: rate_text(rate)
        for rate in SHOWN_RATES
        if low < (nll := case.calibration.threshold(rate)) < high
    }
    ticks |= {
        low: f"threshold\n{rate_text(case.spec.false_positive_rate)}",
        high: "this scan's\nmaximum",
    }
    bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.ax.tick_params(colors="0.9", labelsize=8)
    # A model's name is plain text, and may have letters that the font lacks.
    notices = [
        textwrap.fill(f"CAUTION: {one}", round(LETTERS_PER_INCH * size[0])) for one in case.notices
    ]
    shown_findings = sum(len(findings) for _, findings in shown)
    heading = textwrap.fill(_heading(case, shown_findings), round(LETTERS_PER_INCH * size[0]))
    figure.suptitle(
        "\n".join([*notices, heading]),
        color="orange" if notices else "0.95",
        fontsize=10,
        parse_math=False,
    )
    figure.supxlabel(RESEARCH_NOTICE, color="0.7", fontsize=7)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(path, facecolor="black", format="png")


def rows_of(case: ReviewCase) -> dict[int, list[Mapping[str, Any]]]:
    """Return the findings by the slice of their peak, in the order of the strongest in each.

    Without findings, the slice of the highest NLL.
    """
    if not case.findings:
        nll = case.plane_volume.orientation.apply(case.nll)
        return {int(np.unravel_index(int(nll.argmax()), nll.shape)[0]): []}
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for finding in case.findings:
        rows.setdefault(case.slice_of(finding), []).append(finding)
    return rows


def _titles(
    findings: Sequence[Mapping[str, Any]], calibration: Calibration, letters: int
) -> list[str]:
    """Return the lines above a slice, each of at most so many letters."""
    titles = [_title(one, calibration) for one in findings]
    titles = titles or ["No findings (the most unusual slice)"]
    return [line for title in titles for line in textwrap.wrap(title, letters)]


def _title(row: Mapping[str, Any], calibration: Calibration) -> str:
    number = "unknown"
    if row["per_normal_scan"] is not None and calibration.findings is not None:
        number = number_text(row["per_normal_scan"], calibration.findings.least)
    return (
        f"{row['rank']}: {row['volume_ml']:.1f} mL at {position_text(peak_of(row))} mm, "
        f"{number} per normal scan"
    )


def _heading(case: ReviewCase, shown: int) -> str:
    found = len(case.findings)
    heading = f"{case.model['name']} · {count_findings(case.findings)}"
    heading += f" ({rate_text(case.spec.false_positive_rate)} normal voxels"
    return heading + (f", first {shown} shown)" if found > shown else ")")


def _draw_row(
    axes: "Sequence[Axes]",
    case: ReviewCase,
    index: int,
    truth: Bool[np.ndarray, "k j i"] | None,
) -> "AxesImage":
    """Draw one slice plain, and under its overlay with every finding outlined and numbered."""
    plane_volume = case.plane_volume
    nll = plane_volume.orientation.apply(case.nll)[index]
    labels = plane_volume.orientation.apply(case.labels)[index]
    gray = scale_intensity(plane_volume.voxels[index], case.value_range, case.intensity)
    # Only half of the headroom is shown: with all of it, the tissue would be dim.
    gray = gray / (1.0 - case.intensity.headroom / 2)
    _, row_mm, column_mm = plane_volume.spacing_mm
    for axis in axes:
        _draw_slice(axis, gray, row_mm / column_mm, plane_volume.box, _SIDES[case.plane])
    axes[0].set_title(
        f"slice {index + 1} of {len(plane_volume.voxels)} ({case.plane})",
        color="0.75",
        fontsize=8,
    )
    if truth is not None:
        lesion = plane_volume.orientation.apply(truth)[index]
        if lesion.any() and min(lesion.shape) > 1:
            axes[0].contour(lesion, [0.5], colors="white", linewidths=0.8)
    image = _draw_overlay(axes[1], case, nll, row_mm / column_mm)
    for rank in case.ranks_in(index).tolist():
        if min(labels.shape) > 1:  # a line has no outline
            axes[1].contour(labels == rank, [0.5], colors=[rank_color(rank)], linewidths=1.2)
        rows, columns = np.nonzero(labels == rank)
        axes[1].annotate(
            str(rank),
            (columns.max(), rows.min()),
            (3, 3),
            textcoords="offset points",
            color=rank_color(rank),
            fontsize=9,
            fontweight="bold",
        )
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
    axis: "Axes", case: ReviewCase, nll: Num[np.ndarray, "r c"], aspect: float
) -> "AxesImage":
    """Draw the NLL over the slice where it reaches the threshold."""
    low, high = overlay_range(case)
    return axis.imshow(
        np.ma.masked_less(nll, low),
        cmap=_COLOR_MAP,
        vmin=low,
        vmax=high,
        alpha=OVERLAY_OPACITY,
        aspect=aspect,
        interpolation="nearest",
    )
