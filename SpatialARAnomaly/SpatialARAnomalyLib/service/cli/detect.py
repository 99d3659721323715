"""The command `detect`."""

from pathlib import Path
from typing import Annotated

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.service.cli.common import (
    DeviceOption,
    DownloadOption,
    FalsePositiveRateOption,
    JsonOption,
    MinVolumeOption,
    MismatchOption,
    ModelEncoderOption,
    ModelOption,
    OrientationOption,
    Outcome,
    OverwriteOption,
    RefineOption,
    ResultsOption,
    run_job,
)
from SpatialARAnomalyLib.service.events import EventReporter

EPILOG = "Example: spatial-ar-anomaly detect scan.nii.gz --model brain-t1 --out results"


def detect(
    input_: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="A NIfTI, NRRD, MHA or DICOM file, or a DICOM folder."
        ),
    ],
    model: ModelOption,
    out: ResultsOption,
    series: Annotated[
        str | None, typer.Option("--series", help="Number or UID of a DICOM series in the folder.")
    ] = None,
    volume: Annotated[
        int | None,
        typer.Option(
            "--volume", min=1, help="Number of the volume, where there are several (times, echoes)."
        ),
    ] = None,
    allow_gaps: Annotated[
        bool, typer.Option("--allow-gaps", help="Score a series in which a few slices are missing.")
    ] = False,
    orientation: OrientationOption = None,
    mask: Annotated[
        Path | None,
        typer.Option("--mask", help="A label map of where to look: any label counts."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the results.  [default: the input's]")
    ] = None,
    encoder: ModelEncoderOption = None,
    false_positive_rate: FalsePositiveRateOption = FindingsSpec.false_positive_rate,
    min_volume_ml: MinVolumeOption = FindingsSpec.min_volume_ml,
    refine_outlines: RefineOption = FindingsSpec.refine_outlines,
    allow_mismatch: MismatchOption = False,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also write a report (one HTML file).")
    ] = False,
    title: Annotated[
        str,
        typer.Option("--title", help="Title of the report, which else names no scan or patient."),
    ] = "",
    dicom: Annotated[
        bool,
        typer.Option(
            "--dicom", help="Also write SEG, Parametric Map, Secondary Capture and report (SR)."
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find what does not look normal in a scan.

    Writes the NLL volume, a segmentation, a label map, the findings as CSV, a
    review picture and a manifest (run.json).
    """

    def job(reporter: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.detection.result_files import (
            DetectRequest,
            as_result,
            detect_to_files,
        )

        request = DetectRequest(
            input=input_,
            model=model,
            out=out,
            series=series,
            volume=volume,
            allow_gaps=allow_gaps,
            orientation=orientation,
            mask=mask,
            name=name,
            encoder=encoder,
            findings=FindingsSpec(
                false_positive_rate=false_positive_rate,
                min_volume_ml=min_volume_ml,
                refine_outlines=refine_outlines,
            ),
            device=device,
            allow_download=allow_download,
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
            report=report,
            title=title,
            dicom=dicom,
        )
        detection, files = detect_to_files(request, reporter)

        def show() -> None:
            from SpatialARAnomalyLib.service.cli.tables import print_detection

            print_detection(detection, files)

        return as_result(detection, files), show

    run_job(job, as_json=as_json, device=device)
