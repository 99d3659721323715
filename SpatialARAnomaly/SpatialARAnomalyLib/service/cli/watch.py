"""The command `watch`."""

from typing import Annotated, Any

import typer

from SpatialARAnomalyLib.service.cli.common import (
    JobsOption,
    JsonOption,
    ModelOption,
    Outcome,
    ResultsOption,
    SchedulerOption,
    WorkerMemoryOption,
    run_job,
    with_results_options,
)
from SpatialARAnomalyLib.service.events import EventReporter
from SpatialARAnomalyLib.service.pacs.address import EVERY_S, parse_address

EPILOG = (
    "Example: spatial-ar-anomaly watch 'dicomweb://pacs/dicom-web?Modality=MR' --days 1 "
    "--model brain-t1 --out night --store"
)


@with_results_options
def watch(
    address: Annotated[
        str, typer.Argument(metavar="ADDRESS", help="A PACS and a query: dicomweb://…?Modality=MR")
    ],
    model: ModelOption,
    out: ResultsOption,
    store: Annotated[
        bool, typer.Option("--store", help="Store the DICOM results in the PACS.")
    ] = False,
    days: Annotated[
        int | None,
        typer.Option("--days", min=1, help="Only studies of the last days; 1 for today's."),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when what is there is done (for cron).")
    ] = False,
    every_s: Annotated[
        int, typer.Option("--every", min=1, help="Seconds from one query to the next.")
    ] = EVERY_S,
    jobs: JobsOption = 1,
    scheduler: SchedulerOption = None,
    worker_memory: WorkerMemoryOption = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Process the series of a PACS that a query finds, and new ones as they come.

    Each is processed once, also when the watch is killed and started again. Ctrl-C or
    SIGTERM ends it after the series at hand.
    """

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.batch.choose import choose_place
        from SpatialARAnomalyLib.service.detection.result_files import ResultsSpec
        from SpatialARAnomalyLib.service.pacs.watch import WatchRequest
        from SpatialARAnomalyLib.service.pacs.watch import watch as watch_pacs

        spec = ResultsSpec(
            **options,
            model=model,
            dicom=store,
        )
        counts = watch_pacs(
            WatchRequest(
                address=parse_address(address),
                spec=spec,
                out=out,
                store=store,
                days=days,
                once=once,
                every_s=every_s,
                place=choose_place(jobs, scheduler, worker_memory),
            ),
            report,
        )
        text = ", ".join(f"{number} {state}" for state, number in counts.items())
        return dict(counts), lambda: print(f"Series: {text}")

    run_job(job, as_json=as_json, device=options["device"])
