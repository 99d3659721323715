"""The command `demo`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.service.cli.common import (
    DeviceOption,
    JsonOption,
    OverwriteOption,
    run_job,
)

if TYPE_CHECKING:
    from SpatialARAnomalyLib.service.events import EventReporter

EPILOG = "Example: spatial-ar-anomaly demo --out my-demo"


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="The folder for volumes, model and results.")
    ] = Path("spatial-ar-anomaly-demo"),
    seed: Annotated[int, typer.Option("--seed", help="Of the anatomy and the lesion.")] = 1,
    device: DeviceOption = Device.AUTO,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on seeded normal anatomy, then find a lesion: the whole program in minutes."""

    def job(report: "EventReporter") -> Any:
        from SpatialARAnomalyLib.service.demo.demo import run_demo

        return run_demo(out, seed, device, overwrite, report)

    def as_result(outcome: Any) -> dict[str, Any]:
        from SpatialARAnomalyLib.service.detection.result_files import as_result

        return as_result(outcome.detection, outcome.files) | {"dice": outcome.dice}

    def show(outcome: Any) -> None:
        from SpatialARAnomalyLib.service.cli.tables import print_demo

        print_demo(outcome)

    run_job(job, as_result, show, as_json=as_json, device=device)
