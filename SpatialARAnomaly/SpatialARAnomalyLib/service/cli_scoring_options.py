"""The options of commands that score scans by a model: `detect` and `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

ModelOption = Annotated[Path, typer.Option("--model", help="The model file.")]
ResultsOption = Annotated[Path, typer.Option("--out", help="The folder for the results.")]
ModelEncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Where the model's encoder is now, if it moved."),
]
FalsePositiveRateOption = Annotated[
    float,
    typer.Option("--false-positive-rate", help="Share of normal body voxels above the threshold."),
]
MinVolumeOption = Annotated[
    float, typer.Option("--min-volume-ml", help="Smaller regions are not findings.")
]
