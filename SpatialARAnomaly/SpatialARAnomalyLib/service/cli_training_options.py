"""The options that say what a training is to be: of `train`, and of `normals` that foresees it."""

from typing import Annotated

import typer

from ..engine.specs import Plane, Preset
from .cli_common import ENCODER_HELP

PlaneOption = Annotated[Plane, typer.Option("--plane", help="Plane of the slices.")]
PresetOption = Annotated[
    Preset,
    typer.Option(
        "--preset",
        help="Network by purpose (fast, balanced, thorough), or the paper's (standard, dilated).",
    ),
]
EncoderOption = Annotated[str, typer.Option("--encoder", help=ENCODER_HELP)]
FovOption = Annotated[
    float | None,
    typer.Option("--fov-mm", help="Side of a slice in mm.  [default: 1.1 × the largest body]"),
]
SizeOption = Annotated[int, typer.Option("--size-px", help="Side of a slice in pixels.")]
EpochsOption = Annotated[int, typer.Option("--epochs", help="Passes over the slices.")]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", help="Slices per step.")]
