"""The command `normals`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.device import Device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.specs import Modality, Plane, Preset, TrainingSpec
from .cli_common import ENCODER_HELP, DeviceOption, JsonOption, run_job

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
    plane: Annotated[Plane, typer.Option("--plane", help="Plane of the slices.")] = Plane.AXIAL,
    preset: Annotated[
        Preset,
        typer.Option("--preset", help="The paper's network: dilation 1 (standard) or 4 (dilated)."),
    ] = Preset.STANDARD,
    encoder: Annotated[str, typer.Option("--encoder", help=ENCODER_HELP)] = DEMONSTRATION,
    fov_mm: Annotated[
        float | None,
        typer.Option("--fov-mm", help="Side of a slice in mm.  [default: 1.1 × the largest body]"),
    ] = None,
    size_px: Annotated[int, typer.Option("--size-px", help="Side of a slice in pixels.")] = 448,
    epochs: Annotated[
        int, typer.Option("--epochs", help="Passes over the slices.")
    ] = TrainingSpec.epochs,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Slices per step.")
    ] = TrainingSpec.batch_size,
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
