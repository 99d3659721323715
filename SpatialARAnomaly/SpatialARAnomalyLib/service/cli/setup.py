"""The commands `doctor`, `offline-kit` and `install-offline`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import (
    SetupError,
    SpatialARError,
)
from SpatialARAnomalyLib.service.cli.common import (
    EXIT_BAD_INPUT,
    JsonOption,
    fail,
    run_job,
)

if TYPE_CHECKING:
    from SpatialARAnomalyLib.service.events import EventReporter
    from SpatialARAnomalyLib.service.setup.kit_manifest import KitManifest

DOCTOR_EPILOG = (
    "Exit codes: 0 all is well · 2 something is wrong; each line says what to do. "
    "Asks no other machine."
)
KIT_EPILOG = (
    "Example: spatial-ar-anomaly offline-kit D:/kit --platform win_amd64 --cuda cu126 "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --accept-license"
)
OFFLINE_EPILOG = "Example: spatial-ar-anomaly install-offline /media/usb/kit"


def doctor(as_json: JsonOption = False) -> None:
    """Say what is installed and working here, and what to do about the rest."""
    import json

    from SpatialARAnomalyLib.service.setup.doctor import diagnose

    diagnosis = diagnose()
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
        str, typer.Option("--python-version", help="Its Python; Slicer 5.12's is 3.12.")
    ] = "3.12",
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
            help="What the other machine has and keeps, as its 'pip freeze' lists it; "
            "by default what Slicer 5.12 brings.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Collect packages and weights for a machine without internet; repeat it to go on."""
    from SpatialARAnomalyLib.service.encoders import dinov3_license
    from SpatialARAnomalyLib.service.setup.kit import (
        TORCH_INDEX,
        KitSpec,
        make_kit,
    )
    from SpatialARAnomalyLib.service.setup.packages import read_constraints

    if cpu and cuda:
        fail(SetupError("kit-build", "Give either --cpu or --cuda, not both."))
    if encoder:
        try:
            if accept_license:
                dinov3_license.accept()
            dinov3_license.require_accepted()
        except SpatialARError as error:
            fail(error)

    def job(report: "EventReporter") -> "KitManifest":
        held = None
        if constraints is not None:
            held = read_constraints(constraints)
        spec = KitSpec(
            platform=platform,
            python_version=python_version,
            build="cpu" if cpu else cuda or None,
            torch_index=torch_index or TORCH_INDEX,
            encoders=tuple(encoder or ()),
        )
        return make_kit(folder, spec, report, held=held)

    def show(manifest: "KitManifest") -> None:
        from SpatialARAnomalyLib.service.text import size_text

        size = size_text(manifest.size_bytes)
        print(f"{folder}: {len(manifest.wheels)} packages, {size}.")

    run_job(job, _kit_result, show, as_json=as_json, device=Device.CPU)


def _kit_result(manifest: "KitManifest") -> dict[str, Any]:
    result = manifest.to_dict()
    del result["files"]
    return result | {"size_bytes": manifest.size_bytes}


def install_offline(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The kit.")],
    as_json: JsonOption = False,
) -> None:
    """Install packages and weights of an offline kit into this Python, after checking each file."""

    def job(report: "EventReporter") -> tuple[str, ...]:
        from SpatialARAnomalyLib.service.setup.kit import install_kit

        return install_kit(folder, report)

    def show(encoders: tuple[str, ...]) -> None:
        print("The packages are installed.")
        for hub_id in encoders:
            print(f"Weights: {hub_id}")

    run_job(
        job,
        lambda encoders: {"encoders": list(encoders)},
        show,
        as_json=as_json,
        device=Device.CPU,
    )
