"""The commands `encoders …`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine.device import Device
from ..engine.encoder_card import DEMONSTRATION
from .cli_common import ENCODER_HELP, DeviceOption, DownloadOption, JsonOption, run_job

if TYPE_CHECKING:
    from .events import EventReporter

app = typer.Typer(help="Check the encoders that embed slices.", no_args_is_help=True)


@app.command("check")
def encoders_check(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=ENCODER_HELP)] = DEMONSTRATION,
    size_px: Annotated[int, typer.Option("--size-px", help="Side of the test slice.")] = 448,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    as_json: JsonOption = False,
) -> None:
    """Load an encoder, embed a test slice, and say what it is and how fast it is here."""

    def job(report: "EventReporter") -> Any:
        from .encoder_check import check_encoder

        return check_encoder(source, size_px, device, allow_download)

    def as_result(check: Any) -> dict[str, Any]:
        result: dict[str, Any] = check.to_dict()
        return result

    def show(check: Any) -> None:
        from .tables import print_encoder_check

        print_encoder_check(check)

    run_job(job, as_result, show, as_json=as_json, device=device)
