"""Lists of models on stdout."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .encoder_presence import EncoderState
from .model_list import ModelRow


def print_models(rows: Sequence[ModelRow]) -> None:
    """Print models as a table, and below it what is wrong or missing and what to do."""
    if not rows:
        print("No models.")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("name", "modality", "plane"):
        table.add_column(heading)
    table.add_column("field of view", justify="right")
    table.add_column("encoder", overflow="fold")
    for heading in ("normals", "date", "size"):
        table.add_column(heading, justify="right")
    for row in rows:
        # As text: what is in brackets is a name, not rich's markup.
        table.add_row(*(Text(one) for one in _cells(row)))
    console = Console()
    console.print(table)
    for row in rows:
        for line in _remarks(row):
            console.print(Text(f"{row.name}: {line}"), soft_wrap=True)


def _cells(row: ModelRow) -> tuple[str, ...]:
    size = f"{row.bytes / 1e6:.1f} MB"
    if row.problem is not None:
        return (row.name, "cannot be used", "", "", "", "", "", size)
    here = row.presence is not None and row.presence.here
    return (
        row.name,
        row.modality or "",
        row.plane or "",
        f"{row.fov_mm:g} mm",
        f"{row.encoder}{'' if here else ' (not here)'}",
        str(row.normals),
        row.created or "",
        size,
    )


def _remarks(row: ModelRow) -> list[str]:
    if row.problem is not None:
        return [f"{row.problem} {row.hint or ''}".strip()]
    if row.encoder_state is EncoderState.OBTAINABLE:
        return [
            f"its encoder is not on this machine; get it with: "
            f"spatial-ar-anomaly encoders get {row.encoder_hub_id}"
        ]
    if row.encoder_state is EncoderState.MISSING:
        return [
            "its encoder is not on this machine; copy it from where the model was trained, and "
            "add it with: spatial-ar-anomaly encoders add FOLDER_OR_FILE"
        ]
    return []
