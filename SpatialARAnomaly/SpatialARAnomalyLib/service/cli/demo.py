"""The command `demo`."""

from pathlib import Path
from typing import Annotated

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.service.cli.common import (
    DeviceOption,
    JsonOption,
    Outcome,
    OverwriteOption,
    run_job,
)
from SpatialARAnomalyLib.service.events import EventReporter

EPILOG = "Example: spatial-ar-anomaly demo --out my-demo"


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="The folder for volumes, model and results.")
    ] = Path("spatial-ar-anomaly-demo"),
    seed: Annotated[int, typer.Option("--seed", help="Seed of the anatomy and the lesion.")] = 1,
    device: DeviceOption = Device.AUTO,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on generated normal heads, then find a lesion: the whole program in minutes."""

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.demo.demo import run_demo
        from SpatialARAnomalyLib.service.detection.result_files import as_result

        outcome = run_demo(out, seed, device, overwrite, report)

        def show() -> None:
            from SpatialARAnomalyLib.service.cli.tables import print_demo

            print_demo(outcome)

        return as_result(outcome.detection, outcome.files) | {"dice": outcome.dice}, show

    run_job(job, as_json=as_json, device=device)
