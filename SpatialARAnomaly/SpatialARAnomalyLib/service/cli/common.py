"""Options, progress, cancelling, errors and exit codes of all commands."""

import inspect
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.device import Device
from SpatialARAnomalyLib.engine.errors import Cancelled, SpatialARError
from SpatialARAnomalyLib.engine.specs import FindingsSpec, Orientation
from SpatialARAnomalyLib.service.cli.hints import hint
from SpatialARAnomalyLib.service.events import (
    PROTOCOL,
    CancelledEvent,
    Event,
    EventReporter,
    FailedEvent,
    HelloEvent,
    ResultEvent,
    as_user_error,
    internal_error,
    to_json,
)

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INCOMPLETE = 3
EXIT_CANCELLED = 130

Outcome = tuple[dict[str, Any], Callable[[], None]]
"""Result of a job: its values for JSON, and a function that prints them for a person."""

DeviceOption = Annotated[
    Device, typer.Option("--device", help="Where to compute; 'auto' takes the fastest device.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print events as JSON lines on stdout instead.")
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace existing results of the same name.")
]
DownloadOption = Annotated[
    bool,
    typer.Option("--allow-download", help="Allow downloading encoder weights from the hub."),
]
MismatchOption = Annotated[
    bool,
    typer.Option(
        "--allow-mismatch", help="Score scans of another modality, spacing or size as well."
    ),
]
OrientationOption = Annotated[
    Orientation | None,
    typer.Option(
        "--orientation", help="Which form of a NIfTI file counts, where its two disagree."
    ),
]
ModelOption = Annotated[Path, typer.Option("--model", help="The model file.")]
ResultsOption = Annotated[Path, typer.Option("--out", help="The folder for the results.")]
ModelEncoderOption = Annotated[
    str | None,
    typer.Option("--encoder", help="Where the model's encoder is, if it was moved."),
]
FalsePositiveRateOption = Annotated[
    float,
    typer.Option("--false-positive-rate", help="Share of normal body voxels above the threshold."),
]
MinVolumeOption = Annotated[
    float, typer.Option("--min-volume-ml", help="Smallest volume of a finding in mL.")
]
JobsOption = Annotated[
    int,
    typer.Option("--jobs", min=1, help="Number of processes, each with the model in memory."),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="Compute on a Dask cluster: 'local' or 'slurm' starts one of --jobs workers; or the "
        "address of a scheduler, such as tcp://host:8786.",
    ),
]
WorkerMemoryOption = Annotated[
    str | None,
    typer.Option("--worker-memory", help="Memory limit of a worker of the cluster, such as 8GB."),
]
RefineOption = Annotated[
    bool,
    typer.Option("--refine-outlines", help="Move outlines to image edges, by at most a token."),
]
ENCODER_HELP = (
    "'demonstration', a transformers folder, a .safetensors file (timm's or Meta's layout), "
    "or a hub id such as timm/vit_small_patch16_dinov3.lvd1689m."
)


def _results_options(
    encoder: ModelEncoderOption = None,
    false_positive_rate: FalsePositiveRateOption = FindingsSpec.false_positive_rate,
    min_volume_ml: MinVolumeOption = FindingsSpec.min_volume_ml,
    refine_outlines: RefineOption = FindingsSpec.refine_outlines,
    allow_mismatch: MismatchOption = False,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Options of the commands that detect; fields of `ResultsSpec`."""


def with_results_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command with `**options` the options of a detection, before its `as_json`."""
    *first, as_json, _ = inspect.signature(command).parameters.values()
    shared = inspect.signature(_results_options).parameters.values()
    command.__signature__ = inspect.Signature([*first, *shared, as_json])  # type: ignore[attr-defined]
    return command


@contextmanager
def _cancel_on_signal() -> Iterator[Callable[[], bool]]:
    """Give a function that returns whether Ctrl-C, SIGTERM or SIGHUP (a closed terminal) came.

    A second one stops at once.
    """
    cancelled = False

    def cancel(number: int, frame: object) -> None:
        nonlocal cancelled
        if cancelled:
            raise KeyboardInterrupt
        cancelled = True

    if threading.current_thread() is not threading.main_thread():  # Python allows no other
        yield lambda: False
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    # `nohup` ignores it, and that stays so.
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, cancel) for number in numbers]
    try:
        yield lambda: cancelled
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def fail(error: SpatialARError) -> NoReturn:
    """Print an error with its code and hint, and exit with the code of bad input."""
    print(f"Error: {error.message} [{error.code}]", file=sys.stderr)
    if text := hint(error):
        print(text, file=sys.stderr)
    raise typer.Exit(EXIT_BAD_INPUT)


def confirm_or_exit(question: str) -> None:
    """Ask a question on stderr, and exit with the code of a cancel unless the answer is yes."""
    try:
        if typer.confirm(question, err=True):
            return
    except typer.Abort:  # Ctrl-C, or the end of the input
        print(file=sys.stderr)
    print("Cancelled. Nothing was changed.", file=sys.stderr)
    raise typer.Exit(EXIT_CANCELLED)


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Print an error of the body that the user can act on, as `fail` does."""
    try:
        yield
    except Exception as error:
        known = as_user_error(error)
        if known is None:
            raise
        fail(known)


def _print_json(event: Event) -> None:
    print(json.dumps(to_json(event, job=1)), flush=True)


def run_job(
    job: Callable[[EventReporter], Outcome], *, as_json: bool, device: Device = Device.AUTO
) -> None:
    """Run a job; show progress, result or error, as text or as JSON; set the exit code."""
    if as_json:
        view: Callable[[Event], None] = _print_json
        shown: AbstractContextManager[object] = nullcontext()
    else:
        # rich loads only for people.
        from SpatialARAnomalyLib.service.cli.progress import TerminalProgress

        view = shown = TerminalProgress()
    view(HelloEvent(protocol=PROTOCOL, engine=__version__, pid=os.getpid(), device=device.value))
    try:
        with _cancel_on_signal() as cancelled, shown:
            result, show = job(EventReporter(view, cancelled))
    except BrokenPipeError:  # the reader is gone; flushing at exit must not fail again
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise typer.Exit(EXIT_CANCELLED) from None
    except (Cancelled, KeyboardInterrupt) as stop:
        if as_json:
            view(CancelledEvent())
        else:
            kept = str(stop) or "Nothing was written under its final name."
            print(f"Cancelled. {kept}", file=sys.stderr)
        raise typer.Exit(EXIT_CANCELLED) from None
    except Exception as error:
        known = as_user_error(error)
        if known is None:
            traceback.print_exc()
        elif not as_json:
            fail(known)
        if as_json:
            reported = known or internal_error(error)
            text, facts = reported.message, reported.facts
            view(FailedEvent(code=reported.code, text=text, facts=facts, hint=hint(reported)))
        raise typer.Exit(EXIT_FAILED if known is None else EXIT_BAD_INPUT) from None
    if as_json:
        view(ResultEvent(result=result))
    else:
        show()
