"""The review picture: the slices of the top findings beside their overlay."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Num

from ..engine.intensity import scale_intensity
from ..engine.specs import Plane
from .colors import rank_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from .detect_job import Detection

MAX_FINDINGS = 4
"""Rows of the picture."""

PANEL_INCHES = 3.6
"""Longer side of one slice."""

OVERLAY_OPACITY = 0.65
NOTICE = "Research use only. Not a medical device."

_SIDES = {
    Plane.AXIAL: ("R", "L", "A", "P"),
    Plane.CORONAL: ("R", "L", "S", "I"),
    Plane.SAGITTAL: ("A", "P", "S", "I"),
}
"""What lies left, right, at the top and at the bottom of a slice."""

_COLOR_MAP = "inferno"


def overlay_range(detection: "Detection") -> tuple[float, float]:
    """The NLL at which the color map begins and ends: one pair per model, not per scan.

    It begins where one in ten normal body voxels is reached and ends as far
    above the most unlikely normal voxel as that lies above the beginning.
    """
    low = detection.calibration.threshold(0.1)
    highest = detection.calibration.nll[-1]
    return low, highest + max(highest - low, 1e-6)


def write_review(path: Path, detection: "Detection") -> None:
    """Write the picture as PNG: gray slice, and the same with NLL overlay and outlines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    stack = detection.stack
    turned = stack.plane_volume
    plane = detection.card.slices.plane
    gray = scale_intensity(stack.voxels, stack.value_range, stack.intensity)
    nll = turned.orientation.apply(detection.nll)
    labels = turned.orientation.apply(detection.labels)
    rows = detection.findings[:MAX_FINDINGS]
    peaks = [np.argwhere((labels == one.rank) & (nll >= one.peak_nll))[0] for one in rows]
    if not rows:
        peaks = [np.array(np.unravel_index(int(nll.argmax()), nll.shape))]

    height_mm, width_mm = turned.extent_mm
    panel = np.array([width_mm, height_mm]) / max(width_mm, height_mm) * PANEL_INCHES
    figure = Figure(
        figsize=(max(2 * panel[0], 5.0) + 1.2, len(peaks) * (panel[1] + 0.5) + 0.7),
        dpi=120,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(peaks), 2, squeeze=False)
    box = turned.box
    aspect = turned.spacing_mm[1] / turned.spacing_mm[2]
    # Half of what is kept for the very bright is shown, else all else would be dim.
    brightest = 1.0 - stack.intensity.headroom / 2
    image: AxesImage | None = None
    for row, peak in enumerate(peaks):
        index = int(peak[0])
        for axis in axes[row]:
            _draw_slice(axis, gray[index] / brightest, aspect, box, _SIDES[plane])
        image = _draw_overlay(axes[row][1], detection, nll[index], aspect)
        for finding in detection.findings:
            region = labels[index] == finding.rank
            if region.any():
                axes[row][1].contour(
                    region, levels=[0.5], colors=[rank_color(finding.rank)], linewidths=1.2
                )
        axes[row][0].set_title(
            f"slice {index + 1} of {gray.shape[0]} ({plane})", color="0.75", fontsize=8
        )
        if rows:
            one = rows[row]
            position = ", ".join(
                f"{axis} {abs(value):.0f}"
                for axis, value in zip(_towards(one.peak_ras), one.peak_ras, strict=True)
            )
            title = (
                f"Anomaly {one.rank}: {one.volume_ml:.1f} mL, peak NLL {one.peak_nll:.2f}, "
                f"p = {one.p_value:.2g}\n{position} mm"
            )
            axes[row][1].set_title(title, color=rank_color(one.rank), fontsize=8)
        else:
            axes[row][1].set_title(
                "No findings (slice of the highest NLL)", color="0.9", fontsize=8
            )
    assert image is not None
    bar = figure.colorbar(image, ax=axes.ravel().tolist(), aspect=40, pad=0.02, extend="max")
    bar.set_label("NLL (nats per channel); the line is the threshold", color="0.9", fontsize=9)
    bar.ax.tick_params(colors="0.9", labelsize=8)
    bar.ax.axhline(detection.threshold_nll, color="cyan", linewidth=1.5)
    more = len(detection.findings) - len(rows)
    heading = f"{len(detection.findings)} finding{'s' if len(detection.findings) != 1 else ''}"
    heading += f" at {detection.spec.false_positive_rate:g} of normal voxels" + (
        f" (top {len(rows)} shown)" if more > 0 else ""
    )
    figure.suptitle(f"{detection.card.name} · {heading}", color="0.95", fontsize=10)
    figure.supxlabel(NOTICE, color="0.7", fontsize=7)
    figure.savefig(path, facecolor="black")


def _towards(ras: tuple[float, float, float]) -> tuple[str, ...]:
    return tuple(
        positive if value >= 0 else negative
        for value, positive, negative in zip(ras, "RAS", "LPI", strict=True)
    )


def _draw_slice(
    axis: "Axes",
    gray: Float[np.ndarray, "r c"],
    aspect: float,
    box: tuple[tuple[int, int], tuple[int, int]],
    sides: tuple[str, str, str, str],
) -> None:
    """Draw one slice, cut to the body, with the patient's sides named."""
    axis.imshow(gray, cmap="gray", vmin=0, vmax=1, aspect=aspect, interpolation="nearest")
    (top, bottom), (left, right) = box
    axis.set_xlim(left - 0.5, right + 0.5)
    axis.set_ylim(bottom + 0.5, top - 0.5)
    axis.set_axis_off()
    places = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.98), (0.5, 0.02))
    for side, (x, y) in zip(sides, places, strict=True):
        axis.text(
            x,
            y,
            side,
            transform=axis.transAxes,
            color="0.85",
            fontsize=8,
            ha="left" if x < 0.1 else "right" if x > 0.9 else "center",
            va="bottom" if y < 0.1 else "top" if y > 0.9 else "center",
        )


def _draw_overlay(
    axis: "Axes", detection: "Detection", nll: Num[np.ndarray, "r c"], aspect: float
) -> "AxesImage":
    """Draw the NLL over the slice: clear where normal scans are as unlikely, else opaque."""
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
