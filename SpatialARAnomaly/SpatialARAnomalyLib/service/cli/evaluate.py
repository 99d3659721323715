"""The command `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.specs import EvaluationSpec
from SpatialARAnomalyLib.service.cli.common import (
    DeviceOption,
    DownloadOption,
    FalsePositiveRateOption,
    JobsOption,
    JsonOption,
    MinVolumeOption,
    MismatchOption,
    ModelEncoderOption,
    ModelOption,
    OrientationOption,
    Outcome,
    OverwriteOption,
    ResultsOption,
    SchedulerOption,
    WorkerMemoryOption,
    run_job,
)
from SpatialARAnomalyLib.service.events import EventReporter

EPILOG = "Example: spatial-ar-anomaly evaluate cases.csv --model brain-t1 --out evaluation"


def evaluate(
    cases: Annotated[
        Path,
        typer.Argument(
            metavar="CASES",
            help="A CSV with the columns scan, truth and patient, or a folder with X.nii.gz "
            "and X_truth.nii.gz; without a truth a scan is normal.",
        ),
    ],
    model: ModelOption,
    out: ResultsOption,
    orientation: OrientationOption = None,
    encoder: ModelEncoderOption = None,
    false_positive_rate: FalsePositiveRateOption = EvaluationSpec.false_positive_rate,
    min_volume_ml: MinVolumeOption = EvaluationSpec.min_volume_ml,
    resamples: Annotated[
        int,
        typer.Option(
            "--resamples", help="Bootstrap draws of patients for the intervals; 0 for none."
        ),
    ] = EvaluationSpec.resamples,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = EvaluationSpec.seed,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Also write each scan's NLL volume and review picture."),
    ] = False,
    allow_mismatch: MismatchOption = False,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 1,
    scheduler: SchedulerOption = None,
    worker_memory: WorkerMemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model finds known lesions, beside plain intensity as a baseline.

    Writes all figures (evaluation.json), tables of metrics, cases and curves
    as CSV, and a picture of the curves.
    """

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.batch.choose import choose_place
        from SpatialARAnomalyLib.service.evaluation.files import (
            EvaluateRequest,
            as_result,
            evaluate_to_files,
        )

        request = EvaluateRequest(
            cases=cases,
            model=model,
            out=out,
            orientation=orientation,
            encoder=encoder,
            spec=EvaluationSpec(
                false_positive_rate=false_positive_rate,
                min_volume_ml=min_volume_ml,
                resamples=resamples,
                seed=seed,
            ),
            keep=keep,
            device=device,
            allow_download=allow_download,
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
        )
        evaluated, files = evaluate_to_files(
            request, report, choose_place(jobs, scheduler, worker_memory)
        )

        def show() -> None:
            from SpatialARAnomalyLib.service.cli.tables import print_evaluation

            print_evaluation(evaluated, files)

        return as_result(evaluated, files), show

    run_job(job, as_json=as_json, device=device)
