"""The command line of the comparison."""

import dataclasses
import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from Benchmark.real.layout import Protocol
from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.device import Device, require_torch
from SpatialARAnomalyLib.engine.specs import (
    EvaluationSpec,
    FindingsSpec,
    Region,
    SliceSpec,
    TrainingSpec,
)
from SpatialARAnomalyLib.service.cli.common import (
    ENCODER_HELP,
    DeviceOption,
    DownloadOption,
    FalsePositiveRateOption,
    JsonOption,
    MinVolumeOption,
    Outcome,
    OverwriteOption,
    run_job,
)
from SpatialARAnomalyLib.service.events import EventReporter
from SpatialARAnomalyLib.service.training.request import TrainSpec

EncoderOption = Annotated[
    str,
    typer.Option("--encoder", help=f"{ENCODER_HELP} vgg16:PATH is the stand-in of real_images.md."),
]
MethodsOption = Annotated[
    str,
    typer.Option(
        "--methods", help="Methods, or presets, branches, peers, all; separated by commas."
    ),
]
SeedsOption = Annotated[
    str, typer.Option("--seeds", help="Seeds; each method that draws random numbers runs for each.")
]
EpochsOption = Annotated[int, typer.Option("--epochs", help="Passes over the training images.")]
BatchOption = Annotated[int, typer.Option("--batch-size", help="Images per step.")]
HeldOutOption = Annotated[
    float,
    typer.Option("--held-out-share", help="Share of the normal patients kept for selection."),
]
SizeOption = Annotated[
    int, typer.Option("--size-px", help="Side of the encoder's image in pixels.")
]
EveryOption = Annotated[
    int, typer.Option("--every", min=1, help="Take every n-th slice of a volume.")
]
RegionOption = Annotated[
    Region,
    typer.Option("--region", help="What counts: the body, or the inside of a head."),
]
OutOption = Annotated[
    Path, typer.Option("--out", help="Folder for the tables and for work in progress.")
]
ResamplesOption = Annotated[
    int, typer.Option("--resamples", min=0, help="Bootstrap samples of the patients.")
]
NameOption = Annotated[
    str | None, typer.Option("--name", help="Name of the files; by default that of the set.")
]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(
    epilog="Example: python Testing/Benchmark/real_images.py BMAD/Brain "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --allow-download --out tables"
)
def real_images(
    root: Annotated[
        Path,
        typer.Argument(metavar="SET", help="A folder as BMAD's, or a table of cases (volumes)."),
    ],
    out: OutOption,
    normals: Annotated[
        Path | None,
        typer.Option("--normals", help="Folder of normal volumes to train on, for a table."),
    ] = None,
    name: NameOption = None,
    encoder: EncoderOption = DEMONSTRATION,
    methods: MethodsOption = "presets,peers",
    seeds: SeedsOption = "42,43,44",
    epochs: EpochsOption = TrainingSpec.epochs,
    batch_size: BatchOption = TrainingSpec.batch_size,
    held_out_share: HeldOutOption = TrainingSpec.held_out_share,
    size_px: SizeOption = SliceSpec.size_px,
    every: EveryOption = 1,
    region: RegionOption = Region.BODY,
    protocol: Annotated[
        Protocol,
        typer.Option(
            "--protocol", help="Compare PNG at their own size, or at 240×240 as the paper does."
        ),
    ] = Protocol.NATIVE,
    resamples: ResamplesOption = EvaluationSpec.resamples,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare methods on real images. Repeat an interrupted command to resume."""

    def job(report: EventReporter) -> Outcome:
        training = TrainingSpec(epochs=epochs, batch_size=batch_size, held_out_share=held_out_share)
        require_torch()
        from Benchmark.real.comparison import ComparisonRequest, compare
        from Benchmark.real.methods import parse_methods, parse_seeds
        from Benchmark.real.tables import markdown

        chosen, drawn = parse_methods(methods), parse_seeds(seeds)
        for seed in drawn:  # refuse an invalid seed now, not after hours of work
            dataclasses.replace(training, seed=seed)
        table, files = compare(
            ComparisonRequest(
                root=root,
                normals=normals,
                name=name or root.absolute().stem,
                encoder=encoder,
                out=out,
                methods=tuple(chosen),
                seeds=tuple(drawn),
                training=training,
                protocol=protocol,
                size_px=size_px,
                every=every,
                region=region,
                resamples=resamples,
                device=device,
                allow_download=allow_download,
                overwrite=overwrite,
            ),
            report,
        )

        def show() -> None:
            print(markdown(table))
            for path in files:
                print(path)

        return {**table.to_dict(), "files": [path.name for path in files]}, show

    run_job(job, as_json=as_json, device=device)


drawn = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@drawn.command()
def drawn_lesions(
    normals: Annotated[
        Path, typer.Argument(metavar="NORMALS", help="Folder of normal volumes, one a person.")
    ],
    out: OutOption,
    name: NameOption = None,
    encoder: EncoderOption = DEMONSTRATION,
    methods: MethodsOption = f"{TrainSpec.preset},bank,bright,dark",
    seeds: SeedsOption = "42,43,44",
    epochs: EpochsOption = TrainingSpec.epochs,
    batch_size: BatchOption = TrainingSpec.batch_size,
    held_out_share: HeldOutOption = 0.3,
    size_px: SizeOption = SliceSpec.size_px,
    every: EveryOption = 1,
    region: RegionOption = Region.BODY,
    folds: Annotated[int, typer.Option("--folds", min=2, help="Folds of the persons.")] = 4,
    balls: Annotated[int, typer.Option("--balls", min=0, help="Number of smooth balls.")] = 60,
    false_positive_rate: FalsePositiveRateOption = FindingsSpec.false_positive_rate,
    min_volume_ml: MinVolumeOption = FindingsSpec.min_volume_ml,
    resamples: ResamplesOption = EvaluationSpec.resamples,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure drawn lesions and false alarms. Repeat an interrupted command to resume."""

    def job(report: EventReporter) -> Outcome:
        training = TrainingSpec(epochs=epochs, batch_size=batch_size, held_out_share=held_out_share)
        findings = FindingsSpec(
            false_positive_rate=false_positive_rate, min_volume_ml=min_volume_ml
        )
        require_torch()
        from Benchmark.real.drawn import DrawnRequest, measure
        from Benchmark.real.methods import parse_methods, parse_seeds

        chosen, numbers = parse_methods(methods), parse_seeds(seeds)
        for seed in numbers:
            dataclasses.replace(training, seed=seed)
        text, files = measure(
            DrawnRequest(
                normals=normals,
                name=name or f"{normals.absolute().name}_drawn",
                encoder=encoder,
                out=out,
                methods=tuple(chosen),
                seeds=tuple(numbers),
                training=training,
                findings=findings,
                size_px=size_px,
                every=every,
                region=region,
                folds=folds,
                balls=balls,
                resamples=resamples,
                device=device,
                allow_download=allow_download,
                overwrite=overwrite,
            ),
            report,
        )

        def show() -> None:
            print(text)
            for path in files:
                print(path)

        return {"table": text, "files": [path.name for path in files]}, show

    run_job(job, as_json=as_json, device=device)


def main(command: typer.Typer = app) -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A console of few characters shows a stand-in rather than an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    command(prog_name=Path(sys.argv[0]).name)
