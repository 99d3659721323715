"""The command `detect`."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.engine.specs import FindingsSpec
from SpatialARAnomalyLib.service.cli.common import (
    EXIT_INCOMPLETE,
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
    RefineOption,
    ResultsOption,
    SchedulerOption,
    WorkerMemoryOption,
    run_job,
)
from SpatialARAnomalyLib.service.events import EventReporter

EPILOG = (
    "Example: spatial-ar-anomaly detect scan.nii.gz --model brain-t1 --out results. "
    "Many scans: spatial-ar-anomaly detect archive/ --model brain-t1 --out results --jobs 4"
)


def detect(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="A NIfTI, NRRD, MHA or DICOM file, or a DICOM folder; or several of them, folders "
            "of scans, a CSV with the column scan.",
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
    jobs: JobsOption = 1,
    scheduler: SchedulerOption = None,
    worker_memory: WorkerMemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what does not look normal in a scan, or in each of many.

    Writes the NLL volume, a segmentation, a label map, the findings as CSV, a
    review picture and a manifest (run.json); of many scans in a folder each, with a
    table of all (status.csv). Repeat an interrupted command to resume it.
    """
    complete = True

    def job(report_: EventReporter) -> Outcome:
        nonlocal complete
        from SpatialARAnomalyLib.service.batch.choose import choose_place
        from SpatialARAnomalyLib.service.cli.tables import print_batch, print_detection
        from SpatialARAnomalyLib.service.detection.detect_many import detect_batch, find_batch
        from SpatialARAnomalyLib.service.detection.dicom_source import require_dicom_packages
        from SpatialARAnomalyLib.service.detection.result_files import (
            ResultsSpec,
            as_result,
            detect_to_files,
        )
        from SpatialARAnomalyLib.service.scans import ScanSource, find_one_scan

        spec = ResultsSpec(
            model=model,
            name=name,
            encoder=encoder,
            false_positive_rate=false_positive_rate,
            min_volume_ml=min_volume_ml,
            refine_outlines=refine_outlines,
            device=device,
            allow_download=allow_download,
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
            report=report,
            title=title,
            dicom=dicom,
        )
        if dicom:
            require_dicom_packages()
        of_one = [option is not None for option in (series, mask, name)]
        if len(inputs) > 1 and any(of_one):
            raise SpecError("spec-value", "--series, --mask and --name are for one scan.")
        found = None if any(of_one) else find_batch(inputs, report_)
        if found is not None:
            source = ScanSource(
                path=inputs[0], volume=volume, allow_gaps=allow_gaps, orientation=orientation
            )
            batch = detect_batch(
                inputs,
                found,
                source,
                spec,
                out,
                choose_place(jobs, scheduler, worker_memory),
                report_,
            )
            complete = batch.is_complete
            return batch.as_result(), lambda: print_batch(batch)
        source = dataclasses.replace(
            find_one_scan(inputs[0], series, mask, report_.check_cancelled),
            volume=volume,
            allow_gaps=allow_gaps,
            orientation=orientation,
        )
        detection, files = detect_to_files(source, spec, out, report_)
        return as_result(detection, files), lambda: print_detection(detection, files)

    run_job(job, as_json=as_json, device=device)
    if not complete:
        raise typer.Exit(EXIT_INCOMPLETE)
