"""The command `bmad`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.device import Device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.specs import SliceSpec, TrainingSpec
from .bmad_layout import BmadProtocol, BmadSet
from .bmad_names import ALL_METHODS
from .cli_common import (
    ENCODER_HELP,
    DeviceOption,
    DownloadOption,
    JsonOption,
    OverwriteOption,
    run_job,
)

if TYPE_CHECKING:
    from .events import EventReporter

EPILOG = (
    "Example: spatial-ar-anomaly bmad BMAD/Brain --set brats2021 "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --allow-download --out tables"
)


def bmad(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="The folder into which a set was unpacked.")
    ],
    which: Annotated[BmadSet, typer.Option("--set", help="Which of BMAD's sets it is.")],
    out: Annotated[
        Path, typer.Option("--out", help="The folder for the table, and for work in progress.")
    ],
    protocol: Annotated[
        BmadProtocol,
        typer.Option(
            "--protocol", help="Compare at 240×240 as the paper does, or at the image's own size."
        ),
    ] = BmadProtocol.PAPER,
    encoder: Annotated[str, typer.Option("--encoder", help=ENCODER_HELP)] = DEMONSTRATION,
    methods: Annotated[
        str, typer.Option("--methods", help="Presets and peers, with commas between.")
    ] = ALL_METHODS,
    seeds: Annotated[
        str, typer.Option("--seeds", help="A run of every method that draws for each of them.")
    ] = "42,43,44",
    epochs: Annotated[
        int, typer.Option("--epochs", help="Passes over the slices.")
    ] = TrainingSpec.epochs,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Slices per step.")
    ] = TrainingSpec.batch_size,
    held_out_share: Annotated[
        float,
        typer.Option(
            "--held-out-share", help="Share of the normal training patients kept for selection."
        ),
    ] = TrainingSpec.held_out_share,
    size_px: Annotated[
        int, typer.Option("--size-px", help="Side of the encoder's image in pixels.")
    ] = SliceSpec.size_px,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare presets and peers on a set of BMAD. Repeat an interrupted command to resume it."""

    def job(report: "EventReporter") -> Any:
        from .bmad_names import methods_named, seeds_named

        chosen, drawn = methods_named(methods), seeds_named(seeds)
        training = TrainingSpec(epochs=epochs, batch_size=batch_size, held_out_share=held_out_share)
        for seed in drawn:  # each must suit, before hours of work
            dataclasses.replace(training, seed=seed)
        from ..engine.device import require_torch

        require_torch()
        from .bmad_job import BmadRequest, run_bmad

        return run_bmad(
            BmadRequest(
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

    def as_result(outcome: Any) -> dict[str, Any]:
        from .bmad_job import as_result

        return as_result(*outcome)

    def show(outcome: Any) -> None:
        from .bmad_table import print_table

        print_table(*outcome)

    run_job(job, as_result, show, as_json=as_json, device=device)
