"""The command `train`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.device import Device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.specs import Modality, Plane, Precision, TrainingSpec, Variance
from .cli_common import (
    DeviceOption,
    DownloadOption,
    JsonOption,
    OverwriteOption,
    run_job,
)
from .cli_training_options import (
    BatchSizeOption,
    EncoderOption,
    EpochsOption,
    FovOption,
    PlaneOption,
    PresetOption,
    SizeOption,
)
from .training_request import DEFAULT_PRESET

if TYPE_CHECKING:
    from .events import EventReporter

EPILOG = (
    "Example: spatial-ar-anomaly train normals/*.nii.gz --out brain-t1 "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --allow-download"
)


def train(
    normals: Annotated[
        list[Path],
        typer.Argument(
            metavar="NORMAL...",
            help="Normal scans: NIfTI, NRRD or MHA files, folders of them, DICOM series folders.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The model file to write (NAME.safetensors).")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model.  [default: the file's]")
    ] = None,
    modality: Annotated[
        Modality | None,
        typer.Option("--modality", help="What the scans are.  [default: what they look like]"),
    ] = None,
    plane: PlaneOption = Plane.AXIAL,
    preset: PresetOption = DEFAULT_PRESET,
    variance: Annotated[
        Variance | None,
        typer.Option(
            "--variance",
            help="One variance for all channels, one each, or their full covariance.  "
            "[default: the preset's]",
        ),
    ] = None,
    encoder: EncoderOption = DEMONSTRATION,
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision",
            help="How the encoder multiplies, in training and detection.  "
            "[default: bfloat16 where the device has units for it]",
        ),
    ] = None,
    fov_mm: FovOption = None,
    size_px: SizeOption = 448,
    window_hu: Annotated[
        tuple[float, float] | None,
        typer.Option("--window-hu", help="CT window, low and high.  [default: -160 240]"),
    ] = None,
    epochs: EpochsOption = TrainingSpec.epochs,
    batch_size: BatchSizeOption = TrainingSpec.batch_size,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Of AdamW, constant.")
    ] = TrainingSpec.learning_rate,
    held_out_share: Annotated[
        float,
        typer.Option(
            "--held-out-share", help="Share of the scans kept for selection and calibration."
        ),
    ] = TrainingSpec.held_out_share,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = TrainingSpec.seed,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Discard an unfinished training instead of resuming it."),
    ] = False,
    skip_unusable: Annotated[
        bool,
        typer.Option(
            "--skip-unusable",
            help="Look through folders with all that is below them, leave out what does not suit "
            "the other scans, and say why.",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn what is normal from normal scans. Repeat an interrupted command to resume it."""

    def job(report: "EventReporter") -> Any:
        from .train_job import train as run
        from .training_request import TrainSpec

        spec = TrainSpec(
            name=name,
            modality=modality,
            plane=plane,
            fov_mm=fov_mm,
            size_px=size_px,
            window_hu=window_hu,
            encoder=encoder,
            precision=precision,
            preset=preset,
            variance=variance,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            held_out_share=held_out_share,
            seed=seed,
            device=device,
            allow_download=allow_download,
            overwrite=overwrite,
            restart=restart,
        )
        found: Sequence[Any] = normals
        if skip_unusable:
            from ..engine.model_store import check_free
            from .usable_normals import usable_normals

            check_free(out.absolute(), overwrite)  # before an archive is read for an hour
            found, spec = usable_normals(normals, spec, report)
        return run(spec.request(found, out), report)

    def as_result(card: Any) -> dict[str, Any]:
        from .train_job import as_result

        return as_result(card)

    def show(card: Any) -> None:
        from .tables import print_card

        print_card(card)

    run_job(job, as_result, show, as_json=as_json, device=device)
