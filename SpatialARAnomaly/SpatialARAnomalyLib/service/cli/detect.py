"""The command `detect`."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from SpatialARAnomalyLib.engine.errors import SpecError
from SpatialARAnomalyLib.service.cli.common import (
    EXIT_INCOMPLETE,
    DownloadOption,
    JobsOption,
    JsonOption,
    ModelOption,
    OrientationOption,
    Outcome,
    OverwriteOption,
    ResultsOption,
    SchedulerOption,
    WorkerMemoryOption,
    run_job,
    with_results_options,
)
from SpatialARAnomalyLib.service.events import EventReporter
from SpatialARAnomalyLib.service.pacs.address import is_pacs_address, parse_address

EPILOG = (
    "Example: spatial-ar-anomaly detect scan.nii.gz --model brain-t1 --out results. "
    "Many scans: spatial-ar-anomaly detect archive/ --model brain-t1 --out results --jobs 4"
)


@with_results_options
def detect(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="A NIfTI, NRRD, MHA or DICOM file, or a DICOM folder; or several of them, folders "
            "of scans, a CSV with the column scan; or a series in a PACS (dicomweb://…).",
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
    store: Annotated[
        bool, typer.Option("--store", help="Store the DICOM results in the PACS of the scan.")
    ] = False,
    overwrite: OverwriteOption = False,
    jobs: JobsOption = 1,
    scheduler: SchedulerOption = None,
    worker_memory: WorkerMemoryOption = None,
    as_json: JsonOption = False,
    **options: Any,
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
        from SpatialARAnomalyLib.service.pacs.client import Pacs
        from SpatialARAnomalyLib.service.pacs.scans import fetched_scan, store_results
        from SpatialARAnomalyLib.service.scans import ScanSource, find_one_scan

        spec = ResultsSpec(
            **options,
            model=model,
            name=name,
            allow_download=allow_download,
            overwrite=overwrite,
            report=report,
            title=title,
            dicom=dicom or store,
        )
        if spec.dicom:
            require_dicom_packages()
        from_pacs = is_pacs_address(inputs[0])
        if store and not from_pacs:
            raise SpecError("spec-value", "--store is for a scan in a PACS.")
        if from_pacs and len(inputs) > 1:
            raise SpecError("spec-value", "An address in a PACS must be the only input.")
        paths = [Path(one) for one in inputs]
        of_one = [option is not None for option in (series, mask, name)]
        if len(inputs) > 1 and any(of_one):
            raise SpecError("spec-value", "--series, --mask and --name are for one scan.")
        found = None if any(of_one) or from_pacs else find_batch(paths, report_)
        if found is not None:
            source = ScanSource(
                path=paths[0], volume=volume, allow_gaps=allow_gaps, orientation=orientation
            )
            batch = detect_batch(
                paths,
                found,
                source,
                spec,
                out,
                choose_place(jobs, scheduler, worker_memory),
                report_,
            )
            complete = batch.is_complete
            return batch.as_result(), lambda: print_batch(batch)
        pacs = Pacs(parse_address(inputs[0]), report_) if from_pacs else None
        with nullcontext(paths[0]) if pacs is None else fetched_scan(pacs, series, report_) as path:
            source = dataclasses.replace(
                find_one_scan(path, series, mask, report_.check_cancelled),
                volume=volume,
                allow_gaps=allow_gaps,
                orientation=orientation,
            )
            detection, files = detect_to_files(source, spec, out, report_)
        result = as_result(detection, files)
        if pacs is not None and store:
            result |= {"pacs": store_results(pacs, files, report_)}
        return result, lambda: print_detection(detection, files)

    run_job(job, as_json=as_json, device=options["device"])
    if not complete:
        raise typer.Exit(EXIT_INCOMPLETE)
