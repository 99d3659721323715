"""The command `evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.service.cli.common import (
    DeviceOption,
    DownloadOption,
    FalsePositiveRateOption,
    JsonOption,
    MinVolumeOption,
    ModelEncoderOption,
    ModelOption,
    OverwriteOption,
    ResultsOption,
    run_job,
)

if TYPE_CHECKING:
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
    encoder: ModelEncoderOption = None,
    false_positive_rate: FalsePositiveRateOption = FindingsSpec.false_positive_rate,
    min_volume_ml: MinVolumeOption = FindingsSpec.min_volume_ml,
    resamples: Annotated[
        int,
        typer.Option("--resamples", help="Draws of patients for the intervals; 0 for none."),
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
    allow_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-mismatch", help="Score scans of other modality, spacing or size all the same."
        ),
    ] = False,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure how well a model finds lesions that are known.

    Writes all figures (evaluation.json), tables of metrics, cases and curves
    as CSV, and a picture of the curves; plain intensity stands beside the model.
    """

    def job(report: "EventReporter") -> Any:
        from SpatialARAnomalyLib.service.evaluation.evaluate import EvaluateRequest
        from SpatialARAnomalyLib.service.evaluation.evaluate import evaluate as run

        request = EvaluateRequest(
            cases=cases,
            model=model,
            out=out,
            encoder=encoder,
            findings=FindingsSpec(
                false_positive_rate=false_positive_rate, min_volume_ml=min_volume_ml
            ),
            resamples=resamples,
            seed=seed,
            device=device,
            allow_download=allow_download,
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
        )
        return run(request, report)

    def as_result(outcome: Any) -> dict[str, Any]:
        from SpatialARAnomalyLib.service.evaluation.files import as_result

        return as_result(*outcome)

    def show(outcome: Any) -> None:
        from SpatialARAnomalyLib.service.cli.tables import print_evaluation

        print_evaluation(*outcome)

    run_job(job, as_result, show, as_json=as_json, device=device)
