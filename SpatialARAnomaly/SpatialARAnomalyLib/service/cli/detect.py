"""The command `detect`."""

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

EPILOG = "Example: spatial-ar-anomaly detect scan.nii.gz --model brain-t1 --out results"


def detect(
    input_: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A NIfTI, NRRD or MHA file, or a DICOM folder."),
    ],
    model: ModelOption,
    out: ResultsOption,
    series: Annotated[
        str | None, typer.Option("--series", help="DICOM series number or UID to take.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the results.  [default: the input's]")
    ] = None,
    encoder: ModelEncoderOption = None,
    false_positive_rate: FalsePositiveRateOption = FindingsSpec.false_positive_rate,
    min_volume_ml: MinVolumeOption = FindingsSpec.min_volume_ml,
    allow_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-mismatch", help="Score a scan of other modality, spacing or size all the same."
        ),
    ] = False,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find what does not look normal in a scan.

    Writes the NLL volume, a segmentation, a label map, the findings as CSV, a
    review picture and a manifest (run.json).
    """

    def job(report: "EventReporter") -> Any:
        from SpatialARAnomalyLib.service.detection.result_files import (
            DetectRequest,
            detect_to_files,
        )

        request = DetectRequest(
            input=input_,
            model=model,
            out=out,
            series=series,
            name=name,
            encoder=encoder,
            findings=FindingsSpec(
                false_positive_rate=false_positive_rate, min_volume_ml=min_volume_ml
            ),
            device=device,
            allow_download=allow_download,
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
        )
        return detect_to_files(request, report)

    def as_result(outcome: Any) -> dict[str, Any]:
        from SpatialARAnomalyLib.service.detection.result_files import as_result

        return as_result(*outcome)

    def show(outcome: Any) -> None:
        from SpatialARAnomalyLib.service.cli.tables import print_detection

        print_detection(*outcome)

    run_job(job, as_result, show, as_json=as_json, device=device)
