"""Encoders as a table on stdout."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .encoder_catalog import DEFAULT_ID
from .encoder_library import EncoderEntry


def size_text(size_bytes: int, approximate: bool = False) -> str:
    """Bytes in the unit that fits, decimal as the hub's pages give them: `86.4 MB`."""
    value, unit = (size_bytes / 1e9, "GB") if size_bytes >= 1e9 else (size_bytes / 1e6, "MB")
    return f"{'about ' if approximate else ''}{value:.3g} {unit}"


def print_encoders(entries: Sequence[EncoderEntry]) -> None:
    """Print which encoders there are, what they need, and which are here."""
    table = Table(title="Encoders", title_justify="left")
    table.add_column("source", overflow="fold")
    for heading in ("title", "download", "memory", "gated", "on this machine"):
        table.add_column(heading)
    for entry in entries:
        known = entry.known
        table.add_row(
            Text(entry.source),
            Text(entry.title + (" (default)" if entry.source == DEFAULT_ID else "")),
            size_text(known.download_bytes, known.approximate) if known else "",
            size_text(known.memory_bytes, True) if known else "",
            ("yes" if known.gated else "no") if known else "",
            _here(entry),
        )
    Console().print(table)


def _here(entry: EncoderEntry) -> str:
    size = size_text(entry.disk_bytes)
    if entry.own:
        return f"{size}, your own"
    if entry.interrupted:
        return f"{size}, interrupted"
    return size if entry.here else ""
