"""The command line of the BMAD comparison."""

import dataclasses
import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from Benchmark.bmad.choices import ALL_METHODS, parse_methods, parse_seeds
from Benchmark.bmad.layout import DatasetName, Protocol
from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.device import (
    Device,
    require_torch,
)
from SpatialARAnomalyLib.engine.specs import TrainingSpec
from SpatialARAnomalyLib.service.cli.common import (
    ENCODER_HELP,
    DeviceOption,
    DownloadOption,
    JsonOption,
    Outcome,
    OverwriteOption,
    run_job,
)
from SpatialARAnomalyLib.service.events import EventReporter

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="Example: python Testing/Benchmark/bmad.py BMAD/Brain --set brats2021 "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --allow-download --out tables"
)
def bmad(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder into which the data set was unpacked.")
    ],
    which: Annotated[DatasetName, typer.Option("--set", help="Data set in that folder.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the table and for work in progress.")
    ],
    protocol: Annotated[
        Protocol,
        typer.Option(
            "--protocol", help="Compare at 240×240 as the paper does, or at each image's own size."
        ),
    ] = Protocol.PAPER,
    encoder: Annotated[str, typer.Option("--encoder", help=ENCODER_HELP)] = DEMONSTRATION,
    methods: Annotated[
        str, typer.Option("--methods", help="Presets and peers, separated by commas.")
    ] = ALL_METHODS,
    seeds: Annotated[
        str,
        typer.Option("--seeds", help="Seeds; each method that draws random numbers runs for each."),
    ] = "42,43,44",
    epochs: Annotated[
        int, typer.Option("--epochs", help="Passes over the training images.")
    ] = TrainingSpec.epochs,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Images per step.")
    ] = TrainingSpec.batch_size,
    held_out_share: Annotated[
        float,
        typer.Option(
            "--held-out-share", help="Share of the normal training patients kept for selection."
        ),
    ] = TrainingSpec.held_out_share,
    size_px: Annotated[
        int, typer.Option("--size-px", help="Side of the encoder's image in pixels.")
    ] = 448,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare presets and peers on a data set of BMAD. Repeat an interrupted command to resume."""

    def job(report: EventReporter) -> Outcome:
        chosen, drawn = parse_methods(methods), parse_seeds(seeds)
        training = TrainingSpec(epochs=epochs, batch_size=batch_size, held_out_share=held_out_share)
        for seed in drawn:  # refuse an invalid seed now, not after hours of work
            dataclasses.replace(training, seed=seed)
        require_torch()
        from Benchmark.bmad.job import ComparisonRequest, compare

        table, files = compare(
            ComparisonRequest(
                root=root,
                which=which,
                protocol=protocol,
                encoder=encoder,
                out=out,
                methods=tuple(chosen),
                seeds=tuple(drawn),
                training=training,
                size_px=size_px,
                device=device,
                allow_download=allow_download,
                overwrite=overwrite,
            ),
            report,
        )

        def show() -> None:
            from Benchmark.bmad.table import print_table

            print_table(table, files)

        return {**table.to_dict(), "files": [path.name for path in files]}, show

    run_job(job, as_json=as_json, device=device)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A console of few characters shows a stand-in rather than an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="bmad.py")
