"""The commands `doctor`, `offline-kit` and `install-offline`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import SetupError
from SpatialARAnomalyLib.service.cli.common import (
    EXIT_BAD_INPUT,
    JsonOption,
    Outcome,
    exit_on_error,
    fail,
    run_job,
)
from SpatialARAnomalyLib.service.events import EventReporter

DOCTOR_EPILOG = (
    "Exit codes: 0 all is ok · 2 something is wrong; each line says what to do. "
    "Does not access the network."
)
KIT_EPILOG = (
    "Example: spatial-ar-anomaly offline-kit D:/kit --platform win_amd64 --cuda cu126 "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --accept-license"
)
OFFLINE_EPILOG = "Example: spatial-ar-anomaly install-offline /media/usb/kit"


def doctor(
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            help="Write what maintainers need to help you: no images, names or paths.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file of the report's name.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check what is installed and working here, and say how to fix the rest."""
    from SpatialARAnomalyLib.service.setup.doctor import diagnose

    diagnosis = diagnose()
    if report is not None:
        from SpatialARAnomalyLib.service.setup.report import write_report

        with exit_on_error():
            write_report(report, diagnosis, overwrite=overwrite)
        print(f"Written: {report}", file=sys.stderr)
    if as_json:
        print(json.dumps({"ok": diagnosis.ok} | diagnosis.to_dict()))
    else:
        from SpatialARAnomalyLib.service.cli.tables import print_diagnosis

        print_diagnosis(diagnosis)
    if not diagnosis.ok:
        raise typer.Exit(EXIT_BAD_INPUT)


def offline_kit(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The kit; must not exist yet.")],
    platform: Annotated[
        str,
        typer.Option(
            "--platform",
            help="The other machine, as pip calls it: win_amd64, manylinux_2_28_x86_64, "
            "macosx_14_0_arm64.",
        ),
    ],
    python_version: Annotated[
        str, typer.Option("--python-version", help="Its Python; by default that of Slicer 5.12.")
    ] = "",
    cpu: Annotated[bool, typer.Option("--cpu", help="torch without CUDA.")] = False,
    cuda: Annotated[
        str, typer.Option("--cuda", metavar="BUILD", help="torch for CUDA: cu126, cu128, …")
    ] = "",
    torch_index: Annotated[
        str, typer.Option("--torch-index", help="A mirror of PyTorch's own package index.")
    ] = "",
    encoder: Annotated[
        list[str] | None,
        typer.Option("--encoder", metavar="ID", help="Weights of the hub; repeat for more."),
    ] = None,
    accept_license: Annotated[
        bool,
        typer.Option(
            "--accept-license", help="You accept the license of the weights (DINOv3 License)."
        ),
    ] = False,
    constraints: Annotated[
        Path | None,
        typer.Option(
            "--constraints",
            exists=True,
            dir_okay=False,
            help="Packages that the other machine has and keeps, as 'pip freeze --all' lists them; "
            "by default those of Slicer 5.12.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Collect packages and weights for a machine without internet; repeat it to resume."""
    from SpatialARAnomalyLib.service.encoders import dinov3_license

    if cpu and cuda:
        fail(SetupError("kit-build", "Either a CPU build or a CUDA build is possible, not both."))
    if encoder:
        with exit_on_error():
            if accept_license:
                dinov3_license.accept()
            dinov3_license.require_accepted()

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.setup import kit
        from SpatialARAnomalyLib.service.setup.packages import read_constraints
        from SpatialARAnomalyLib.service.text import size_text

        held = kit.SLICER_5_12 if constraints is None else read_constraints(constraints)
        spec = kit.KitSpec(
            platform=platform,
            python_version=python_version or kit.SLICER_PYTHON,
            build="cpu" if cpu else cuda or None,
            torch_index=torch_index or kit.TORCH_INDEX,
            encoders=tuple(encoder or ()),
        )
        manifest = kit.make_kit(folder, spec, report, held=held)
        result = manifest.to_dict() | {"size_bytes": manifest.size_bytes}
        del result["files"]
        text = f"{folder}: {len(manifest.wheels)} packages, {size_text(manifest.size_bytes)}."
        return result, lambda: print(text)

    run_job(job, as_json=as_json, device=Device.CPU)


def install_offline(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The kit.")],
    as_json: JsonOption = False,
) -> None:
    """Install packages and weights of an offline kit into this Python, after checking each file."""

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.setup.kit import install_kit

        encoders = install_kit(folder, report)
        lines = ["The packages are installed.", *(f"Weights: {hub_id}" for hub_id in encoders)]
        return {"encoders": list(encoders)}, lambda: print("\n".join(lines))

    run_job(job, as_json=as_json, device=Device.CPU)
