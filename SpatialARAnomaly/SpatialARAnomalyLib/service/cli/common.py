"""What all commands share: options, progress, cancel, errors and exit codes."""

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import (
    Cancelled,
    SpatialARError,
)
from SpatialARAnomalyLib.service.cli.hints import hint
from SpatialARAnomalyLib.service.events import (
    as_user_error,
    internal_error,
)

if TYPE_CHECKING:
    from SpatialARAnomalyLib.service.events import EventReporter


EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_CANCELLED = 130

Result = TypeVar("Result")

DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where to compute; 'auto' takes the fastest there is.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print events as JSON lines on stdout instead.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing results of the same name.")
]
DownloadOption = Annotated[
    bool,
    typer.Option("--allow-download", help="Allow fetching encoder weights from the hub."),
]
ENCODER_HELP = (
    "'demonstration', a transformers folder, a .safetensors file (timm's or Meta's layout), "
    "or a hub id such as timm/vit_small_patch16_dinov3.lvd1689m."
)


@contextmanager
def _cancel_on_signal() -> Iterator[Callable[[], bool]]:
    """Gives a function that tells whether Ctrl-C (or SIGTERM) came; a second one stops at once."""
    asked = False

    def note(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    if threading.current_thread() is not threading.main_thread():  # Python allows no other
        yield lambda: False
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, note) for number in numbers]
    try:
        yield lambda: asked
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def fail(error: SpatialARError) -> NoReturn:
    """Say what is wrong and end with the exit code of bad input."""
    print(f"Error: {error.message}", file=sys.stderr)
    if what_to_do := hint(error):
        print(what_to_do, file=sys.stderr)
    raise typer.Exit(EXIT_BAD_INPUT)


def run_job(
    job: "Callable[[EventReporter], Result]",
    as_result: Callable[[Result], dict[str, Any]],
    show: Callable[[Result], None],
    *,
    as_json: bool,
    device: Device,
) -> None:
    """Run a job with progress, cancel and errors told in the way asked for; sets the exit code."""
    from SpatialARAnomalyLib.service.cli.progress import (
        JsonLines,
        TerminalProgress,
    )
    from SpatialARAnomalyLib.service.events import (
        PROTOCOL,
        CancelledEvent,
        EventReporter,
        FailedEvent,
        HelloEvent,
        ResultEvent,
    )

    view: JsonLines | TerminalProgress = JsonLines() if as_json else TerminalProgress()
    view(HelloEvent(protocol=PROTOCOL, engine=__version__, pid=os.getpid(), device=device.value))
    try:
        with _cancel_on_signal() as cancelled, view:
            result = job(EventReporter(view, cancelled))
    except BrokenPipeError:  # nobody reads on; what is left unsaid must not fail at exit
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise typer.Exit(EXIT_CANCELLED) from None
    except (Cancelled, KeyboardInterrupt):
        if as_json:
            view(CancelledEvent())
        else:
            print("Cancelled. Nothing was written under its final name.", file=sys.stderr)
        raise typer.Exit(EXIT_CANCELLED) from None
    except Exception as error:
        known = as_user_error(error)
        if known is None:
            traceback.print_exc()
            known = internal_error(error)
            code = EXIT_FAILED
        else:
            code = EXIT_BAD_INPUT
        if as_json:
            view(
                FailedEvent(
                    code=known.code, text=known.message, facts=known.facts, hint=hint(known)
                )
            )
            raise typer.Exit(code) from None
        if code == EXIT_FAILED:
            raise typer.Exit(code) from None
        fail(known)
    if as_json:
        view(ResultEvent(result=as_result(result)))
    else:
        show(result)


ModelOption = Annotated[Path, typer.Option("--model", help="The model file.")]
ResultsOption = Annotated[Path, typer.Option("--out", help="The folder for the results.")]
ModelEncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Where the model's encoder is now, if it moved."),
]
FalsePositiveRateOption = Annotated[
    float,
    typer.Option("--false-positive-rate", help="Share of normal body voxels above the threshold."),
]
MinVolumeOption = Annotated[
    float, typer.Option("--min-volume-ml", help="Smaller regions are not findings.")
]
