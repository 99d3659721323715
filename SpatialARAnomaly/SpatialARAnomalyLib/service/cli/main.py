"""The command line: its groups of commands, one module each."""

import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from SpatialARAnomalyLib import __version__
from SpatialARAnomalyLib.engine.device import choose_threads
from SpatialARAnomalyLib.service.cli import (
    demo,
    detect,
    encoders,
    evaluate,
    models,
    setup,
    train,
    watch,
)
from SpatialARAnomalyLib.service.cli.common import exit_on_error

EPILOG = (
    "Exit codes: 0 done · 1 internal error · 2 bad input or usage, nothing was written · "
    "3 some of several scans were refused or failed · "
    "130 cancelled (Ctrl-C; a training resumes when its command is repeated). "
    "For research use only; not a medical device."
)


class Commands(TyperGroup):
    """The commands; an error that one of them does not expect is told like all others."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        with exit_on_error():
            return super().invoke(ctx)


app = typer.Typer(
    cls=Commands,
    help="Finds what does not look normal in a medical scan, by a model of your normal scans.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # importing rich would double the time of --help
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=train.NORMALS_EPILOG)(train.normals)
app.command(epilog=train.TRAIN_EPILOG)(train.train)
app.command(epilog=detect.EPILOG)(detect.detect)
app.command(epilog=watch.EPILOG)(watch.watch)
app.command(epilog=evaluate.EPILOG)(evaluate.evaluate)
app.command(epilog=demo.EPILOG)(demo.demo)
app.command(epilog=setup.DOCTOR_EPILOG)(setup.doctor)
app.command("offline-kit", epilog=setup.KIT_EPILOG)(setup.offline_kit)
app.command("install-offline", epilog=setup.OFFLINE_EPILOG)(setup.install_offline)
app.add_typer(models.app, name="models")
app.add_typer(encoders.app, name="encoders")


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the console cannot show becomes a stand-in, not an error.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with exit_on_error():  # also while the options are read
            app(prog_name="spatial-ar-anomaly")
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(__version__)
        raise typer.Exit
    return wanted  # the value of the parameter


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", min=1, help="Threads of the CPU to compute with.  [default: all cores]"
        ),
    ] = None,
) -> None:
    """Apply the options that come before a command."""
    choose_threads(threads)
