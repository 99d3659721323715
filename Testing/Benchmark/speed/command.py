"""The command: runs parts, prints their tables, appends a JSON line, draws pictures."""

import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from Benchmark.speed.parts import PARTS, part
from Benchmark.speed.tables import Options, Table
from rich.console import Console
from SpatialARAnomalyLib.engine.device import Device

RESULTS = Path(__file__).parents[1] / "speed_results.jsonl"
QUICK_REPEATS = 2
FILE_WIDTH = 160
"""Line length in characters without a terminal."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def _chosen(only: str | None) -> list[str]:
    names = [name.strip() for name in only.split(",")] if only else list(PARTS)
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)} not known; known: {', '.join(PARTS)}")
    return names


@app.command()
def speed(
    only: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Only these parts; see --list.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny sizes, to check that everything runs.")
    ] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Repeats of every comparison.")] = 7,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.AUTO,
    results: Annotated[Path, typer.Option(help="File to which a JSON line is appended.")] = RESULTS,
    markdown: Annotated[
        Path | None, typer.Option(help="Markdown file for all tables; replaced.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for encoders and scans, kept for the next run.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the parts and exit.")] = False,
) -> None:
    """Measure speed and memory of the program beside the machine's limits."""
    if listed:
        for name, description in PARTS.items():
            typer.echo(f"{name:16}{description}")
        return
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    names = _chosen(only)
    from Benchmark.speed.machine import machine_facts
    from SpatialARAnomalyLib.engine.device import resolve_device

    where = resolve_device(device)
    facts = machine_facts(where)
    for key, value in facts.items():
        console.print(f"{key}: {value}", highlight=False)
    if quick:
        console.print("Tiny sizes: the figures have no meaning.")
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        options = Options(
            device=where,
            quick=quick,
            repeats=min(repeats, QUICK_REPEATS) if quick else repeats,
            pictures=pictures,
            work=folder,
        )
        tables: list[Table] = []
        seconds: dict[str, float] = {}
        # Keeps the measurements made before a part fails or Ctrl-C.
        try:
            for name in names:
                start = time.perf_counter()
                found = part(name)(options)
                seconds[name] = round(time.perf_counter() - start, 1)
                tables += found
                for table in found:
                    console.print(table.rich())
                console.print(f"({name}: {seconds[name]:.0f} s)\n", highlight=False)
        finally:
            line = {
                "machine": facts,
                "quick": quick,
                "repeats": options.repeats,
                "seconds": seconds,
                "complete": list(seconds) == names,
                "tables": [table.to_json() for table in tables],
            }
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
            if markdown is not None:
                text = "\n".join(table.markdown() for table in tables)
                markdown.write_text(text, encoding="utf-8")
