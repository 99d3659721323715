"""Draw the method, and print a table of the contexts and costs of the presets.

    PYTHONPATH=SpatialARAnomaly .venv/bin/python Testing/Tools/draw_method.py

The networks themselves are measured: a gradient shows which tokens enter the prediction of the
middle one of a 28 × 28 grid; parameters and operations are counted for tokens of 384 channels
(ViT-S/16 at 448 px).
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from SpatialARAnomalyLib.engine.model.autoregressive import AutoregressiveModel
from SpatialARAnomalyLib.engine.specs import AutoregressiveSpec, Preset
from torch.utils.flop_counter import FlopCounterMode
from transformers import DINOv3ViTConfig, DINOv3ViTModel

PICTURE = Path(__file__).parents[2] / "Resources/Docs/pictures/method.png"
GRID, CHANNELS, MIDDLE = 28, 384, 14
SHOWN = 13
"""Tokens drawn to each side of the middle one."""

COLORS = {1: "#009E73", 2: "#0072B2", 4: "#E69F00"}
"""By dilation of a branch."""
STRIPES = 12
"""Stripes of a token that one or two branches see."""
PAPER, OURS = "#F1F1F1", "#DCEAF5"


@dataclass(frozen=True)
class Cost:
    """Cost of a network for tokens of 384 channels."""

    parameters: int
    model_bytes: int
    """Bytes of all saved tensors."""
    flop: int
    """Floating-point operations of the NLL of one slice's tokens."""


def cost(spec: AutoregressiveSpec) -> Cost:
    """Measure the network's cost."""
    model = AutoregressiveModel(spec, CHANNELS)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.nll(torch.zeros(1, CHANNELS, GRID, GRID))
    return Cost(
        sum(one.numel() for one in model.parameters()),
        sum(one.nbytes for one in model.state_dict().values()),
        counter.get_total_flops(),
    )


@dataclass(frozen=True)
class Context:
    """Context and cost of a preset's network."""

    seen: dict[int, np.ndarray]
    """Per branch, mask [28, 28] of the tokens on which the middle one's prediction depends."""
    blind: dict[int, int]
    """Per branch, the number of tokens that are predicted from none."""
    cost: Cost


def measure_context(preset: Preset) -> Context:
    """Measure the context of a preset's network."""
    spec = AutoregressiveSpec.from_preset(preset)
    tiny = AutoregressiveModel(replace(spec, hidden_channels=1), 1)
    for parameter in tiny.parameters():
        # Positive, so that no path through a ReLU is closed.
        torch.nn.init.constant_(parameter, 0.5)
    tokens = torch.ones(1, 1, GRID, GRID, requires_grad=True)
    with torch.no_grad():
        without = tiny(torch.zeros_like(tokens))
    seen, blind = {}, {}
    for dilation, found, empty in zip(spec.dilations, tiny(tokens), without, strict=True):
        (gradient,) = torch.autograd.grad(found[0, 0, MIDDLE, MIDDLE], tokens, retain_graph=True)
        seen[dilation] = (gradient[0, 0] != 0).numpy()
        blind[dilation] = int((found == empty).sum())
    return Context(seen, blind, cost(spec))


def encoder_flop(size_px: int) -> int:
    """Count the operations of a ViT-S/16 for one slice, without computing."""
    configuration = DINOv3ViTConfig(
        hidden_size=CHANNELS, num_attention_heads=6, intermediate_size=4 * CHANNELS,
        num_hidden_layers=12, num_register_tokens=4, patch_size=16, attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        network = DINOv3ViTModel(configuration).eval()
        images = torch.zeros(1, 3, size_px, size_px)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(images)
    return counter.get_total_flops()


def table(contexts: dict[Preset, Context]) -> str:
    """Format a Markdown table."""
    reach = np.maximum(*(abs(axis - MIDDLE) for axis in np.indices((GRID, GRID))))
    rows = [
        "| preset | branch | hidden channels | tokens seen | nearest | farthest "
        "| tokens that see none | parameters of all branches | GFLOP a slice |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for preset, one in contexts.items():
        spec = AutoregressiveSpec.from_preset(preset)
        rows += [
            f"| `{preset}` | dilation {dilation} | {spec.hidden_channels} | {int(seen.sum())} "
            f"| {reach[seen].min()} | {reach[seen].max()} | {one.blind[dilation]} "
            f"| {one.cost.parameters:,} | {one.cost.flop / 1e9:.1f} |"
            for dilation, seen in one.seen.items()
        ]
    return "\n".join(rows)


def draw_context(axes: Axes, preset: Preset, one: Context) -> None:
    """Draw the tokens that predict the middle one, colored by branch, striped if by two."""
    size = 2 * SHOWN + 1
    shown = slice(MIDDLE - SHOWN, MIDDLE + SHOWN + 1)
    stripes = np.full((size, size, STRIPES, 3), to_rgb("#F1F1F1"))
    for row, column in np.argwhere(np.any(list(one.seen.values()), axis=0)[shown, shown]):
        found = [branch for branch, seen in one.seen.items() if seen[shown, shown][row, column]]
        colors = np.array([to_rgb(COLORS[branch]) for branch in found])
        stripes[row, column] = np.repeat(colors, STRIPES // len(found), axis=0)
    image = stripes.reshape(size, size * STRIPES, 3)
    axes.imshow(
        image, interpolation="nearest", extent=(-0.5, size - 0.5, size - 0.5, -0.5), aspect="equal"
    )
    axes.plot(SHOWN, SHOWN, "s", color="black", markersize=3.6)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.7)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.spines[:].set_color("#BBBBBB")
    spec = AutoregressiveSpec.from_preset(preset)
    axes.set_title(preset, fontsize=11, fontweight="bold")
    seen = " and ".join(str(int(seen.sum())) for seen in one.seen.values())
    dilations = " and ".join(map(str, spec.dilations))
    axes.set_xlabel(f"dilation {dilations}\n{seen} tokens seen\n", fontsize=8.5)


STEPS = [
    ("volume", "square slices of\none field of view,\nscaled to [0, 1]"),
    ("frozen DINOv3", "last block,\npatch tokens only"),
    ("tokens  x", "a grid, 28 × 28\nat 448 px"),
    ("masked CNN", "predicts a token\nfrom the tokens\nbefore it"),
    ("squared error", "of each token,\nmean over channels"),
    ("NLL", "Gaussian,\nnats per channel"),
    ("voxels", "linear between\ntoken centers,\nin the body"),
    ("findings", "above a calibrated\nthreshold,\nconnected"),
]
"""Steps from left to right."""
ADDITIONS = {
    3: ("two branches", "one sees near context,\none only far context"),
    5: ("composite NLL", "mean of both;\nvariances from\nheld-out scans"),
    7: ("calibration", "rates and p-values from\nheld-out normal scans"),
}
"""Our additions, by the step they belong to."""


def draw_flow(axes: Axes) -> None:
    """Draw the steps from volume to findings, with our additions below them."""
    axes.set(xlim=(0, len(STEPS)), ylim=(0.1, 2.0))
    axes.axis("off")

    def box(middle: float, bottom: float, head: str, text: str, color: str) -> None:
        height, lines = 0.74, head.count("\n")
        axes.add_patch(
            FancyBboxPatch(
                (middle - 0.42, bottom), 0.84, height, facecolor=color, edgecolor="#555555",
                linewidth=0.8, boxstyle="round,pad=0,rounding_size=0.05",
            )
        )  # fmt: skip
        axes.text(middle, bottom + height - 0.07, head, ha="center", va="top", fontsize=9,
                  fontweight="bold", linespacing=1.05)  # fmt: skip
        axes.text(middle, bottom + height - 0.27 - 0.14 * lines, text, ha="center", va="top",
                  fontsize=7.8, linespacing=1.2)  # fmt: skip

    arrow = {"arrowstyle": "-|>", "color": "#555555", "shrinkA": 0, "shrinkB": 0}
    for index, (head, text) in enumerate(STEPS):
        box(index + 0.5, 1.23, head, text, OURS if head == "findings" else PAPER)
        if index:
            axes.annotate("", (index + 0.08, 1.6), (index - 0.08, 1.6), arrowprops=arrow)
    for index, (head, text) in ADDITIONS.items():
        box(index + 0.5, 0.15, head, text, OURS)
        axes.annotate("", (index + 0.5, 1.23), (index + 0.5, 0.89), arrowprops=arrow)
    axes.text(0.08, 0.75, "gray: as in the paper", fontsize=9, va="center",
              bbox={"facecolor": PAPER, "edgecolor": "#555555", "linewidth": 0.8})  # fmt: skip
    axes.text(0.08, 0.42, "blue: what we add", fontsize=9, va="center",
              bbox={"facecolor": OURS, "edgecolor": "#555555", "linewidth": 0.8})  # fmt: skip


def draw(contexts: dict[Preset, Context], path: Path) -> None:
    """Draw data flow above, contexts below."""
    figure = Figure(figsize=(13, 6.9), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 1.3))
    above.suptitle("From a volume to findings", fontsize=12)
    draw_flow(above.subplots())
    below.suptitle("Which tokens of a 28 × 28 grid the black one is predicted from\n", fontsize=12)
    for axes, (preset, one) in zip(below.subplots(1, len(contexts)), contexts.items(), strict=True):
        draw_context(axes, preset, one)
    handles = [
        below.axes[0].plot([], [], "s", color=color, label=f"branch of dilation {dilation}")[0]
        for dilation, color in COLORS.items()
    ]
    below.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print the table, draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=PICTURE)
    picture = parser.parse_args().picture
    contexts = {preset: measure_context(preset) for preset in Preset}
    print(table(contexts), end="\n\n")
    for size_px in (224, 336, 448, 672):
        print(f"ViT-S/16, one slice of {size_px} px: {encoder_flop(size_px) / 1e9:.1f} GFLOP")
    draw(contexts, picture)


if __name__ == "__main__":
    main()
