"""The command line: train, detect, models, encoders, demo."""

import io
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

from .. import __version__
from ..engine.device import Device
from ..engine.encoder_card import DEMONSTRATION
from ..engine.errors import Cancelled, SpatialARError
from ..engine.specs import (
    AutoregressiveSpec,
    FindingsSpec,
    Modality,
    Plane,
    Preset,
    TrainingSpec,
    Variance,
)
from .user_errors import as_user_error, internal_error

if TYPE_CHECKING:
    from .events import EventReporter

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_CANCELLED = 130

EPILOG = (
    "Exit codes: 0 done · 1 internal error · 2 bad input or usage, nothing was written · "
    "130 cancelled (Ctrl-C; a training resumes when its command is repeated). "
    "For research use only; not a medical device."
)

app = typer.Typer(
    help="Finds what does not look normal in a medical scan, by a model of your normal scans.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="Look at and verify model folders.", no_args_is_help=True)
encoders_app = typer.Typer(help="Check the encoders that embed slices.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(encoders_app, name="encoders")

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


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A console of few characters shows a stand-in rather than an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="spatial-ar-anomaly")


def _print_version(asked: bool) -> bool:
    if asked:
        print(__version__)
        raise typer.Exit
    return asked


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Hold the options of the command line itself."""


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


def _fail(error: SpatialARError) -> NoReturn:
    print(f"Error: {error.message}", file=sys.stderr)
    if error.hint:
        print(error.hint, file=sys.stderr)
    raise typer.Exit(EXIT_BAD_INPUT)


def _run(
    job: "Callable[[EventReporter], Result]",
    as_result: Callable[[Result], dict[str, Any]],
    show: Callable[[Result], None],
    *,
    as_json: bool,
    device: Device,
) -> None:
    """Run a job with progress, cancel and errors told in the way asked for; sets the exit code."""
    from .console import JsonLines, TerminalProgress
    from .events import (
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
            view(FailedEvent(code=known.code, text=known.message, hint=known.hint))
            raise typer.Exit(code) from None
        if code == EXIT_FAILED:
            raise typer.Exit(code) from None
        _fail(known)
    if as_json:
        view(ResultEvent(result=as_result(result)))
    else:
        show(result)


@app.command(
    epilog="Example: spatial-ar-anomaly train normals/*.nii.gz --out brain-t1 "
    "--encoder timm/vit_small_patch16_dinov3.lvd1689m --allow-download"
)
def train(
    normals: Annotated[
        list[Path],
        typer.Argument(
            metavar="NORMAL...",
            help="Normal scans: NIfTI, NRRD or MHA files, folders of them, DICOM series folders.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model.  [default: the folder's]")
    ] = None,
    modality: Annotated[
        Modality | None,
        typer.Option("--modality", help="What the scans are.  [default: what they look like]"),
    ] = None,
    plane: Annotated[Plane, typer.Option("--plane", help="Plane of the slices.")] = Plane.AXIAL,
    preset: Annotated[
        Preset,
        typer.Option("--preset", help="The paper's network: dilation 1 (standard) or 4 (dilated)."),
    ] = Preset.STANDARD,
    variance: Annotated[
        Variance,
        typer.Option("--variance", help="One variance for all channels, or one per channel."),
    ] = Variance.FIXED,
    encoder: Annotated[str, typer.Option("--encoder", help=ENCODER_HELP)] = DEMONSTRATION,
    fov_mm: Annotated[
        float | None,
        typer.Option("--fov-mm", help="Side of a slice in mm.  [default: 1.1 × the largest body]"),
    ] = None,
    size_px: Annotated[int, typer.Option("--size-px", help="Side of a slice in pixels.")] = 448,
    window_hu: Annotated[
        tuple[float, float] | None,
        typer.Option("--window-hu", help="CT window, low and high.  [default: -160 240]"),
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", help="Passes over the slices.")
    ] = TrainingSpec.epochs,
    batch_size: Annotated[
        int, typer.Option("--batch-size", help="Slices per step.")
    ] = TrainingSpec.batch_size,
    learning_rate: Annotated[
        float, typer.Option("--learning-rate", help="Of AdamW, constant.")
    ] = TrainingSpec.learning_rate,
    held_out_share: Annotated[
        float,
        typer.Option(
            "--held-out-share", help="Share of the scans kept for selection and calibration."
        ),
    ] = TrainingSpec.held_out_share,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = TrainingSpec.seed,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Discard an unfinished training instead of resuming it."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Learn what is normal from normal scans. Repeat an interrupted command to resume it."""

    def job(report: "EventReporter") -> Any:
        from .train_job import TrainRequest
        from .train_job import train as run

        request = TrainRequest(
            normals=tuple(normals),
            out=out,
            name=name,
            modality=modality,
            plane=plane,
            fov_mm=fov_mm,
            size_px=size_px,
            window_hu=window_hu,
            encoder=encoder,
            autoregressive=AutoregressiveSpec.from_preset(preset, variance),
            training=TrainingSpec(
                epochs=epochs,
                batch_size=batch_size,
                learning_rate=learning_rate,
                held_out_share=held_out_share,
                seed=seed,
            ),
            device=device,
            allow_download=allow_download,
            overwrite=overwrite,
            restart=restart,
        )
        return run(request, report)

    def as_result(card: Any) -> dict[str, Any]:
        from .train_job import as_result

        return as_result(card)

    def show(card: Any) -> None:
        from .tables import print_card

        print_card(card)

    _run(job, as_result, show, as_json=as_json, device=device)


@app.command(epilog="Example: spatial-ar-anomaly detect scan.nii.gz --model brain-t1 --out results")
def detect(
    input_: Annotated[
        Path,
        typer.Argument(metavar="INPUT", help="A NIfTI, NRRD or MHA file, or a DICOM folder."),
    ],
    model: Annotated[Path, typer.Option("--model", help="The model folder.")],
    out: Annotated[Path, typer.Option("--out", help="The folder for the results.")],
    series: Annotated[
        str | None, typer.Option("--series", help="DICOM series number or UID to take.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the results.  [default: the input's]")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Where the model's encoder is now, if it moved."),
    ] = None,
    false_positive_rate: Annotated[
        float,
        typer.Option(
            "--false-positive-rate", help="Share of normal body voxels above the threshold."
        ),
    ] = FindingsSpec.false_positive_rate,
    min_volume_ml: Annotated[
        float, typer.Option("--min-volume-ml", help="Smaller regions are not findings.")
    ] = FindingsSpec.min_volume_ml,
    allow_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-mismatch", help="Score a scan of other modality, spacing or size all the same."
        ),
    ] = False,
    device: DeviceOption = Device.AUTO,
    allow_download: DownloadOption = False,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find what does not look normal in a scan.

    Writes the NLL volume, a segmentation, a label map, the findings as CSV, a
    review picture and a manifest (run.json).
    """

    def job(report: "EventReporter") -> Any:
        from .detect_job import DetectRequest
        from .detect_job import detect as run

        request = DetectRequest(
            input=input_,
            model=model,
            out=out,
            series=series,
            name=name,
            encoder=encoder,
            findings=FindingsSpec(
                false_positive_rate=false_positive_rate, min_volume_ml=min_volume_ml
            ),
            device=device,
            allow_download=allow_download,
            allow_mismatch=allow_mismatch,
            overwrite=overwrite,
        )
        return run(request, report)

    def as_result(outcome: Any) -> dict[str, Any]:
        from .result_files import as_result

        return as_result(*outcome)

    def show(outcome: Any) -> None:
        from .tables import print_detection

        print_detection(*outcome)

    _run(job, as_result, show, as_json=as_json, device=device)


@models_app.command("show")
def models_show(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the card as JSON.")] = False,
) -> None:
    """Show a model's card: what it was trained on and how, after verifying it."""
    import json

    from ..engine.model_store import read_card
    from .tables import print_card

    try:
        card = read_card(model)
    except SpatialARError as error:
        _fail(error)
    if as_json:
        print(json.dumps(card.to_dict(), indent=1))
    else:
        print_card(card)


@models_app.command("verify")
def models_verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The model folder.")],
) -> None:
    """Verify that a model is complete and as it was trained (schema, hashes, tensor shapes)."""
    from ..engine.model_store import verify_model

    try:
        card = verify_model(model)
    except SpatialARError as error:
        _fail(error)
    print(f"{card.name}: complete and unchanged (weights {card.weights_sha256[:12]}…)")


@encoders_app.command("check")
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

    _run(job, as_result, show, as_json=as_json, device=device)


@app.command(epilog="Example: spatial-ar-anomaly demo --out my-demo")
def demo(
    out: Annotated[
        Path, typer.Option("--out", help="The folder for volumes, model and results.")
    ] = Path("spatial-ar-anomaly-demo"),
    seed: Annotated[int, typer.Option("--seed", help="Of the anatomy and the lesion.")] = 1,
    device: DeviceOption = Device.AUTO,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on seeded normal anatomy, then find a lesion: the whole program in minutes."""

    def job(report: "EventReporter") -> Any:
        from .demo import run_demo

        return run_demo(out, seed, device, overwrite, report)

    def as_result(outcome: Any) -> dict[str, Any]:
        from .result_files import as_result

        return as_result(outcome.detection, outcome.files) | {"dice": outcome.dice}

    def show(outcome: Any) -> None:
        from .tables import print_demo

        print_demo(outcome)

    _run(job, as_result, show, as_json=as_json, device=device)
