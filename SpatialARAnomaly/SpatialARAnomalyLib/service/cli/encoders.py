"""The commands `encoders …`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import SpatialARError
from SpatialARAnomalyLib.engine.specs import SliceSpec
from SpatialARAnomalyLib.service.cli.common import (
    ENCODER_HELP,
    DeviceOption,
    DownloadOption,
    JsonOption,
    fail,
    run_job,
)
from SpatialARAnomalyLib.service.encoders.catalog import (
    DEFAULT_ID,
    LICENSE,
)

if TYPE_CHECKING:
    from SpatialARAnomalyLib.service.events import EventReporter

app = typer.Typer(
    help="Get, list, check and remove the encoders that embed slices.", no_args_is_help=True
)

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help=ENCODER_HELP)]


@app.command("list")
def encoders_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the encoders that can be had and those on this machine; asks no network."""
    import json

    from SpatialARAnomalyLib.service.encoders.library import list_encoders

    entries = list_encoders()
    if as_json:
        print(json.dumps([entry.to_dict() for entry in entries], indent=1))
    else:
        from SpatialARAnomalyLib.service.cli.tables import print_encoders

        print_encoders(entries)


@app.command("get")
def encoders_get(
    hub_id: Annotated[str, typer.Argument(metavar="HUB_ID", help="Its id at the hub.")] = (
        DEFAULT_ID
    ),
    license_accepted: Annotated[
        bool,
        typer.Option(
            "--accept-license",
            help="You have read and accept the DINOv3 License (for scripts; remembered).",
        ),
    ] = False,
    token_stdin: Annotated[
        bool,
        typer.Option(
            "--token-stdin",
            help="Read the token of your account at the hub from the first line of standard "
            "input (gated weights). Without it the hub's own login is used (hf auth login).",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Download an encoder into the hub's cache.

    Shows the license of the weights and asks, the first time. Weights that are on this machine
    are not downloaded again; a download that broke off starts again.
    """
    from SpatialARAnomalyLib.service.encoders.catalog import is_local

    token = sys.stdin.readline().strip() if token_stdin else None
    if license_accepted:
        _accept_license()
    elif not (as_json or token_stdin or is_local(hub_id)):
        _ask_for_license()

    def job(report: "EventReporter") -> Path:
        from SpatialARAnomalyLib.service.encoders.library import get_encoder

        return get_encoder(hub_id, report, token)

    def as_result(folder: Path) -> dict[str, Any]:
        return {"source": hub_id, "revision": folder.name}

    def show(folder: Path) -> None:
        print(f"{hub_id} is on this machine (revision {folder.name[:12]}…).")

    run_job(job, as_result, show, as_json=as_json, device=Device.AUTO)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _accept_license() -> None:
    from SpatialARAnomalyLib.service.encoders import dinov3_license

    try:
        dinov3_license.accept()
    except SpatialARError as error:
        fail(error)


def _ask_for_license() -> None:
    """Let a person at a terminal read and accept; without an answer nothing is downloaded."""
    from SpatialARAnomalyLib.service.encoders import dinov3_license

    if dinov3_license.is_accepted() or not _at_terminal():
        return
    print(
        f"DINOv3 weights come under Meta's {LICENSE}. Read it:\n"
        f"  {dinov3_license.license_file()}\n  {dinov3_license.ADDRESS}",
        file=sys.stderr,
    )
    if typer.confirm("Do you accept it?", err=True):
        _accept_license()


@app.command("check")
def encoders_check(
    source: SourceArgument = DEMONSTRATION,
    size_px: Annotated[
        int, typer.Option("--size-px", help="Side of the test slice.")
    ] = SliceSpec.size_px,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Load an encoder, embed a test slice, and say what it is and how fast it is here."""

    def job(report: "EventReporter") -> Any:
        from SpatialARAnomalyLib.service.encoders.library import check_encoder

        return check_encoder(source, size_px, device, allow_download, report)

    def as_result(check: Any) -> dict[str, Any]:
        result: dict[str, Any] = check.to_dict()
        return result

    def show(check: Any) -> None:
        from SpatialARAnomalyLib.service.cli.tables import print_encoder_check

        print_encoder_check(check)

    run_job(job, as_result, show, as_json=as_json, device=device)


@app.command("add")
def encoders_add(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A folder of weights, or a .safetensors file.")
    ],
) -> None:
    """Verify weights of your own and remember where they lie, so that models find them."""
    from SpatialARAnomalyLib.service.encoders.library import add_encoder

    try:
        card = add_encoder(path)
    except SpatialARError as error:
        fail(error)
    print(f"{card.name}: {card.architecture} with {card.parameters:,} parameters; remembered.")


@app.command("remove")
def encoders_remove(
    source: SourceArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove an encoder from the hub's cache; a folder or file of your own is only forgotten."""
    from SpatialARAnomalyLib.service.encoders.library import remove_encoder

    if not yes and _at_terminal() and not typer.confirm(f"Remove {source}?", err=True):
        raise typer.Exit(1)
    try:
        freed = remove_encoder(source)
    except SpatialARError as error:
        fail(error)
    if freed:
        print(f"{source}: removed, {freed / 1e6:,.1f} MB are free again.")
    else:
        print(f"{Path(source).name}: forgotten. Its files are where they were.")
