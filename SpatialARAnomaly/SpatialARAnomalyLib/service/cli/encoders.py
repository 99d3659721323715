"""The commands `encoders …`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from SpatialARAnomalyLib.engine.cards.encoder_card import DEMONSTRATION
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.specs import SliceSpec
from SpatialARAnomalyLib.service.cli.common import (
    ENCODER_HELP,
    DeviceOption,
    DownloadOption,
    JsonOption,
    Outcome,
    confirm_or_exit,
    exit_on_error,
    run_job,
)
from SpatialARAnomalyLib.service.encoders.catalog import DEFAULT_ID
from SpatialARAnomalyLib.service.encoders.dinov3_license import LICENSE
from SpatialARAnomalyLib.service.events import EventReporter

app = typer.Typer(
    help="Get, list, check and remove the encoders that embed slices.", no_args_is_help=True
)

SourceArgument = Annotated[str, typer.Argument(metavar="SOURCE", help=ENCODER_HELP)]


@app.command("list")
def encoders_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the encoders of the hub and of this machine, without network access."""
    from SpatialARAnomalyLib.service.encoders.library import list_encoders

    entries = list_encoders()
    if as_json:
        print(json.dumps([entry.to_dict() for entry in entries], indent=1))
    else:
        from SpatialARAnomalyLib.service.cli.tables import print_encoders

        print_encoders(entries)


@app.command("get")
def encoders_get(
    hub_id: Annotated[str, typer.Argument(metavar="HUB_ID", help="Id on the hub.")] = (DEFAULT_ID),
    license_accepted: Annotated[
        bool,
        typer.Option(
            "--accept-license",
            help="Accept the DINOv3 License, which you have read; it is remembered.",
        ),
    ] = False,
    token_stdin: Annotated[
        bool,
        typer.Option(
            "--token-stdin",
            help="Read your hub account's token from the first line of standard input, for gated "
            "weights; by default the hub's own login is used (hf auth login).",
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Download an encoder into the hub's cache, unless it is there.

    The first time, it shows the license of the weights and asks. A download that broke off
    starts again.
    """
    from SpatialARAnomalyLib.service.encoders.catalog import is_local

    token = sys.stdin.readline().strip() if token_stdin else None
    if license_accepted:
        _accept_license()
    elif not (as_json or token_stdin or is_local(hub_id)):
        _ask_for_license()

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.encoders.loading import hub_folder

        folder = hub_folder(hub_id, allow_download=True, report=report, token=token)
        revision = folder.name
        text = f"{hub_id} is on this machine (revision {revision[:12]}…)."
        return {"source": hub_id, "revision": revision}, lambda: print(text)

    run_job(job, as_json=as_json)


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _accept_license() -> None:
    from SpatialARAnomalyLib.service.encoders import dinov3_license

    with exit_on_error():
        dinov3_license.accept()


def _ask_for_license() -> None:
    """Ask at a terminal to accept the license; `hub_folder` refuses without acceptance."""
    from SpatialARAnomalyLib.service.encoders import dinov3_license

    if dinov3_license.is_accepted() or not _at_terminal():
        return
    print(
        f"DINOv3 weights are under Meta's {LICENSE}. Read it:\n"
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
    """Load an encoder, embed a test slice, and print its card and speed."""

    def job(report: EventReporter) -> Outcome:
        from SpatialARAnomalyLib.service.encoders.library import check_encoder

        check = check_encoder(source, size_px, device, allow_download, report)

        def show() -> None:
            from SpatialARAnomalyLib.service.cli.tables import print_encoder_check

            print_encoder_check(check)

        return check.to_dict(), show

    run_job(job, as_json=as_json, device=device)


@app.command("add")
def encoders_add(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A folder of weights, or a .safetensors file.")
    ],
) -> None:
    """Verify your own weights and remember their place, so that models find them."""
    from SpatialARAnomalyLib.service.encoders.library import add_encoder

    with exit_on_error():
        card = add_encoder(path)
    print(f"{card.name}: {card.architecture} with {card.parameters:,} parameters; remembered.")


@app.command("remove")
def encoders_remove(
    source: SourceArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it without a question.")] = False,
) -> None:
    """Remove an encoder from the hub's cache, or your own weights from the list."""
    from SpatialARAnomalyLib.service.encoders.library import remove_encoder

    if not yes and _at_terminal():
        confirm_or_exit(f"Remove {source}?")
    with exit_on_error():
        freed = remove_encoder(source)
    if freed:
        print(f"{source}: removed, {freed / 1e6:,.1f} MB freed.")
    else:
        print(f"{Path(source).name}: removed from the list. Its files are unchanged.")
