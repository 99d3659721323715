"""A model's card as files: Markdown, and beside it a picture of its training and calibration."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from SpatialARAnomalyLib.engine.errors import OutputError
from SpatialARAnomalyLib.engine.files import replacing, unwritable
from SpatialARAnomalyLib.engine.model.model_file import ModelCard
from SpatialARAnomalyLib.service.models.card_text import card_sections

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colors, distinct for color-blind readers.
_BLUE, _ORANGE, _GRAY = "#0072B2", "#E69F00", "0.55"


def write_card(file: Path, card: ModelCard, *, overwrite: bool) -> tuple[Path, Path]:
    """Write a card as Markdown to `file` (`.md` is added where it is missing), and its picture.

    Returns the two files.

    Raises:
        OutputError: `output-exists` unless `overwrite`, or `output-unwritable`.
    """
    text = file if file.suffix == ".md" else file.with_name(f"{file.name}.md")
    picture = text.with_suffix(".png")
    for one in (text, picture):
        if os.path.lexists(one) and not overwrite:
            raise OutputError("output-exists", f"{one.name!r} exists already.")
    try:
        with replacing(picture) as partial:
            write_card_picture(partial, card)
        with replacing(text) as partial:
            partial.write_text(card_markdown(card, picture.name), encoding="utf-8")
    except OSError as error:
        raise unwritable("The card cannot be written", error) from error
    return text, picture


def card_markdown(card: ModelCard, picture: str) -> str:
    """Return a card as Markdown; `picture` is the name of its picture."""
    parts = [f"# Model {_escaped(card.name)}"]
    for title, texts in card_sections(card).items():
        rows = (
            f"| {name} | {'<br>'.join(map(_escaped, value.splitlines()))} |"
            for name, value in texts.items()
        )
        parts.append("\n".join([f"## {title}", "", "| | |", "| --- | --- |", *rows]))
        if title == "Calibration":
            parts.append(f"![Learning curve, and rates on the held-out scans](<{picture}>)")
    return "\n\n".join(parts) + "\n"


def write_card_picture(path: Path, card: ModelCard) -> None:
    """Write the learning curve and the rates that held-out scans have at the thresholds, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    _draw_curve(left, card)
    _draw_calibration(right, card)
    for axis in (left, right):
        axis.grid(color="0.92", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="best", fontsize=8, framealpha=0.9)
    figure.savefig(path, format="png", facecolor="white")


def _draw_curve(axis: "Axes", card: ModelCard) -> None:
    epochs = [one.epoch for one in card.curve]
    held_out = [one.held_out_nll for one in card.curve]
    axis.plot(epochs, [one.train_nll for one in card.curve], color=_BLUE, label="training scans")
    axis.plot(epochs, held_out, color=_ORANGE, label="held-out scans")
    best = card.best_epoch - 1
    axis.plot(epochs[best], held_out[best], "D", color="black", label="best epoch")
    axis.set_title("Learning curve", fontsize=11, loc="left")
    axis.set_xlabel("epoch", fontsize=9)
    axis.set_ylabel("NLL (nats per channel)", fontsize=9)


def _draw_calibration(axis: "Axes", card: ModelCard) -> None:
    calibration = card.calibration
    axis.set_title(
        f"Calibration, {calibration.volumes} held-out scans"
        if calibration.volumes > 1
        else "Calibration, 1 held-out scan",
        fontsize=11,
        loc="left",
    )
    axis.set_xlabel("false-positive rate asked", fontsize=9)
    axis.set_ylabel("share of a normal scan above", fontsize=9)
    if not calibration.volume_shares:
        axis.text(0.5, 0.5, "not kept in this model", ha="center", transform=axis.transAxes)
        return
    rates = calibration.rates
    axis.plot(rates, rates, color=_GRAY, linewidth=1, linestyle=":", label="as asked")
    for number, shares in enumerate(calibration.volume_shares):
        label = "a held-out scan" if number == 0 else None
        axis.plot(rates, shares, ".", color=_BLUE, markersize=5, alpha=0.7, label=label)
    known = [(rate, one) for rate in rates if (one := calibration.rate_interval(rate)) is not None]
    if known:
        axis.fill_between(
            [rate for rate, _ in known],
            [max(one.scan[0], rates[-1] / 10) for _, one in known],
            [one.scan[1] for _, one in known],
            color=_ORANGE,
            alpha=0.25,
            label="a new scan (95 %)",
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(rates[-1] / 10, 1)


def _escaped(text: str) -> str:
    """Return a text without Markdown's and HTML's signs."""
    for sign in "\\`*_[]|":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("&", "&amp;").replace("<", "&lt;")
