"""The command `normals`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.device import Device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.specs import Modality, Plane, TrainingSpec
from .cli_common import DeviceOption, JsonOption, run_job
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

EPILOG = "Example: spatial-ar-anomaly normals archive/healthy --size-px 448 --epochs 40"


def normals(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER...",
            help="Folders, looked through with all that is below them, or volume files.",
        ),
    ],
    modality: Annotated[
        Modality | None,
        typer.Option("--modality", help="What the scans are.  [default: what most are]"),
    ] = None,
    plane: PlaneOption = Plane.AXIAL,
    preset: PresetOption = DEFAULT_PRESET,
    encoder: EncoderOption = DEMONSTRATION,
    fov_mm: FovOption = None,
    size_px: SizeOption = 448,
    epochs: EpochsOption = TrainingSpec.epochs,
    batch_size: BatchSizeOption = TrainingSpec.batch_size,
    device: DeviceOption = Device.AUTO,
    as_json: JsonOption = False,
) -> None:
    """Show which scans a training could use, why not the others, and what it would take."""

    def job(report: "EventReporter") -> Any:
        from .worker_survey import SurveySpec, look_at

        spec = SurveySpec(
            modality=modality,
            plane=plane,
            fov_mm=fov_mm,
            size_px=size_px,
            encoder=encoder,
            preset=preset,
            epochs=epochs,
            batch_size=batch_size,
            device=device,
        )
        return look_at(folders, [], spec, Path.cwd(), report)

    def as_result(outcome: Any) -> dict[str, Any]:
        result: dict[str, Any] = outcome.to_dict()
        return result

    def show(outcome: Any) -> None:
        from .tables import print_survey

        print_survey(outcome)

    run_job(job, as_result, show, as_json=as_json, device=device)
